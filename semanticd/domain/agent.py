"""An agent: the durable owner of a cached conversation, and the turns it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Literal

from semanticd.domain.chat import Message, ToolSpec
from semanticd.domain.conversation_key import ConversationKey
from semanticd.domain.generation import CacheReport, Priority, Timings
from semanticd.domain.ids import AgentId, BlockHash, ModelFingerprint, RequestId
from semanticd.domain.snapshots import Snapshot
from semanticd.domain.transcript import Continuation, Transcript

AgentState = Literal["cold", "warm", "hot", "active"]

MAX_TURNS_KEPT = 200

_num_segments = attrgetter("num_segments")


@dataclass(frozen=True, slots=True)
class Turn:
    """One answered request of an agent.

    `num_segments` says how much of the agent's transcript, as it is now, is what the conversation was after this turn:
    less than it was then, where a later prompt departed from it.
    """

    request_id: RequestId
    finished_at: float
    """Seconds since the epoch."""
    prompt_tokens: int
    completion_tokens: int
    num_segments: int
    cache: CacheReport
    timings: Timings
    finish_reason: str
    """A `FinishReason`, or `kv_budget`: the answer ended where the KV budget had no room for more."""
    decode_steps: int = 0
    """Decode steps that its answer took, fewer than its tokens where drafts were right; 0: not known."""
    wait_reason: str | None = None
    """Longest wait before it was computed, one of `WaitReason`; None: no wait was observed."""


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The settings that a client fixed when it created the agent (all optional)."""

    model: str | None = None
    system: str | None = None
    tools: tuple[ToolSpec, ...] = ()
    ttl_s: float | None = None
    priority: Priority = "interactive"
    metadata: Mapping[str, str] = field(default_factory=dict)


class Retained:
    """The common part of an agent and its summary: the end of its pin."""

    __slots__ = ()

    pinned: bool
    pinned_until: float | None
    kept_until: float | None

    def is_pinned(self, now: float) -> bool:
        """Return whether a pin protects its blocks from eviction at this time (seconds since the epoch)."""
        return self.pinned or (self.pinned_until is not None and now < self.pinned_until)

    def is_kept(self, now: float) -> bool:
        """Return whether its blocks are evicted last at this time (seconds since the epoch)."""
        return self.kept_until is not None and now < self.kept_until


@dataclass(frozen=True, slots=True)
class Agent(Retained):
    """A stored agent; its blocks are named, not held.

    `block_table` lists the hashes of the blocks of its last prompt and answer, first to last, for `model`; behind them
    those of the snapshots and their tails.
    """

    agent_id: AgentId
    created_at: float
    last_used_at: float
    config: AgentConfig = AgentConfig()
    anonymous: bool = False
    pinned: bool = False
    pinned_until: float | None = None
    """Seconds since the epoch until which an operator pinned it."""
    kept_until: float | None = None
    """Seconds since the epoch until which a client asked to keep its blocks: they are evicted after those of others."""
    model: ModelFingerprint | None = None
    model_id: str = ""
    salt: str = ""
    """Set where it came from an untrusted file: keeps its blocks and transcript apart from all others."""
    conversation: ConversationKey | None = None
    """Key that identifies its main conversation; None before its first turn, and in records of older versions."""
    transcript: Transcript = field(default_factory=Transcript)
    messages: tuple[Message, ...] = ()
    """The conversation the server keeps for it (Direct Agent API only)."""
    block_table: tuple[BlockHash, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    """Of layers that cannot be cut: what the table's end holds, with positions."""
    turns: tuple[Turn, ...] = ()
    num_turns: int = 0

    def with_transcript(self, continuation: Continuation) -> Agent:
        """Return the agent with its transcript's next state; its turns then say what of it is theirs."""
        turns = self.turns
        if turns:
            earlier, shared = turns[:-1], continuation.num_shared
            # As a rule nothing changes: this is done at each turn's end, and there may be hundreds of turns.
            if max(map(_num_segments, earlier), default=0) > shared:
                earlier = tuple(_within(one, shared) for one in earlier)
            turns = (*earlier, replace(turns[-1], num_segments=continuation.num_before))
        return replace(self, turns=turns, transcript=Transcript(continuation.segments))

    def with_turn(self, turn: Turn, *, now: float) -> Agent:
        """Return the agent after one more turn; only the last `MAX_TURNS_KEPT` are kept."""
        return replace(
            self, turns=(*self.turns, turn)[-MAX_TURNS_KEPT:], num_turns=self.num_turns + 1, last_used_at=now
        )

    def transcript_before(self, turns: int) -> Transcript:
        """Return what of the transcript is known to come before the last `turns` turns."""
        left, gone = self.turns[:-turns], self.turns[-turns:]
        if not left:
            return Transcript()
        known = Transcript(self.transcript.segments[: left[-1].num_segments])
        shortest = min(turn.prompt_tokens for turn in gone)
        # Earlier versions noted a transcript's length only, also where a later prompt had replaced it.
        while known.segments and known.num_tokens >= shortest and known.num_tokens > left[-1].prompt_tokens:
            known = Transcript(known.segments[:-1])
        return known

    def expires_at(self) -> float | None:
        """Return the time at which its time to live ends (seconds since the epoch), or None."""
        return None if self.config.ttl_s is None else self.last_used_at + self.config.ttl_s


def _within(turn: Turn, num_segments: int) -> Turn:
    return turn if turn.num_segments <= num_segments else replace(turn, num_segments=num_segments)
