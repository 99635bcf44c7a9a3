"""RunningCopies: which blocks running sequences have in their running caches too, and where in them.

```
block table    [ block 0 | block 1 | block 2 ]
running cache  [ 0 …     | 256 …   | 512 …   | computed, and in no block yet ]
```
Such a block may leave RAM and come back without the disk. Only with exact storage: what was rounded when it was stored
lies in the running cache as it was restored, and rounding that again need not give the same bytes. Snapshots are of
the past: a running cache has no older state than its last. Engine thread only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.domain.block import Block
from semanticd.domain.ids import BlockHash, SequenceId


@dataclass(frozen=True, slots=True)
class RunningCopy:
    """A block, and the position of its first token in a running cache."""

    block: Block
    start: int


@dataclass(slots=True)
class _Copies:
    """State of one sequence's running cache."""

    running: RunningSequence
    found: list[RunningCopy] = field(default_factory=list)
    end: int = 0
    is_complete: bool = True
    """Whether every block of the sequence's table is known; if not, positions behind the last are not."""


class RunningCopies:
    """Follows the block tables of the sequences that run."""

    def __init__(self, store: AgentCacheStore) -> None:
        """Report to `store` the blocks that it may release first."""
        self._store = store
        self._copies: dict[SequenceId, _Copies] = {}
        self._holders: dict[BlockHash, dict[SequenceId, RunningCopy]] = {}

    def note(self, running: RunningSequence) -> None:
        """Take in what a sequence's block table grew by; a step costs as much as is new."""
        if running.spec.precision != "exact" or running.is_torn:
            return
        table = running.sequence.block_table
        copies = self._copies.setdefault(running.sequence_id, _Copies(running))
        if not copies.is_complete or len(copies.found) == len(table):
            return
        new: list[RunningCopy] = []
        for name in table[len(copies.found) :]:
            block = self._store.block(name)
            if block is None:
                copies.is_complete = False
                break
            new.append(RunningCopy(block, copies.end))
            copies.end += block.num_tokens
        copies.found += new
        for copy in new:
            self._holders.setdefault(copy.block.block_hash, {})[running.sequence_id] = copy
        self._store.note_running_copy(copy.block for copy in new)

    def of(self, sequence_id: SequenceId) -> Sequence[RunningCopy]:
        """Return a sequence's blocks, first to last."""
        copies = self._copies.get(sequence_id)
        return copies.found if copies is not None else ()

    def holders(self, block_hash: BlockHash) -> list[tuple[RunningSequence, RunningCopy]]:
        """Return the sequences that have a block in their running caches, and where."""
        found = self._holders.get(block_hash, {})
        return [(self._copies[sequence_id].running, copy) for sequence_id, copy in found.items()]

    def forget(self, sequence_id: SequenceId) -> Sequence[RunningCopy]:
        """Drop a sequence whose running cache is about to be freed; returns its blocks."""
        copies = self._copies.pop(sequence_id, None)
        if copies is None:
            return ()
        names = [copy.block.block_hash for copy in copies.found]
        for name in names:
            holders = self._holders[name]
            del holders[sequence_id]
            if not holders:
                del self._holders[name]
        self._store.forget_running_copy(names)
        return copies.found
