"""Preload: after a start, restores blocks of recently used agents from disk to RAM before they are requested.

It gives way: it reads one block at a time, none while a request runs, and fills no more than a share of the budget, so
that nothing leaves RAM for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.ports.telemetry import Log
from semanticd.application.ports.warm_store import BlockRecord, WarmStore
from semanticd.domain.agent import Agent
from semanticd.domain.ids import BlockHash

_LOOK_AGAIN_S = 0.25
"""Seconds between two looks whether requests still run."""


class Preload:
    """Makes stored blocks hot; see the module's text."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        store: AgentCacheStore,
        agents: AgentRegistry,
        warm: WarmStore,
        share: float,
        log: Log,
    ) -> None:
        """Fill at most this `share` of the KV budget (0: none)."""
        self._engine = engine
        self._store = store
        self._agents = agents
        self._warm = warm
        self._share = share
        self._log = log
        self._num_hot = 0
        self._unreadable: set[BlockHash] = set()

    async def run(self) -> None:
        """Read the agents' blocks, those of the last user first; a failure is logged."""
        seen: list[tuple[BlockHash, ...]] = []
        try:
            for agent in self._served():
                await self._find_files(agent)
                seen.append(agent.block_table)
                if not await self._bring(agent.block_table):
                    break
            await self._touch(seen)
        except Exception as error:  # noqa: BLE001 (requests restore what was not brought in)
            self._log.warning("preload_failed", reason=repr(error))
        else:
            self._log.info("agents_preloaded", num_blocks=self._num_hot)

    async def _bring(self, table: Sequence[BlockHash]) -> bool:
        """Make an agent's blocks hot; False where there is no room for more of them."""
        for name in table:
            while self._engine.num_unanswered:  # noqa: ASYNC110 (the engine's thread sets no events)
                await asyncio.sleep(_LOOK_AGAIN_S)
            if name in self._unreadable or self._store.is_hot(name):
                continue
            record = await asyncio.wrap_future(self._warm.read(name))
            if record is None:
                self._unreadable.add(name)
            elif not await asyncio.wrap_future(self._engine.call(partial(self._promote, record))):
                return False
        return True

    def _served(self) -> list[Agent]:
        if not self._share:
            return []
        served = {model.fingerprint for model in self._engine.models.values()}
        return [agent for agent in self._agents.recent() if agent.model in served]

    async def _find_files(self, agent: Agent) -> None:
        """Let the disk's index know the agent's blocks, where it is just rebuilt."""
        found = agent.model and self._store.find_files(agent.block_table, agent.model)
        if found:
            await asyncio.wrap_future(found)

    async def _touch(self, tables: Sequence[Sequence[BlockHash]]) -> None:
        """Let who asked last be evicted last; one table between two steps of the engine."""
        for table in reversed(tables):
            await asyncio.wrap_future(self._engine.call(partial(self._store.touch_hot, table)))

    def _promote(self, record: BlockRecord) -> bool:
        """Make a block hot; False where that would go beyond the share, or its model has left. Engine thread."""
        if self._warm.get(record.block.block_hash) is None:
            return True  # its agent was deleted since it was read
        ledger = self._store.ledger()
        if ledger.used_bytes + record.block.num_bytes > self._share * ledger.budget_bytes:
            return False
        is_hot = self._store.promote(record)
        self._num_hot += is_hot
        return is_hot
