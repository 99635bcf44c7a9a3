"""The KV cache as a whole: look at it, check it, make it smaller, empty it."""

from __future__ import annotations

import asyncio
from functools import partial

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.ports.warm_store import ModelSize, VerifyReport, WarmStore
from semanticd.application.services.status import StatusService
from semanticd.application.services.status_facts import CacheStats, ClearedCache, PrunedCache
from semanticd.domain.block_pool import HotBlock

_WRITES_POLL_S = 0.02
CLEARED_AT_ONCE = 4096
"""Hot blocks that leave between two steps of the engine: it lets go of so many in about 15 ms."""


class CacheService:
    """The cache's use cases; asyncio thread."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        store: AgentCacheStore,
        agents: AgentRegistry,
        warm: WarmStore,
        status: StatusService,
    ) -> None:
        """Work on the blocks of `store` and the warm store's files, which `agents` made."""
        self._engine = engine
        self._agents = agents
        self._store = store
        self._warm = warm
        self._status = status

    async def stats(self) -> CacheStats:
        """Return the ledger, the counters, and the hot blocks."""
        return CacheStats(self._status.cache(), self.blocks())

    def blocks(self, limit: int = 4096) -> tuple[HotBlock, ...]:
        """Return hot blocks, at most `limit`."""
        return tuple(self._store.hot_blocks(limit))

    async def verify(self, fix: bool = False) -> VerifyReport:
        """Check stored blocks against index and checksums; with `fix`, put broken ones aside."""
        return await asyncio.to_thread(self._warm.verify, fix=fix)

    async def sizes(self) -> tuple[ModelSize, ...]:
        """Return what each model's stored blocks take, largest first."""
        return await asyncio.to_thread(self._warm.sizes)

    async def prune(self, target_bytes: int | None = None, *, dry_run: bool = False) -> PrunedCache:
        """Remove least recently used stored blocks down to `target_bytes` (None: the cap), or say how much that is."""
        freed = await asyncio.to_thread(self._warm.prune, target_bytes=target_bytes, dry_run=dry_run)
        return PrunedCache(freed)

    async def clear(self) -> ClearedCache:
        """Drop every block that no running request uses, in RAM and on disk; agents start cold.

        The disk comes first: where it refuses, RAM keeps its blocks.

        Raises:
            CacheError: The disk refuses.
        """
        store = self._store
        warm = await asyncio.to_thread(self._warm.clear)
        hot = await self._clear_hot()
        while store.num_writing:
            # Blocks on their way to the disk stay in RAM until they are there.
            await asyncio.sleep(_WRITES_POLL_S)
            hot += await self._clear_hot()
        # Blocks that were written in the meantime.
        warm += await asyncio.to_thread(self._warm.clear)
        self._agents.forget_all_blocks()
        self._agents.forget_answers()
        self._agents.scrub()
        return ClearedCache(freed_hot_bytes=hot, freed_warm_bytes=warm)

    async def _clear_hot(self) -> int:
        """Drop the hot blocks that nothing uses, a part at a time; returns the bytes freed."""
        freed = 0
        clear = partial(self._store.clear, CLEARED_AT_ONCE)
        while part := await asyncio.wrap_future(self._engine.call(clear)):
            freed += part
        return freed
