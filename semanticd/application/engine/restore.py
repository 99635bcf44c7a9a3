"""Restore: reads the cold blocks of a match, several at a time, and brings them into the pool in their order.

```
cold blocks ──> held, reading (READ_WINDOW at a time) ──> promoted, locked ──> restored, waits for a place in the batch
                    ├──> one is missing or damaged: a model with states is matched again, others continue with what came
                    └──> READ_DEADLINE_S without a block: continue with what came; what is missing is computed
```
While blocks are read the sequence has no place in the batch, and the engine works for others.
"""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.file_lookup import may_look_for_files
from semanticd.application.engine.prefix_matching import PrefixMatching
from semanticd.application.engine.queue import EngineQueue
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.engine.telemetry import EngineTelemetry
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.block import Block
from semanticd.domain.ids import BlockHash, SequenceId
from semanticd.domain.scheduler import Scheduler

READ_WINDOW = 8
"""Blocks of one sequence that are read at the same time."""
READ_DEADLINE_S = 10.0
"""Maximum wait of a sequence for the next block before the missing part is computed."""
MAX_REMATCHES = 8
"""Maximum damaged blocks after which an earlier snapshot is searched for on disk."""


@dataclass(slots=True)
class _Restoring:
    """Blocks on their way from the disk for one sequence."""

    running: RunningSequence
    to_read: deque[BlockHash]
    progress_at: float
    """Arrival of the last block (clock reading)."""
    give_up_at: float
    """Clock reading after which computing the missing part would have been faster."""
    reading: set[BlockHash] = field(default_factory=set)
    restored: list[BlockHash] = field(default_factory=list)
    """Blocks that were added to the pool so far."""
    records: dict[BlockHash, BlockRecord] = field(default_factory=dict)
    """Blocks that were read and wait for earlier blocks; released once copied."""
    num_bytes: int = 0


class Restore:
    """Sequences whose blocks are read, and those whose blocks were; engine thread only."""

    def __init__(
        self,
        *,
        store: AgentCacheStore,
        scheduler: Scheduler,
        queue: EngineQueue,
        matching: PrefixMatching,
        telemetry: EngineTelemetry,
    ) -> None:
        """Take blocks from this store and its peers; reads that end come back through `queue`."""
        self._store = store
        self._scheduler = scheduler
        self._queue = queue
        self._matching = matching
        self._clock = telemetry.clock
        self._metrics = telemetry.metrics
        self._log = telemetry.log
        self._restoring: dict[SequenceId, _Restoring] = {}
        self._ready: dict[SequenceId, RunningSequence] = {}
        """Restored sequences that wait for a place in the batch."""

    @property
    def is_busy(self) -> bool:
        """Whether a sequence waits for the disk."""
        return bool(self._restoring)

    def forget(self, sequence_id: SequenceId) -> None:
        """Drop the records of a sequence that started, ended or was preempted."""
        self._restoring.pop(sequence_id, None)
        self._ready.pop(sequence_id, None)

    def give_up(self, running: RunningSequence) -> None:
        """Release the blocks of a waiting sequence: it is matched again."""
        running.reservation.end()
        running.restored = frozenset()
        running.sequence.num_published = 0
        self._ready.pop(running.sequence_id, None)

    def give_up_ready(self) -> bool:
        """Take back what restored sequences hold that wait for a place in the batch; False when there are none."""
        ready = list(self._ready.values())
        for running in ready:
            self.give_up(running)
        return bool(ready)

    def give_way(self) -> bool:
        """Take back what sequences hold that wait for the disk or for a place in the batch; False when there are none.

        They are matched again when there is room.
        """
        waiting = list(self._restoring.values())
        for restoring in waiting:
            self._note_restored(restoring, read_until=restoring.progress_at)
            self.give_up(restoring.running)
            self._scheduler.release(restoring.running.sequence_id)
            self._scheduler.block(restoring.running.sequence_id)
        return self.give_up_ready() or bool(waiting)

    def begin(self, running: RunningSequence, cold: list[Block]) -> None:
        """Read these blocks of a sequence's match before it starts."""
        self._scheduler.hold(running.sequence_id)
        now = self._clock.monotonic()
        running.restore_began_at = now
        # Sequences that share more than this with it wait until it is computed, but none waits for the reading.
        running.sequence.num_published = running.match.num_tokens
        running.reservation.promise(sum(block.num_bytes for block in cold) + running.bytes_alone)
        rate = self._scheduler.prefill_rate(running.sequence.model_id)
        compute_s = sum(block.num_tokens for block in cold) / rate if rate else 0.0
        restoring = _Restoring(
            running,
            deque(block.block_hash for block in cold),
            progress_at=now,
            # Requests that wait for the computed rest must not wait for a disk that is slower than computing.
            give_up_at=now + max(compute_s, READ_DEADLINE_S) if rate else math.inf,
        )
        self._restoring[running.sequence_id] = restoring
        running.pending_reads = len(cold)
        self._read_more(restoring)

    def _read_more(self, restoring: _Restoring) -> None:
        while restoring.to_read and len(restoring.reading) < READ_WINDOW:
            name = restoring.to_read.popleft()
            restoring.reading.add(name)
            read = self._store.read(name)
            restoring.running.reservation.add_read(read)
            read.add_done_callback(partial(self._read_ended, restoring, name))

    def _read_ended(self, restoring: _Restoring, name: BlockHash, done: Future[BlockRecord | None]) -> None:
        # On the reader's thread: the engine may be busy for a while, which says nothing about the disk.
        if done.cancelled():
            return
        now = self._clock.monotonic()
        self._queue.post(
            lambda: self._take_block(restoring, name, done.result(), now),
            sequence_id=restoring.running.sequence_id,
        )

    def _take_block(
        self, restoring: _Restoring, name: BlockHash, record: BlockRecord | None, read_at: float
    ) -> None:
        running = restoring.running
        if self._restoring.get(running.sequence_id) is not restoring:
            return  # It ended, or no longer waits for the disk.
        restoring.reading.discard(name)
        running.pending_reads -= 1
        if record is None:
            # After one missing or damaged block there may be more; the following ones are computed and written again.
            self._store.verify_soon(
                other for other in (*restoring.reading, *restoring.to_read) if other not in running.from_peers
            )
            self._note_peer_failed(running, name)
            # If it is the index that is damaged, its blocks may still be on disk.
            anew = running.match.state is not None or may_look_for_files(running, self._store)
            if anew and running.num_rematched < MAX_REMATCHES:
                self._match_anew(restoring, read_until=read_at)
            else:
                self._end_restoring(restoring, read_until=read_at)
            return
        restoring.records[record.block.block_hash] = record
        restoring.num_bytes += record.block.num_bytes
        restoring.progress_at = max(restoring.progress_at, read_at)
        # While the disk reads the next block, this one is copied.
        fits = self._bring_match(restoring)
        if not fits or not (restoring.to_read or restoring.reading):
            self._end_restoring(restoring, read_until=restoring.progress_at)
        else:
            self._read_more(restoring)

    @staticmethod
    def _note_peer_failed(running: RunningSequence, name: BlockHash) -> None:
        """Take nothing more from peers for this sequence where one did not bring this block."""
        if name in running.from_peers:
            running.peer_failed = True
            running.offered = None

    def _bring_match(self, restoring: _Restoring) -> bool:
        """Add the blocks that were read to the pool, in order, up to the first missing one.

        Returns False when a block that was read did not fit: what follows it is of no use.
        """
        for block in restoring.running.match.all_blocks:
            name = block.block_hash
            if self._store.is_hot(name):
                if name in restoring.records:  # Another sequence brought it meanwhile.
                    del restoring.records[name]
                    restoring.running.reservation.lock_blocks([name])
                    restoring.restored.append(name)
                continue
            record = restoring.records.pop(name, None)
            if record is None:
                return True
            restoring.running.reservation.use(block.num_bytes)
            if not self._store.promote(record):
                return False
            # Locked at once: making room for the next block must not take this one away.
            restoring.running.reservation.lock_blocks([name])
            restoring.restored.append(name)
        return True

    def _match_anew(self, restoring: _Restoring, *, read_until: float) -> None:
        """Look for an earlier snapshot: a snapshot is useless without every block before it."""
        running = restoring.running
        self._note_restored(restoring, read_until=read_until)
        running.num_rematched += 1
        running.read_before |= frozenset(restoring.restored)
        self.give_up(running)
        self._scheduler.release(running.sequence_id)

    def _note_restored(self, restoring: _Restoring, *, read_until: float) -> None:
        running = restoring.running
        del self._restoring[running.sequence_id]
        running.pending_reads = 0
        if restoring.num_bytes and running.restore_began_at is not None and not running.from_peers:
            counters = self._store.counters
            counters.restore_s += read_until - running.restore_began_at
            counters.restored_bytes += restoring.num_bytes
        running.restore_s += self._clock.monotonic() - (running.restore_began_at or 0.0)

    def _end_restoring(self, restoring: _Restoring, *, read_until: float) -> None:
        """Continue with the blocks that are hot: the sequence waits for its place in the batch."""
        running = restoring.running
        self._note_restored(restoring, read_until=read_until)
        wanted, running.match = running.match, self._matching.hot_part(running)
        if running.match is not wanted:
            running.beyond = ()
        running.restored = frozenset(restoring.restored)
        if running.restored:
            self._ready[running.sequence_id] = running
        else:
            # Nothing to keep: it is matched again, and nothing is read for it a second time.
            self.give_up(running)
            running.disk_failed = True
        self._scheduler.release(running.sequence_id)

    def check_deadlines(self, now: float) -> None:
        """Stop waiting for blocks that have not arrived by this clock reading; their tokens are computed."""
        for restoring in list(self._restoring.values()):
            if now >= min(restoring.progress_at + READ_DEADLINE_S, restoring.give_up_at):
                self._log.warning(
                    "restore_timed_out",
                    request_id=restoring.running.submission.request_id,
                    num_blocks_missing=len(restoring.to_read) + len(restoring.reading),
                    waited_s=now - restoring.progress_at,
                )
                self._metrics.restore_timed_out()
                restoring.running.disk_failed = True
                for name in (*restoring.reading, *restoring.to_read):
                    self._note_peer_failed(restoring.running, name)
                self._end_restoring(restoring, read_until=now)
