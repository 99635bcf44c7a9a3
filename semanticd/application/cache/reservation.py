"""Reservation: everything in the cache that one sequence holds, and releases when it ends, however it ends.

```
begin ──> lock blocks ──> promise bytes for what is read or computed ──> … ──> end (once; later calls do nothing)
```
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from semanticd.domain.block_pool import BlockPool
from semanticd.domain.ids import BlockHash


class Reservation:
    """Locks, reads and promised bytes of one sequence; engine thread only (the pool is changed under `lock`)."""

    def __init__(self, pool: BlockPool, lock: threading.RLock) -> None:
        self._pool = pool
        self._lock = lock
        self._locked: list[BlockHash] = []
        self._promised_bytes = 0
        self._reads: list[Future[Any]] = []
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether the reservation was released."""
        return self._ended

    @property
    def locked_blocks(self) -> tuple[BlockHash, ...]:
        """Blocks that it keeps from leaving RAM; one that it locked twice stands there twice."""
        return tuple(self._locked)

    @property
    def promised_bytes(self) -> int:
        """Bytes set aside in the ledger and not used yet."""
        return self._promised_bytes

    def lock_blocks(self, names: Iterable[BlockHash]) -> None:
        """Keep these hot blocks from leaving RAM until the end; nothing is locked after it."""
        if self._ended:
            return
        names = list(names)
        with self._lock:
            self._pool.lock(names)
        self._locked += names

    def add_read(self, read: Future[Any]) -> None:
        """Own a read: it is called off at the end, if it has not begun by then."""
        self._reads = [other for other in self._reads if not other.done()]
        self._reads.append(read)

    def promise(self, num_bytes: int) -> None:
        """Set bytes aside, besides those set aside before."""
        if self._ended:
            return
        with self._lock:
            self._pool.promised_bytes += num_bytes
        self._promised_bytes += num_bytes

    def use(self, num_bytes: int) -> None:
        """Turn promised bytes into used ones, which the caller counts elsewhere in the ledger from now on."""
        num_bytes = min(num_bytes, self._promised_bytes)
        with self._lock:
            self._pool.promised_bytes -= num_bytes
        self._promised_bytes -= num_bytes

    def end(self) -> None:
        """Give everything back. Idempotent, and never raises."""
        if self._ended:
            return
        self._ended = True
        with self._lock:
            locked, self._locked = self._locked, []
            self._pool.promised_bytes -= self._promised_bytes
            self._promised_bytes = 0
            self._pool.unlock(locked)
        reads, self._reads = self._reads, []
        for read in reads:
            read.cancel()
