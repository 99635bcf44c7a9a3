"""The facts about the daemon: its state, its engine, its cache, and the requests in the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from semanticd.application.ports.peers import PeerFacts
from semanticd.application.services.agent_facts import ShownMessage
from semanticd.application.services.outcomes import OutcomeFacts
from semanticd.application.services.plain import AS_CLASS, FLAT, IF_KNOWN
from semanticd.application.services.savings import SavingsFacts
from semanticd.domain.block_pool import HotBlock
from semanticd.domain.generation import Priority, WaitReason
from semanticd.domain.ids import AgentId, ModelId, RequestId
from semanticd.domain.model_cache_spec import StoragePrecision
from semanticd.domain.sequence import SequenceState

if TYPE_CHECKING:  # loaded where a model is spread over machines, and nowhere else
    from semanticd.application.ports.ranks import RankFacts


@dataclass(frozen=True, slots=True)
class LoadedModelFacts:
    """One loaded model."""

    id: ModelId
    current: bool
    context_length: int
    weights_bytes: int
    bytes_per_token: int
    precision: StoragePrecision
    block_bytes: int
    """Bytes of a full block in RAM and, without its file's header, on disk."""
    compute_dtype: str | None = field(default=None, metadata=IF_KNOWN)
    """Data type of its layers: float32, bfloat16, float16."""
    warning: str | None = field(default=None, metadata=IF_KNOWN)
    """Reason why it is slow on this machine."""


@dataclass(frozen=True, slots=True)
class DraftSourceFacts:
    """Tokens that were guessed from one source and verified since the start, and those of them that were right."""

    source: str
    """`forced` (by a form), `own` (the sequence's text) or `earlier` (its agent's earlier answers)."""
    num_tokens: int
    num_accepted: int


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The engine's activity; speeds are of the current model, 0 where none was measured."""

    num_running: int
    num_waiting: int
    num_prefilling: int
    batch_size: int
    max_batch_size: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    decode_step_ms: float
    tokens_per_step: float
    """Tokens that a sequence got from each of the last decode steps: more than 1 where drafts were right."""
    num_draft_tokens: int
    """Tokens that were guessed and verified since the start."""
    num_accepted_tokens: int
    """Of them those that were right: each saved a decode step."""
    draft_sources: tuple[DraftSourceFacts, ...]
    """The same by what they were guessed from."""
    draining: bool
    failure: str | None


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """The byte ledger, both tiers, and counters since the start; a cap or budget of None means no limit."""

    budget_bytes: int
    planned_bytes: int
    """The budget while memory is not short; more than `budget_bytes` where that was lowered."""
    running_bytes: int
    hot_bytes: int
    pinned_bytes: int
    dirty_bytes: int
    in_flight_bytes: int
    promised_bytes: int
    free_bytes: int
    text_bytes: int
    """RAM of agents' conversations (texts and token ids) in bytes, outside the budget."""
    num_hot_blocks: int
    num_shared_blocks: int
    warm_bytes: int
    warm_cap_bytes: int | None
    num_warm_blocks: int
    num_quarantined: int
    recovered_share: float | None
    """Share of the cache folder scanned after an unclean end, from 0 to 1; None: finished."""
    free_disk_bytes: int | None
    """Free bytes on the warm tier's volume; None if unknown, or if the cache folder is gone."""
    disk_reserve_bytes: int
    """Bytes to keep free on it: no block is written below this."""
    num_refused_blocks: int
    """Blocks that were not written since the start: cap, reserve, budget, policy or a failing disk."""
    written_today_bytes: int
    write_budget_bytes: int | None
    hot_hit_tokens: int
    warm_hit_tokens: int
    computed_tokens: int
    evictions: Mapping[str, int]
    """By reason."""
    num_evictions: int
    num_lost_blocks: int
    num_skipped_blocks: int
    num_unsaved_agents: int
    """Agents whose newest state the disk refused: it is in memory only, and tried again."""
    num_unsaved_responses: int
    """Responses that the disk refused since the start: they are kept in memory only, while there is room."""
    folder_problem: str | None = field(default=None, metadata=IF_KNOWN)
    """Reason and remedy while the cache folder is gone from its path, with its volume for example."""


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The daemon in numbers."""

    fixed: Mapping[str, Any] = field(metadata=FLAT)
    """Constant facts: version, process id, address, socket."""
    state: str
    """starting, ready, no_model, draining or stopped."""
    uptime_s: float
    model: ModelId | None
    models: tuple[LoadedModelFacts, ...]
    model_stage: str
    model_progress: float
    """Of the stage, 0 to 1."""
    model_error: str | None
    free_memory_bytes: int
    """Of the machine, for another model."""
    engine: EngineFacts
    cache: CacheFacts
    outcomes: OutcomeFacts
    savings: SavingsFacts
    peers: tuple[PeerFacts, ...] = ()
    ranks: tuple[RankFacts, ...] = ()
    """The machines that compute the model together; none where this one computes it alone."""
    model_away: str | None = None
    """Reason why the model is missing that the ranks reload once all have joined; None: no model is missing."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """The cache in numbers, and its hot blocks (up to a limit)."""

    cache: CacheFacts = field(metadata=FLAT)
    blocks: tuple[HotBlock, ...]


@dataclass(frozen=True, slots=True)
class PrunedCache:
    """Bytes of files that were removed."""

    freed_bytes: int


@dataclass(frozen=True, slots=True)
class ClearedCache:
    """Bytes of blocks that were dropped: of tensors in RAM, and of files."""

    freed_hot_bytes: int
    freed_warm_bytes: int


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """One request in the engine, or on its way to it.

    `ttft_ms`, `tokens_per_s` and `tokens_per_step` are None before its first token.
    """

    id: RequestId
    agent: AgentId
    model: ModelId
    state: SequenceState
    priority: Priority = field(metadata=AS_CLASS)
    prompt_tokens: int
    prefilled_tokens: int
    prefill_progress: float
    """0 to 1."""
    completion_tokens: int
    max_new_tokens: int
    age_s: float
    ttft_ms: float | None
    tokens_per_s: float | None
    tokens_per_step: float | None
    """1 without drafts."""
    cached_tokens: int
    num_preemptions: int
    restore_progress: float | None
    """Share of its blocks that are read, while some are being read; else None."""
    wait_reason: WaitReason | None
    wait_behind: str | None
    """The agent that it waits for."""


@dataclass(frozen=True, slots=True)
class RequestPrompt:
    """The prompt text of a running request in pieces: its agent has none of it before the end."""

    request: RequestId
    agent: AgentId
    messages: tuple[ShownMessage, ...]


@dataclass(frozen=True, slots=True)
class CancelledRequest:
    """A cancelled request; its computed tokens stay cached."""

    id: str
    cancelled: bool
