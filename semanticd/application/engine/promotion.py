"""Promotion: evicted blocks of running sequences become hot again from the running cache, once room is free.

```
pool           [ block 0 |  gone   |  gone   | block 3 ]     made way for others; they are on disk
running cache  [ position 0 …                          ]     holds them all the same
```
So a conversation that made way while it ran need not be read from the disk at its next turn. A few blocks are copied
between two steps, into room that is free: no block leaves for them, and nothing is copied while a request waits.
Engine thread only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.block_commit import BlockCommit
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.domain.block import Block
from semanticd.domain.ids import SequenceId
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.sequence import SequenceState

STEP_BYTES = 32 << 20
"""Bytes that are copied between two steps, at most, unless a block is larger."""
_LOOKED_AT = 64
"""Blocks of one sequence that are looked at between two steps, at most."""
_SPARE_SHARE = 1 / 16
"""Share of the budget that stays free: what is computed next must not drive out what was just copied."""


@dataclass(slots=True)
class _Place:
    """How far a sequence's block table was looked through."""

    num_preemptions: int = 0
    index: int = 0
    position: int = 0
    """Of the first token of the block at `index`."""
    has_failed: bool = False
    """Whether a copy failed: nothing more is copied from this running cache."""


class Promotion:
    """Copies blocks of running sequences back into the pool."""

    def __init__(
        self,
        *,
        running: Mapping[SequenceId, RunningSequence],
        store: AgentCacheStore,
        scheduler: Scheduler,
        commit: BlockCommit,
    ) -> None:
        """Look after the `running` sequences, which are read at every call."""
        self._running = running
        self._store = store
        self._scheduler = scheduler
        self._commit = commit
        self._places: dict[SequenceId, _Place] = {}
        self._looked_at = SequenceId(0)
        """The sequence whose turn it was last."""

    def step(self) -> None:
        """Look for blocks of the next sequence that left RAM, and copy some of them."""
        if not self._running:
            self._places.clear()
            return
        room = self._room()
        if room <= 0 or self._scheduler.in_state(SequenceState.WAITING):
            return
        running = self._next()
        if not self._is_whole(running):
            return
        missing = self._missing(running, room)
        if missing:
            try:
                self._store.promote_from(running.runner, running.sequence_id, missing)
            except Exception as error:
                # They are read when they are wanted.
                self._commit.not_kept(running, error)
                self._places[running.sequence_id].has_failed = True

    def _room(self) -> int:
        spare = int(self._store.ledger().budget_bytes * _SPARE_SHARE)
        return self._store.idle_bytes - spare

    def _next(self) -> RunningSequence:
        self._places = {one: place for one, place in self._places.items() if one in self._running}
        # Ids rise with each arrival.
        following = (one for one in self._running if one > self._looked_at)
        self._looked_at = next(following, next(iter(self._running)))
        return self._running[self._looked_at]

    def _is_whole(self, running: RunningSequence) -> bool:
        """Whether its running cache can be read, and holds the very bytes of its blocks."""
        is_open = running.sequence.state in (SequenceState.PREFILLING, SequenceState.DECODING)
        is_read_into = self._scheduler.is_held(running.sequence_id)
        is_exact = running.spec.precision == "exact"
        return is_open and is_exact and not is_read_into and not running.is_torn

    def _missing(self, running: RunningSequence, room: int) -> list[tuple[Block, int]]:
        """Return blocks that are on disk only, and their positions: what a step copies, and there is room for (bytes).

        The next call continues behind them.
        """
        table, place = running.sequence.block_table, self._places.get(running.sequence_id)
        if place is None or place.num_preemptions != running.sequence.num_preemptions:
            place = self._places[running.sequence_id] = _Place(running.sequence.num_preemptions)
        if place.index >= len(table):
            place.index = place.position = 0
        found: list[tuple[Block, int]] = []
        num_bytes = 0
        for name in () if place.has_failed else table[place.index : place.index + _LOOKED_AT]:
            block = self._store.block(name)
            if block is None:
                # Gone from the disk as well. Where what follows it begins is not known.
                place.index = place.position = 0
                break
            if not self._store.is_hot(name):
                num_bytes += block.num_bytes
                if num_bytes > (min(room, STEP_BYTES) if found else room):
                    break
                found.append((block, place.position))
            place.index += 1
            place.position += block.num_tokens
        return found
