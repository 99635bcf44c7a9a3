"""WriteBehind: hands dirty blocks to the warm store and keeps book of what is on its way.

A block that shall leave RAM while it is dirty leaves once it is on disk. What the store refuses is not offered again
before it is used again, or the time has come to ask anew. Engine thread only; the book is read under `lock`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from semanticd.application.cache.write_watch import WriteWatch
from semanticd.application.ports.telemetry import Log
from semanticd.application.ports.warm_store import BlockRecord, WarmStore, WriteResult
from semanticd.domain.block import Block
from semanticd.domain.block_pool import BlockPool
from semanticd.domain.ids import BlockHash

MAX_IN_FLIGHT_BYTES = 512 * 1024 * 1024
"""Write-behind pauses while this many bytes wait for the disk."""


class WriteBehind:
    """The way from RAM to disk."""

    def __init__(
        self,
        *,
        pool: BlockPool,
        lock: threading.RLock,
        warm: WarmStore | None,
        post: Callable[[Callable[[], None]], None],
        log: Log,
        record_of: Callable[[Block], BlockRecord],
        let_go: Callable[[Block, str], bool],
        on_room: Callable[[], None],
    ) -> None:
        """`record_of` turns a hot block into bytes, `let_go` takes one out of RAM, `on_room` hears of ended writes."""
        self._pool = pool
        self._lock = lock
        self._warm = warm
        self._post = post
        self._log = log
        self._record_of = record_of
        self._let_go = let_go
        self._on_room = on_room
        self._watch = WriteWatch()
        self.writing: dict[BlockHash, int] = {}
        """Blocks handed over and not yet durable, with their bytes."""
        self.leaving: dict[BlockHash, str] = {}
        """Blocks that leave RAM, and why, once they are on disk."""
        self.refused: set[BlockHash] = set()
        """Dirty blocks that the store did not take."""
        self.called_off: set[BlockHash] = set()
        """Blocks whose writing was called off because their agent was deleted; some other may still use them."""

    @property
    def in_flight_bytes(self) -> int:
        """Bytes handed over and not yet durable."""
        return sum(self.writing.values())

    def persist(self, *, limit_bytes: int | None = None) -> int:
        """Hand dirty blocks over, parents first; returns how many bytes were handed over."""
        if self._warm is None:
            return 0
        handed = 0
        records: list[BlockRecord] = []
        with self._lock:
            for block in self._pool.dirty_blocks():
                name = block.block_hash
                if name in self.writing or name in self.refused:
                    continue
                if self._pool.in_flight_bytes + handed + block.num_bytes > MAX_IN_FLIGHT_BYTES and records:
                    break
                if handed + block.num_bytes > self._pool.free_bytes and (records or self.writing):
                    # Bytes on their way to the disk count as well: write piece by piece rather than overdraw.
                    break
                if limit_bytes is not None and handed >= limit_bytes:
                    break
                if not self._warm.wants(name):
                    # Asked before its tensors are turned into bytes: a policy may refuse a block at every turn.
                    self.refused.add(name)
                    continue
                records.append(self._record_of(block))
                self.writing[name] = block.num_bytes
                handed += block.num_bytes
            self._pool.lock([record.block.block_hash for record in records])
            self._pool.in_flight_bytes += handed
        if records:
            names = [record.block.block_hash for record in records]
            future = self._warm.write(records)
            future.add_done_callback(lambda done: self._post(lambda: self._written(names, done.result())))
        return handed

    def _written(self, names: Sequence[BlockHash], result: WriteResult) -> None:
        with self._lock:
            for name in names:
                self._pool.in_flight_bytes -= self.writing.pop(name)
                self._pool.unlock([name])
                reason = self.leaving.pop(name, None)
                called_off = name in self.called_off
                self.called_off.discard(name)
                if reason == "deleted" or (self._warm is not None and self._warm.get(name) is not None):
                    self._pool.mark_clean(name)
                elif not called_off:
                    self.refused.add(name)
                block = self._pool.get(name)
                if reason and block and self._pool.can_leave(name):
                    self._let_go(block, reason)
        self._watch.ended(names)
        if result.num_refused:
            self._log.warning("blocks_not_written", num_blocks=result.num_refused, reason=result.reason)
        if self.leaving:
            self.persist()
        self._on_room()

    def cancel_write(self, block_hash: BlockHash) -> bool:
        """Call off the writing of a block that has not begun; it stays in RAM until room is needed."""
        with self._lock:
            if block_hash in self.writing or not self._pool.is_dirty(block_hash):
                return False
            self._pool.mark_clean(block_hash)
            return True

    def retry_refused(self) -> None:
        """Offer refused blocks again: a disk has room again, a new day a new budget."""
        with self._lock:
            self.refused.clear()
        self.persist()

    def when_durable(self, names: Sequence[BlockHash], done: Callable[[], None]) -> None:
        """Call `done` on the engine thread when what was handed over of these blocks is durable, or was refused."""
        self._watch.add((name for name in names if name in self.writing), done)

    def used_again(self, block_hash: BlockHash) -> None:
        """A block is in use: it need not leave, and the disk may want it by now."""
        self.leaving.pop(block_hash, None)
        self.refused.discard(block_hash)

    def adopt(self, records: Sequence[BlockRecord]) -> Future[WriteResult]:
        """Hand blocks from elsewhere to the warm store; what it refuses may be promoted. Any thread."""
        if self._warm is not None:
            return self._warm.write(records)
        names = tuple(record.block.block_hash for record in records)
        future: Future[WriteResult] = Future()
        future.set_result(WriteResult(0, 0, len(names), 0, "there is no warm store", names))
        return future
