"""StreamingRestore: reads blocks that do not fit in RAM next to the running cache straight into it, one at a time.

```
budget   [ running cache, as long as the prompt ][ blocks that fit ][ room for one block ]
restore    blocks that fit: as always, in one go     the others: read, copied in, released
```
So a conversation may fill the whole budget and still be reused to its last block. Engine thread only.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.queue import EngineQueue
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.ports.inference import BlockPayload, PrefixPart
from semanticd.application.ports.telemetry import Clock
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.ids import SequenceId
from semanticd.domain.prefix_index import MatchedBlock, PrefixMatch
from semanticd.domain.scheduler import Scheduler


@dataclass(slots=True)
class _Stream:
    """The blocks still to come for one sequence."""

    running: RunningSequence
    blocks: deque[MatchedBlock]
    asked_at: float = 0.0
    """Start of the read in progress (clock reading)."""


class StreamingRestore:
    """Appends known blocks to prefilling sequences."""

    def __init__(
        self, *, store: AgentCacheStore, scheduler: Scheduler, queue: EngineQueue, clock: Clock
    ) -> None:
        """Take blocks from this store; reads that end come back through `queue`."""
        self._store = store
        self._scheduler = scheduler
        self._queue = queue
        self._clock = clock
        self._streams: dict[SequenceId, _Stream] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a sequence waits for a block."""
        return bool(self._streams)

    def begin(self, running: RunningSequence, blocks: tuple[MatchedBlock, ...]) -> None:
        """Restore these blocks, which follow the sequence's cached ones, before it continues.

        Blocks that cannot be read are left to prefill.
        """
        self._scheduler.hold(running.sequence_id)
        stream = _Stream(running, deque(blocks))
        self._streams[running.sequence_id] = stream
        self._continue(stream)

    def check_deadlines(self, now: float, deadline_s: float) -> None:
        """Stop waiting for blocks that were asked for longer ago than that (seconds)."""
        for stream in list(self._streams.values()):
            if now - stream.asked_at >= deadline_s:
                stream.running.disk_failed = True
                self._end(stream)

    def forget(self, sequence_id: SequenceId) -> None:
        """Drop a sequence that ended or was preempted."""
        self._streams.pop(sequence_id, None)

    def _continue(self, stream: _Stream) -> None:
        while stream.blocks:
            name = stream.blocks[0].block.block_hash
            if not self._store.is_hot(name):
                stream.asked_at = self._clock.monotonic()
                read = self._store.read(name)
                stream.running.reservation.add_read(read)
                read.add_done_callback(lambda done: self._read_ended(stream, done))
                return
            self._append(stream.running, stream.blocks.popleft(), self._store.payload(name))
        self._end(stream)

    def _end(self, stream: _Stream) -> None:
        del self._streams[stream.running.sequence_id]
        self._scheduler.release(stream.running.sequence_id)
        self._store.touch(stream.running.sequence.block_table)

    def _read_ended(self, stream: _Stream, done: Future[BlockRecord | None]) -> None:
        # On the reader's thread: the engine may be busy for a while, which says nothing about the disk.
        if done.cancelled():
            return
        seconds = self._clock.monotonic() - stream.asked_at
        self._queue.post(
            lambda: self._take_block(stream, done.result(), seconds),
            sequence_id=stream.running.sequence_id,
        )

    def _take_block(self, stream: _Stream, record: BlockRecord | None, seconds: float) -> None:
        running = stream.running
        if self._streams.get(running.sequence_id) is not stream:
            return  # It ended, was preempted, or no longer waits for the disk.
        payload = None if record is None else self._store.load(record)
        if record is None or payload is None:
            running.peer_failed |= record is None and stream.blocks[0].block.block_hash in running.from_peers
            self._end(stream)
            return
        self._store.keep_read(record)
        if record.block.block_hash not in running.from_peers:
            counters = self._store.counters
            counters.restore_s += seconds
            counters.restored_bytes += record.block.num_bytes
        running.restore_s += seconds
        running.restored |= {record.block.block_hash}
        self._append(running, stream.blocks.popleft(), payload)
        self._continue(stream)

    def _append(self, running: RunningSequence, matched: MatchedBlock, payload: BlockPayload) -> None:
        sequence = running.sequence
        running.runner.append(running.sequence_id, PrefixPart(payload, matched.num_tokens))
        sequence.num_cached += matched.num_tokens
        if matched.whole:
            sequence.num_published += matched.num_tokens
            sequence.block_table.append(matched.block.block_hash)
        running.match = PrefixMatch((*running.match.blocks, matched), None, running.match.diverged)
