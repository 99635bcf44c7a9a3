"""A sequence: one answer being made, as the engine follows it, and the table of its states."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from semanticd.domain.block_chain import BlockChain
from semanticd.domain.chunk_policy import ChunkTraits
from semanticd.domain.generation import CacheReport, FinishReason, Priority
from semanticd.domain.ids import AgentId, BlockHash, ModelId, SequenceId
from semanticd.domain.snapshots import Snapshot


class SequenceState(enum.Enum):
    """State in the lifecycle of a sequence."""

    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    FINISHED = "finished"


class SequenceEvent(enum.Enum):
    """The events of a sequence."""

    ADMITTED = "admitted"
    PREFILLED = "prefilled"
    PREEMPTED = "preempted"
    ENDED = "ended"


_S, _E = SequenceState, SequenceEvent

TRANSITIONS: dict[SequenceState, dict[SequenceEvent, SequenceState]] = {
    _S.WAITING: {_E.ADMITTED: _S.PREFILLING, _E.ENDED: _S.FINISHED},
    _S.PREFILLING: {_E.PREFILLED: _S.DECODING, _E.PREEMPTED: _S.WAITING, _E.ENDED: _S.FINISHED},
    _S.DECODING: {_E.PREEMPTED: _S.WAITING, _E.ENDED: _S.FINISHED},
    _S.FINISHED: {},
}


@dataclass(slots=True)
class Sequence:
    """The engine's book on one answer.

    `prompt_ids` never change; `output_ids` grow by one a decode step. After a preemption both together are what
    must be in the cache before decoding continues, so nothing is generated twice.
    """

    sequence_id: SequenceId
    agent_id: AgentId
    model_id: ModelId
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    arrived_at: float
    """Seconds on the engine's clock."""
    priority: Priority = "interactive"
    state: SequenceState = SequenceState.WAITING
    output_ids: list[int] = field(default_factory=list)
    num_cached: int = 0
    """Tokens whose KV the running cache holds."""
    max_joining: int = 0
    """Last tokens of the prompt that may be computed in the step that samples the first token of the answer."""
    num_published: int = 0
    """Tokens from the start whose KV is in the block pool."""
    block_table: list[BlockHash] = field(default_factory=list)
    snapshots: dict[int, Snapshot] = field(default_factory=dict)
    """State snapshots of this sequence's prefix that it used or took, by their position."""
    cache: CacheReport = field(default_factory=CacheReport)
    finish_reason: FinishReason | None = None
    num_preemptions: int = 0
    share: str = ""
    """Owner of the share of engine time it uses; empty: its agent."""
    chain: BlockChain | None = None
    """Names of the prompt's full blocks."""
    group: int = 0
    """The decode batch that it is in: rows of similar length."""
    cuts_anywhere: bool = True
    """Whether the model's cached prefixes can be used up to any token; see `ModelCacheSpec`."""
    chunks: ChunkTraits = field(default_factory=ChunkTraits)
    """Effect of the prefill chunk length on its model's speed."""

    def apply(self, event: SequenceEvent) -> None:
        """Move to the next state; an illegal move raises `ValueError` naming sequence, state and event."""
        following = TRANSITIONS[self.state].get(event)
        if following is None:
            raise ValueError(f"sequence {self.sequence_id} is {self.state.value}: it cannot be {event.value}")
        self.state = following

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt and output so far."""
        return self.prompt_ids + tuple(self.output_ids)

    def token_slice(self, start: int, end: int) -> tuple[int, ...]:
        """Return the tokens at positions [start, end) of prompt and output, without building the whole."""
        num_prompt = len(self.prompt_ids)
        head = self.prompt_ids[start:end]
        return head + tuple(self.output_ids[max(start - num_prompt, 0) : max(end - num_prompt, 0)])

    @property
    def full_table(self) -> tuple[BlockHash, ...]:
        """The block table, and then the snapshots with their tails: everything that resuming needs."""
        return (*self.block_table, *(name for one in self.snapshots.values() for name in one.names))

    @property
    def last_snapshot(self) -> int:
        """Position of the last snapshot; 0 without one."""
        return max(self.snapshots, default=0)

    @property
    def num_resumable(self) -> int:
        """Tokens from the start from which another sequence could continue now.

        Where a layer cannot be cut, blocks alone are not enough. Before a sequence runs, what is restored
        for it counts.
        """
        if self.cuts_anywhere or self.state is SequenceState.WAITING:
            return self.num_published
        return self.last_snapshot

    @property
    def num_tokens(self) -> int:
        """Length of prompt and output so far."""
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def num_to_prefill(self) -> int:
        """Tokens to compute before decoding can start; the last token starts the decoding itself."""
        return max(self.num_tokens - 1 - self.num_cached, 0)
