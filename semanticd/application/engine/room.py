"""Room: makes room for the next steps by eviction, which waits only briefly for a slow disk.

```
evict what is on disk ──> enough
     └──> the rest is written first: wait ──(ROOM_DEADLINE_S, or an answer would pause)──> the disk is behind:
              drop what it has not taken, without a wait, until no more than CAUGHT_UP_SHARE of the budget is unwritten
```
A slow disk so costs blocks, which are computed again, and prompts a moment once; no answer stops for it. Refused
blocks are not waited for: a full tier is not behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.running_sequence import Running, RunningSequence
from semanticd.application.ports.inference import LoadedModel
from semanticd.application.ports.telemetry import Clock, Log
from semanticd.domain.decode_groups import DecodeGroup
from semanticd.domain.errors import OutOfMemoryError, OverloadedError
from semanticd.domain.ids import ModelId
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.sequence import SequenceState

ROOM_DEADLINE_S = 2.0
"""Seconds that the disk may take to make requested room."""
CAUGHT_UP_SHARE = 0.5
"""A disk that was behind is waited for again when at most this share of the budget is unwritten.

While it is not, each prompt that wants room would wait for as long again.
"""
_RETRY_S = 10.0
"""Seconds after which to retry a request that was refused because the disk does not respond."""


def disk_does_not_respond() -> OverloadedError:
    """Return the error of work for which nothing but the disk could make room."""
    return OverloadedError(
        "the cache's disk does not respond, and unwritten blocks fill the memory; check the disk "
        "(`semanticd doctor`)",
        retry_after_s=_RETRY_S,
    )


class Room:
    """Measures running caches, and makes room in the budget; engine thread only."""

    def __init__(
        self,
        *,
        running: Running,
        models: Mapping[ModelId, LoadedModel],
        store: AgentCacheStore,
        scheduler: Scheduler,
        clock: Clock,
        log: Log,
    ) -> None:
        """Evict from this store for the `running` sequences of the loaded `models`; both are read at every call."""
        self._running = running
        self._models = models
        self._store = store
        self._scheduler = scheduler
        self._clock = clock
        self._log = log
        self._wanted_at: float | None = None
        """Since when room has been wanted that the disk would make (clock reading)."""
        self._is_behind = False
        self._paused_at: float | None = None
        """Since when answers have paused for the disk (clock reading)."""
        self.due_bytes = 0
        """Maximum growth of the running caches in their next step."""
        self._due: dict[tuple[ModelId, int], int] = {}
        """The same of each decode batch, by model and number."""
        self._growth_bytes = 0
        """Sum of the running caches' next growth steps, which happen at different times."""

    def measure(self) -> None:
        """Note what the running caches take, and what they grow by next."""
        self._growth_bytes = num_running = 0
        self._due = {}
        batches: dict[tuple[ModelId, int], list[RunningSequence]] = {}
        for running in self._running.values():
            sequence = running.sequence
            num_running += sequence.state is not SequenceState.WAITING
            if sequence.state is SequenceState.DECODING:
                batches.setdefault((sequence.model_id, sequence.group), []).append(running)
        for name, rows in batches.items():
            batch = DecodeGroup(name[1], tuple(running.sequence.num_tokens for running in rows))
            longest = max(len(row.sequence.prompt_ids) + row.sequence.max_new_tokens for row in rows)
            num_bytes = batch.growth(longest) * rows[0].spec.running_bytes_per_token
            self._growth_bytes += num_bytes
            self._due[name] = num_bytes if batch.growth_is_due else 0
        self.due_bytes = sum(self._due.values())
        running_bytes = sum(model.runner.running_bytes() for model in self._models.values())
        self._store.note_running(
            running_bytes,
            growth_bytes=self._growth_bytes,
            # One that runs alone may fill the budget, and is kept piece by piece.
            set_aside_bytes=self._growth_bytes if num_running > 1 else 0,
        )

    def make(
        self, num_bytes: int, *, joins: tuple[ModelId, int] | None = None, over_pins: bool = False
    ) -> bool:
        """Evict until this number of bytes fits next to the growth that is due, which may not come at the next step.

        Returns False if writes must finish first, or if it is impossible. Where eviction is not enough, decode batches
        free the room of rows that left. Pinned blocks leave `over_pins` only: for what runs alone, so that nothing else
        will make room for it. `joins` is the decode batch, by model and number, whose own growth `num_bytes` covers.

        Bytes for growth that is not due yet need not be free: it is enough that they can be made so at any time.
        """
        due_bytes = self.due_bytes - (self._due.get(joins, 0) if joins else 0)
        return self._make(num_bytes + due_bytes, over_pins=over_pins)

    def make_due(self, *, over_pins: bool = False) -> bool:
        """Evict until the growth that is due fits; returns False as `make` does."""
        return self._make(self.due_bytes, over_pins=over_pins)

    def _make(self, num_bytes: int, *, over_pins: bool) -> bool:
        fits = self._store.make_room(num_bytes) or (
            (self._compact() and self._store.make_room(num_bytes))
            or (over_pins and self._store.has_pins and self._store.make_room(num_bytes, over_pins=True))
        )
        if fits and self._store.ready_bytes >= self._growth_bytes:
            self._wanted_at = None
        elif (
            not self._is_behind
            and self._wanted_at is None
            and self._store.could_free(over_pins=over_pins) >= (self._growth_bytes if fits else num_bytes)
        ):
            self._wanted_at = self._clock.monotonic()
            self._store.persist()
        return fits or (
            self._is_behind and self._store.make_room(num_bytes, unwritten=True, over_pins=over_pins)
        )

    def may_come(self, num_bytes: int) -> bool:
        """Return whether eviction or writes can free this much room; a disk that lags behind counts as freeing none."""
        return not self._is_behind and self._store.could_free() >= num_bytes

    def _compact(self) -> bool:
        """Let decode batches free memory that no row needs; returns whether they had any."""
        before = self._store.ledger().running_bytes
        for model in self._models.values():
            # A batch that memory ran out for is gone: its rows are failed at their next step.
            with suppress(OutOfMemoryError):
                model.runner.compact()
        self.measure()
        return self._store.ledger().running_bytes < before

    def check(self, now: float) -> None:
        """Note at this clock reading (seconds) whether the disk is behind; to be called between two steps."""
        if self._is_behind:
            self._look_for_progress()
        elif self._wanted_at is None:
            return
        elif not self._store.unwritten_bytes:
            self._wanted_at = None
        elif now - self._wanted_at >= ROOM_DEADLINE_S:
            self._give_up_waiting(ROOM_DEADLINE_S)

    def may_pause(self) -> bool:
        """Return whether answers may pause for the disk now: until `end_pause`, for at most `max_stall_s`.

        After that blocks leave although the disk has not taken them.
        """
        if self._is_behind:
            return False
        now = self._clock.monotonic()
        if self._paused_at is None:
            self._paused_at = now
        if now - self._paused_at < self._scheduler.limits.max_stall_s:
            return True
        self._give_up_waiting(now - self._paused_at)
        return False

    def end_pause(self) -> None:
        """Note that answers do not pause for the disk."""
        self._paused_at = None

    def _look_for_progress(self) -> None:
        unwritten = self._store.unwritten_bytes
        if unwritten <= CAUGHT_UP_SHARE * self._store.ledger().budget_bytes:
            self._is_behind = False
            self._log.info("disk_caught_up", unwritten_bytes=unwritten)

    def _give_up_waiting(self, waited_s: float) -> None:
        self._is_behind, self._wanted_at = True, None
        self._scheduler.unblock()
        self._log.warning("disk_is_behind", num_blocks=self._store.num_writing, waited_s=round(waited_s, 3))
