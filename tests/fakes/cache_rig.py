"""A cache store with its agents' tables, a model and a disk, without an engine."""

from __future__ import annotations

from collections.abc import Callable

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_tables import AgentTables
from semanticd.domain.ids import AgentId, BlockHash, SequenceId
from tests.fakes.model_runner import BYTES_PER_TOKEN, HashRunner
from tests.fakes.telemetry import RecordingLog, RecordingMetrics
from tests.fakes.warm_store import MemoryWarmStore


class CacheRig:
    """A store, its model and its disk; posted work runs on demand."""

    def __init__(
        self,
        *,
        budget_tokens: int = 1000,
        max_agents: int = 10,
        has_state: bool = False,
        write_policy: str = "always",
    ) -> None:
        self.warm = MemoryWarmStore(write_policy=write_policy)
        self.runner = HashRunner(block_tokens=4, has_state=has_state)
        self.posted: list[Callable[[], None]] = []
        self.metrics = RecordingMetrics()
        self.log = RecordingLog()
        self.store = AgentCacheStore(
            budget_bytes=BYTES_PER_TOKEN * budget_tokens,
            warm=self.warm,
            post=self.posted.append,
            metrics=self.metrics,
            log=self.log,
        )
        self.tables = AgentTables(
            store=self.store, warm=self.warm, max_agents_in_memory=max_agents, log=self.log
        )
        self.store.register_model(self.runner)
        self._number = 0

    def publish(self, agent: AgentId, ids: list[int]) -> list[BlockHash]:
        """Compute tokens and keep them as the agent's blocks of four."""
        self._number += 1
        sequence_id = SequenceId(self._number)
        self.runner.open(sequence_id, prefix=(), state=None, capacity_tokens=len(ids))
        self.runner.prefill(sequence_id, ids)
        table: list[BlockHash] = []
        for start in range(0, len(ids), 4):
            parent = table[-1] if table else self.runner.spec.root
            part = tuple(ids[start : start + 4])
            table += self.store.publish(self.runner, sequence_id, parent=parent, blocks=[part], start=start)
        self.runner.close(sequence_id)
        self.tables.set_table(agent, table, pinned=False)
        return table

    def pump(self) -> None:
        """Run what was posted."""
        while self.posted:
            self.posted.pop(0)()
