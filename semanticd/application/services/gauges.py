"""Gauges of the present state: read at each scrape of the metrics, so that they are current on a busy engine too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.ports.telemetry import Metrics
from semanticd.application.ports.warm_store import WarmStats, WarmStore
from semanticd.application.services.arrivals import Arrivals
from semanticd.domain.ids import ModelId
from semanticd.domain.sequence import SequenceState

if TYPE_CHECKING:  # loaded where a model is spread over machines, and nowhere else
    from semanticd.application.ports.ranks import Ranks

_POOL_STATES = ("hot", "pinned", "dirty", "running", "in_flight")
_SEQUENCE_STATES = (SequenceState.WAITING, SequenceState.PREFILLING, SequenceState.DECODING)


class Gauges:
    """Sets the gauges of engine, cache and models."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        arrivals: Arrivals,
        store: AgentCacheStore,
        warm: WarmStore | None,
        metrics: Metrics,
        version: str,
        ranks: Ranks | None = None,
    ) -> None:
        """Read from these, write into `metrics`; `version` is the daemon's."""
        self._ranks = ranks
        self._rank_bytes: dict[tuple[int, str], int] = {}
        self._ranks_lost = 0
        self._engine = engine
        self._arrivals = arrivals
        self._store = store
        self._warm = warm
        self._metrics = metrics
        self._models: set[ModelId] = set()
        metrics.gauge("build_info", 1, version=version)

    def refresh(self) -> None:
        """Set all gauges; callable from any one thread, never waits for the engine."""
        running = self._engine.running()
        states = [one.sequence.state for one in running]
        for one in self._arrivals.outside(running):
            states += [SequenceState.WAITING] * one.request.num_choices
        for state in _SEQUENCE_STATES:
            self._metrics.gauge("sequences", states.count(state), state=state.value)
        self._refresh_pool()
        self._refresh_warm(self._warm.stats() if self._warm is not None else WarmStats())
        self._refresh_models()
        if self._ranks is not None:
            self._refresh_ranks(self._ranks)

    def _refresh_pool(self) -> None:
        store = self._store
        ledger = store.ledger()
        for state in _POOL_STATES:
            self._metrics.gauge("block_pool_bytes", getattr(ledger, f"{state}_bytes"), state=state)
        self._metrics.gauge("block_pool_budget_bytes", ledger.budget_bytes)
        self._metrics.gauge("block_pool_planned_bytes", store.planned_bytes)
        self._metrics.gauge("agent_text_bytes", store.text_bytes)
        self._metrics.gauge("block_pool_blocks", store.count_hot_blocks()[0])

    def _refresh_warm(self, warm: WarmStats) -> None:
        self._metrics.gauge("warm_written_today_bytes", warm.written_today_bytes)
        self._metrics.gauge("warm_reserve_bytes", warm.reserve_bytes)
        if warm.free_disk_bytes is not None:
            self._metrics.gauge("warm_disk_free_bytes", warm.free_disk_bytes)
        for name, limit in (
            ("warm_cap_bytes", warm.cap_bytes),
            ("warm_write_budget_bytes", warm.write_budget_bytes),
        ):
            self._metrics.gauge(name, math.inf if limit is None else limit)

    def _refresh_models(self) -> None:
        models = self._engine.models
        for gone in self._models - models.keys():
            self._metrics.forget("model_weights_bytes", model=gone)
        for model_id, model in models.items():
            self._metrics.gauge("model_weights_bytes", model.weights_bytes, model=model_id)
        self._models = set(models)

    def _refresh_ranks(self, ranks: Ranks) -> None:
        for one in ranks.facts():
            name = str(one.rank)
            self._metrics.gauge("rank_ready", int(one.state == "ready"), rank=name)
            self._metrics.gauge("rank_memory_bytes", one.memory_bytes, rank=name)
            self._metrics.gauge("rank_step_seconds", one.step_ms / 1000, rank=name)
            for direction, now in (("sent", one.sent_bytes), ("received", one.received_bytes)):
                before = self._rank_bytes.get((one.rank, direction), 0)
                self._rank_bytes[one.rank, direction] = now
                # It starts again with each process.
                added = now - before if now >= before else now
                self._metrics.count("rank_bytes_total", added, rank=name, direction=direction)
        self._metrics.count("ranks_lost_total", ranks.num_failures - self._ranks_lost)
        self._ranks_lost = ranks.num_failures
