"""The KV cache as a whole: look at it, check it, make it smaller, empty it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.ports.warm_store import WarmStore
from semanticd.application.services.status import StatusService

_WRITES_POLL_S = 0.02


class CacheService:
    """The cache's use cases; asyncio thread."""

    def __init__(self, *, engine: BlockPoolBatchEngine, warm: WarmStore, status: StatusService) -> None:
        """Work on the engine's blocks and the warm store's files."""
        self._engine = engine
        self._warm = warm
        self._status = status

    async def stats(self) -> dict[str, Any]:
        """Return the ledger, the counters, and every hot block as (state, sharing, bytes)."""
        return {**self._status.cache(), "blocks": self.blocks()}

    def blocks(self, limit: int = 4096) -> list[list[Any]]:
        """Return hot blocks as `[state, number of agents that hold it, bytes]`, at most `limit`."""
        pool = self._engine.store.pool
        with self._engine.store.lock:
            rows: list[list[Any]] = []
            for block in pool:
                name = block.block_hash
                state = "pinned" if pool.is_pinned(name) else "dirty" if pool.is_dirty(name) else "hot"
                rows.append([state, len(pool.holders(name)), block.num_bytes])
                if len(rows) >= limit:
                    break
            return rows

    async def verify(self, fix: bool = False) -> dict[str, Any]:
        """Check stored blocks against index and checksums; with `fix`, put broken ones aside."""
        return asdict(await asyncio.to_thread(self._warm.verify, fix=fix))

    async def prune(self, target_bytes: int | None = None) -> dict[str, Any]:
        """Remove least recently used stored blocks down to `target_bytes` (None: the cap)."""
        freed = await asyncio.to_thread(self._warm.prune, target_bytes=target_bytes)
        return {"freed_bytes": freed}

    async def clear(self) -> dict[str, Any]:
        """Drop every block that no running request uses, in RAM and on disk; agents start cold."""
        store = self._engine.store
        hot = await asyncio.wrap_future(self._engine.call(store.clear))
        while store.num_writing:
            # Blocks on their way to the disk stay in RAM until they are there.
            await asyncio.sleep(_WRITES_POLL_S)
            hot += await asyncio.wrap_future(self._engine.call(store.clear))
        warm = await asyncio.to_thread(self._warm.clear)
        return {"freed_hot_bytes": hot, "freed_warm_bytes": warm}
