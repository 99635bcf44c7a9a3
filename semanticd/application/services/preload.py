"""Preload: after a start, brings what the last users' agents left on disk back to RAM, before they ask for it.

It gives way: it reads one block at a time, none while a request runs, and fills no more than a share of the budget, so
that nothing leaves RAM for it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
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

    async def run(self) -> None:
        """Read the agents' blocks, those of the last user first; a failure is logged."""
        try:
            num_hot = await self._fill()
        except Exception as error:  # noqa: BLE001 (requests restore what was not brought in)
            self._log.warning("preload_failed", reason=repr(error))
        else:
            self._log.info("agents_preloaded", num_blocks=num_hot)

    async def _fill(self) -> int:
        agents = self._served()
        tables = [agent.block_table for agent in agents]
        await self._find_files(agents)
        num_hot = 0
        for name in dict.fromkeys(itertools.chain(*tables)):
            while self._engine.num_unanswered:  # noqa: ASYNC110 (the engine's thread sets no events)
                await asyncio.sleep(_LOOK_AGAIN_S)
            if self._store.is_hot(name):
                continue
            record = await asyncio.wrap_future(self._warm.read(name))
            if record is None:
                continue
            if not await asyncio.wrap_future(self._engine.call(partial(self._promote, record))):
                break
            num_hot += 1
        if num_hot:
            # Who asked last is evicted last.
            await asyncio.wrap_future(self._engine.call(partial(self._touch, reversed(tables))))
        return num_hot

    def _served(self) -> list[Agent]:
        if not self._share:
            return []
        served = {model.fingerprint for model in self._engine.models.values()}
        return [agent for agent in self._agents.recent() if agent.model in served]

    async def _find_files(self, agents: Sequence[Agent]) -> None:
        """Let the disk's index know the agents' blocks, where it is just made anew."""
        for agent in agents:
            found = agent.model and self._store.find_files(agent.block_table, agent.model)
            if not found:
                return
            await asyncio.wrap_future(found)

    def _touch(self, tables: Iterable[Sequence[BlockHash]]) -> None:
        for table in tables:
            self._store.touch_hot(table)

    def _promote(self, record: BlockRecord) -> bool:
        """Make a block hot if that stays within the share; engine thread."""
        ledger = self._store.ledger()
        if ledger.used_bytes + record.block.num_bytes > self._share * ledger.budget_bytes:
            return False
        return self._store.promote(record)
