"""The facts about an agent: its numbers, its turns, its conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from semanticd.application.services.plain import AS_CLASS, FLAT, IF_KNOWN
from semanticd.application.services.savings import SavedFacts
from semanticd.domain.agent import AgentState, Turn
from semanticd.domain.chat import Message, Part, Role, TextPart, ThinkingPart, ToolCallPart
from semanticd.domain.generation import CacheMiss, CacheTier, Priority
from semanticd.domain.ids import AgentId, RequestId
from semanticd.domain.whole_text import whole_characters, whole_texts


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """One agent in numbers; no text of its conversation. The `last_…` are None before the first turn."""

    id: AgentId
    anonymous: bool
    model: str
    num_tokens: int
    num_turns: int
    created_at: float
    last_used_at: float
    """Seconds since the epoch, as `created_at`."""
    priority: Priority = field(metadata=AS_CLASS)
    ttl_s: float | None
    last_reuse_ratio: float | None
    """Share of the last prompt's tokens that were not computed, 0 to 1."""
    last_ttft_ms: float | None
    last_tokens_per_s: float | None
    state: AgentState
    tier: CacheTier
    num_blocks: int
    num_hot_blocks: int
    hot_bytes: int
    own_hot_bytes: int
    shared_hot_bytes: int
    """Of `hot_bytes`, those of blocks that other agents hold too; `own_hot_bytes` are the rest."""
    warm_bytes: int
    pinned: bool
    """Whether an operator keeps its blocks from eviction."""
    kept: bool
    """Whether a client asked to keep its blocks: they are evicted after those of others."""
    shared_with: tuple[AgentId, ...]
    """Agents in memory that hold some of its blocks too, sixteen at most; `num_shared_with` counts them all."""
    num_shared_with: int
    num_errors: int
    """Requests that failed or were refused since the start."""
    saved_s: float
    """Seconds of prefill that the cache has saved it."""
    unsaved: bool = False
    """Whether its newest state is in memory only: the disk refused it, and it is tried again."""


@dataclass(frozen=True, slots=True)
class AgentList:
    """A page of agents: `num_agents` are in the whole list, the next page begins after `next` (None: there is none)."""

    agents: tuple[AgentFacts, ...]
    num_agents: int
    next: AgentId | None


@dataclass(frozen=True, slots=True)
class WatchedAgents:
    """The first event of a subscription: the agents used last, of `num_agents`."""

    agents: tuple[AgentFacts, ...]
    num_agents: int


@dataclass(frozen=True, slots=True)
class AgentUpdate:
    """The changes since the last update: new and changed rows, and agents that are no longer watched."""

    agents: tuple[AgentFacts, ...]
    removed: tuple[AgentId, ...]
    num_agents: int
    changes: bool = True
    """Distinguishes it from a whole list."""


@dataclass(frozen=True, slots=True)
class AgentTotals:
    """All agents in one sum."""

    num_agents: int
    by_state: Mapping[AgentState, int]
    num_pinned: int
    num_tokens: int
    num_turns: int


@dataclass(frozen=True, slots=True)
class TurnFacts:
    """One answered request: what its prompt reused, restored and computed (in tokens), and how long it took."""

    request_id: RequestId
    finished_at: float
    prompt_tokens: int
    completion_tokens: int
    reused_hot_tokens: int
    restored_warm_tokens: int
    computed_tokens: int
    tier: CacheTier
    miss: CacheMiss | None
    canonicalized: tuple[str, ...]
    ttft_ms: float
    queue_ms: float
    restore_ms: float
    prefill_ms: float
    decode_ms: float
    decode_steps: int
    """Fewer than the answer's tokens where drafts were right; 0: not known."""
    finish_reason: str


def turn_facts(turn: Turn) -> TurnFacts:
    """Return a turn's facts."""
    cache, timings = turn.cache, turn.timings
    return TurnFacts(
        request_id=turn.request_id,
        finished_at=turn.finished_at,
        prompt_tokens=turn.prompt_tokens,
        completion_tokens=turn.completion_tokens,
        reused_hot_tokens=cache.reused_hot_tokens,
        restored_warm_tokens=cache.restored_warm_tokens,
        computed_tokens=cache.computed_tokens,
        tier=cache.tier,
        miss=cache.miss,
        canonicalized=cache.canonicalized,
        ttft_ms=timings.ttft_ms,
        queue_ms=timings.queue_ms,
        restore_ms=timings.restore_ms,
        prefill_ms=timings.prefill_ms,
        decode_ms=timings.decode_ms,
        decode_steps=turn.decode_steps,
        finish_reason=turn.finish_reason,
    )


@dataclass(frozen=True, slots=True)
class TurnReport:
    """A turn, its longest wait (None: none) and the agent ahead of it, and a verdict in one sentence."""

    turn: TurnFacts = field(metadata=FLAT)
    wait_reason: str | None
    wait_behind: str | None
    verdict: str


@dataclass(frozen=True, slots=True)
class SharedBlocks:
    """Hot blocks that another agent holds too; `bytes` of their tensors."""

    agent: AgentId
    num_blocks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class AgentDetails:
    """One agent with its configuration and its turns; the agents that share most come first."""

    agent: AgentFacts = field(metadata=FLAT)
    system: str | None
    tools: tuple[str, ...]
    """Names."""
    metadata: Mapping[str, str]
    turns: tuple[TurnReport, ...]
    sharing: tuple[SharedBlocks, ...]
    savings: SavedFacts


@dataclass(frozen=True, slots=True)
class CacheHistory:
    """The reuse of an agent's last requests, with causes; `last` is the newest."""

    id: AgentId
    last: TurnReport | None
    turns: tuple[TurnReport, ...]


@dataclass(frozen=True, slots=True)
class ShownText:
    """Text of a message that has other parts too."""

    type: Literal["text"]
    text: str


@dataclass(frozen=True, slots=True)
class ShownThinking:
    """The model's thinking."""

    type: Literal["thinking"]
    thinking: str


@dataclass(frozen=True, slots=True)
class ShownToolCall:
    """A call that the model made."""

    type: Literal["tool_call"]
    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ShownToolResult:
    """The client's result of the call `id`."""

    type: Literal["tool_result"]
    id: str
    content: str
    is_error: bool


ShownPart = ShownText | ShownThinking | ShownToolCall | ShownToolResult


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """One message of a conversation; `role` is `transcript` where the clients keep the conversation themselves."""

    role: Role | Literal["transcript"]
    content: str | tuple[ShownPart, ...]
    """The text, where the message is nothing else; else its parts."""
    num_tokens: int | None = field(default=None, metadata=IF_KNOWN)
    """Tokens of a part of the transcript: with them a watcher sees where the cached part of a prompt ended."""


def shown_message(message: Message) -> ShownMessage:
    """Return a message's facts."""
    parts = tuple(_shown_part(part) for part in message.parts)
    if len(parts) == 1 and isinstance(parts[0], ShownText):
        return ShownMessage(message.role, parts[0].text)
    return ShownMessage(message.role, parts)


def _shown_part(part: Part) -> ShownPart:
    if isinstance(part, TextPart):
        return ShownText("text", whole_characters(part.text))
    if isinstance(part, ThinkingPart):
        return ShownThinking("thinking", whole_characters(part.text))
    call_id = whole_characters(part.call_id)
    if isinstance(part, ToolCallPart):
        arguments = whole_texts(part.arguments)
        return ShownToolCall("tool_call", call_id, whole_characters(part.name), arguments)
    return ShownToolResult("tool_result", call_id, whole_characters(part.content), part.is_error)


@dataclass(frozen=True, slots=True)
class CancelledAgent:
    """An agent's cancelled requests; their computed tokens stay cached."""

    id: AgentId
    requests: tuple[RequestId, ...]


@dataclass(frozen=True, slots=True)
class EvictedAgent:
    """An agent whose blocks are on disk only, and the bytes of RAM that this freed."""

    agent: AgentFacts = field(metadata=FLAT)
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class DeletedAgent:
    """An agent that no longer exists, and the RAM that its own blocks used, in bytes."""

    id: AgentId
    deleted: bool
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class ImportedAgent:
    """An agent that came out of an export, and how many of the export's blocks were kept."""

    agent: AgentFacts = field(metadata=FLAT)
    num_imported_blocks: int
    num_file_blocks: int
