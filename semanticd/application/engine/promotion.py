"""Promotion: evicted blocks of running sequences become hot again from the running cache.

```
pool           [ block 0 |  gone   |  gone   | block 3 ]     made way for others
running cache  [ position 0 …                          ]     holds them all the same
```
So what runs is held twice only while nothing else wants the room: its blocks leave first, and come back

- between two steps, a few at a time, into room that is free, while no request waits;
- when another sequence begins with them, for `END_S` at most: the rest is read from the disk;
- when the turn ends, before its running cache goes: those that the disk never took, then the others for `END_S` at
  most. They take free room, or that of blocks that were used longer ago, and never more than the budget. The rest is
  read from the disk when it is wanted.

Engine thread only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.block_commit import BLOCKS_AT_ONCE, BlockCommit
from semanticd.application.engine.running_copies import RunningCopies, RunningCopy
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.ports.telemetry import Clock
from semanticd.domain.block import Block
from semanticd.domain.ids import BlockHash, SequenceId
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.sequence import SequenceState

STEP_BYTES = 32 << 20
"""Bytes that are copied between two steps, at most, unless a block is larger."""
END_S = 0.1
"""For how long blocks that are on disk are copied as a turn begins or ends (seconds): nothing is computed meanwhile."""
_LOOKED_AT = 64
"""Maximum blocks of one sequence that are examined between two steps."""
_SPARE_SHARE = 1 / 16
"""Share of the budget that stays free: the next computed blocks must not displace the copied ones."""


class Promotion:
    """Copies blocks of running sequences back into the pool."""

    def __init__(
        self,
        *,
        running: Mapping[SequenceId, RunningSequence],
        store: AgentCacheStore,
        scheduler: Scheduler,
        commit: BlockCommit,
        copies: RunningCopies,
        clock: Clock,
    ) -> None:
        """Look after the `running` sequences, which are read at every call."""
        self._clock = clock
        self._running = running
        self._store = store
        self._scheduler = scheduler
        self._commit = commit
        self._copies = copies
        self._next_index: dict[SequenceId, int] = {}
        """The block at which the next look at a sequence begins."""
        self._failed: set[SequenceId] = set()
        """Sequences of whose running caches a copy failed: nothing more is copied from them."""
        self._looked_at = SequenceId(0)
        """The sequence whose turn it was last."""

    # Between two steps.

    def step(self) -> None:
        """Note what was reused, look for blocks of the next sequence that left RAM, and copy some of them.

        That costs as much as sequences run and blocks are new; where blocks left RAM, `_LOOKED_AT` of them are looked
        at.
        """
        for running in self._running.values():
            if self._is_open(running):
                self._copies.note(running)
        if not self._running or not self._store.has_displaced:
            return
        room = self._room()
        if room <= 0 or self._scheduler.in_state(SequenceState.WAITING):
            return
        running = self._next()
        missing = self._missing(running, room) if self._can_read(running) else []
        if missing:
            self._copy(running, missing)

    def _room(self) -> int:
        spare = int(self._store.ledger().budget_bytes * _SPARE_SHARE)
        return self._store.idle_bytes - spare

    def _next(self) -> RunningSequence:
        # Ids rise with each arrival.
        following = (one for one in self._running if one > self._looked_at)
        self._looked_at = next(following, next(iter(self._running)))
        return self._running[self._looked_at]

    def _missing(self, running: RunningSequence, room: int) -> list[RunningCopy]:
        """Return blocks that left RAM: what a step copies, and there is room for (bytes).

        The next call continues behind them.
        """
        copies = self._copies.of(running.sequence_id)
        index = self._next_index.get(running.sequence_id, 0)
        index = 0 if index >= len(copies) else index
        found: list[RunningCopy] = []
        num_bytes = 0
        for copy in copies[index : index + _LOOKED_AT]:
            if self._store.is_displaced(copy.block.block_hash):
                num_bytes += copy.block.num_bytes
                if num_bytes > (min(room, STEP_BYTES) if found else room):
                    break
                found.append(copy)
            index += 1
        self._next_index[running.sequence_id] = index
        return found

    # For a sequence that begins.

    def has(self, block_hash: BlockHash) -> bool:
        """Return whether a block is not hot and can be copied from a running cache."""
        return self._store.is_displaced(block_hash) and self._holder(block_hash) is not None

    def bring(self, blocks: Iterable[Block]) -> None:
        """Make blocks hot as far as running caches have them, for `END_S` at most where the disk has them too.

        The caller has made room, and looks which are hot.
        """
        wanted: dict[SequenceId, list[RunningCopy]] = {}
        for block in sorted(blocks, key=lambda one: not self._store.left_unwritten(one.block_hash)):
            holder = self._holder(block.block_hash)
            if holder is not None:
                running, copy = holder
                wanted.setdefault(running.sequence_id, []).append(copy)
        until = self._clock.monotonic() + END_S
        for sequence_id, copies in wanted.items():
            for first in range(0, len(copies), BLOCKS_AT_ONCE):
                piece = copies[first : first + BLOCKS_AT_ONCE]
                is_on_disk = not self._store.left_unwritten(piece[0].block.block_hash)
                if is_on_disk and self._clock.monotonic() >= until:
                    break
                if not self._copy(self._running[sequence_id], piece):
                    break

    def _holder(self, block_hash: BlockHash) -> tuple[RunningSequence, RunningCopy] | None:
        found = self._copies.holders(block_hash)
        return next((holder for holder in found if self._can_read(holder[0])), None)

    # For one that ends.

    def keep_unwritten(self, running: RunningSequence) -> None:
        """Copy what left RAM and the disk never took, as far as there is room, before more of the sequence is kept."""
        if not self._can_read(running):
            return
        self._copies.note(running)
        copies = self._copies.of(running.sequence_id)
        self._copy_into(running, [c for c in copies if self._store.left_unwritten(c.block.block_hash)])

    def bring_back(self, running: RunningSequence) -> None:
        """Copy what left RAM before the running cache goes.

        That makes no request wait for long, and takes no room that one waits for, except for unwritten blocks.
        """
        if not self._can_read(running):
            return
        # From here on its own blocks make room for one another no more.
        copies = self._forget(running.sequence_id)
        gone = [copy for copy in copies if self._must_come_back(copy.block.block_hash)]
        self._copy_into(running, [c for c in gone if self._store.left_unwritten(c.block.block_hash)])
        if not self._scheduler.in_state(SequenceState.WAITING):
            gone = [copy for copy in gone if self._store.is_displaced(copy.block.block_hash)]
            self._copy_into(running, gone, until=self._clock.monotonic() + END_S)
        self._store.give_up_displaced(copy.block.block_hash for copy in copies)

    def _must_come_back(self, block_hash: BlockHash) -> bool:
        """Return whether a block is not hot and no other running cache has it."""
        return self._store.is_displaced(block_hash) and self._holder(block_hash) is None

    def leave(self, sequence_id: SequenceId) -> None:
        """Drop a sequence whose running cache goes, or cannot be read."""
        copies = self._forget(sequence_id)
        self._store.give_up_displaced(copy.block.block_hash for copy in copies)

    def _forget(self, sequence_id: SequenceId) -> Sequence[RunningCopy]:
        self._next_index.pop(sequence_id, None)
        self._failed.discard(sequence_id)
        return self._copies.forget(sequence_id)

    def _copy_into(
        self, running: RunningSequence, copies: Sequence[RunningCopy], *, until: float = math.inf
    ) -> None:
        """Copy blocks until this clock reading, as far as there is, or can be made, room next to the running cache."""
        own = running.sequence.block_table
        for first in range(0, len(copies), BLOCKS_AT_ONCE):
            piece = copies[first : first + BLOCKS_AT_ONCE]
            num_bytes = sum(copy.block.num_bytes for copy in piece)
            fits = self._clock.monotonic() < until and self._store.make_room_beside(own, num_bytes)
            if not fits or not self._copy(running, piece):
                break

    # All ways.

    @staticmethod
    def _is_open(running: RunningSequence) -> bool:
        return running.sequence.state in (SequenceState.PREFILLING, SequenceState.DECODING)

    def _can_read(self, running: RunningSequence) -> bool:
        """Return whether its running cache exists, is complete, and is not being filled from the disk."""
        is_read_into = self._scheduler.is_held(running.sequence_id)
        has_failed = running.sequence_id in self._failed
        return self._is_open(running) and not (is_read_into or running.is_torn or has_failed)

    def _copy(self, running: RunningSequence, copies: Sequence[RunningCopy]) -> bool:
        try:
            self._store.promote_from(
                running.runner, running.sequence_id, [(copy.block, copy.start) for copy in copies]
            )
        except Exception as error:
            # They are read, or computed again, when they are wanted.
            self._commit.not_kept(running, error)
            self._failed.add(running.sequence_id)
            return False
        return True
