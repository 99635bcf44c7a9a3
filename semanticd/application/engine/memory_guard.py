"""MemoryGuard: adapts the KV budget to the machine's free memory; engine thread only.

```
models come and go ──> budget = plan
memory is short ─────> evict, give freed buffers back, lower the budget ──(still short)──> lower it again
no longer short ─────> after a while raise it, a step at a time, up to the plan
```
What runs is not cut: a lower budget takes cached blocks from RAM, and new requests wait for room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.telemetry import EngineTelemetry
from semanticd.application.ports.inference import LoadedModel
from semanticd.application.ports.memory import MachineMemory
from semanticd.domain.ids import ModelId
from semanticd.domain.memory_plan import BudgetPlan, Pressure, lowered, raised
from semanticd.domain.scheduler import Scheduler

CHECK_EVERY_S = 1.0
LOWER_EVERY_S = 5.0
"""Seconds for a lower budget to take effect before the next step: blocks are written before they leave."""
CALM_S = 60.0
"""Seconds without a shortage of memory before the budget is raised."""
RAISE_EVERY_S = 10.0

Cause = Literal["pressure", "out_of_memory"]


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """The memory of an engine, and the part of it for KV."""

    machine: MachineMemory
    plan: BudgetPlan


class MemoryGuard:
    """Lowers and raises the budget."""

    def __init__(
        self,
        *,
        memory: EngineMemory,
        models: Mapping[ModelId, LoadedModel],
        store: AgentCacheStore,
        scheduler: Scheduler,
        telemetry: EngineTelemetry,
    ) -> None:
        """Follow the plan for the loaded `models`, which are read at every call."""
        self._plan = memory.plan
        self._memory = memory.machine
        self._models = models
        self._store = store
        self._scheduler = scheduler
        self._log = telemetry.log
        self._metrics = telemetry.metrics
        self._checked_at = float("-inf")
        self._lowered_at = float("-inf")
        self._short_at = float("-inf")
        """Clock reading of the last shortage of memory."""
        self._raised_at = float("-inf")
        self._lowered_bytes: int | None = None
        """The budget while it is lower than planned."""
        self._loading_bytes = 0

    def expect(self, weights_bytes: int) -> None:
        """Make room for weights that are about to be loaded: the budget is what they will leave."""
        self._loading_bytes = weights_bytes
        self._follow_plan()

    def models_changed(self) -> None:
        """Follow the plan for the models that are loaded now."""
        self._loading_bytes = 0
        self._follow_plan()

    def model_left(self) -> None:
        """Follow the plan without a model, and return the memory of its weights and blocks at once."""
        self.models_changed()
        self._memory.give_back()

    def _follow_plan(self) -> None:
        weights = self._loading_bytes + sum(model.weights_bytes for model in self._models.values())
        self._memory.keep_resident(weights)
        rooms = (model.kv_room_bytes for model in self._models.values())
        planned = min([self._plan.budget_bytes(weights), *(room for room in rooms if room is not None)])
        if self._lowered_bytes is not None and self._lowered_bytes >= planned:
            self._lowered_bytes = None
        self._set(self._lowered_bytes or planned, planned=planned)

    def _set(self, budget_bytes: int, *, planned: int) -> None:
        self._store.set_budget(budget_bytes, planned_bytes=planned)
        self._store.make_room(0)

    def check(self, now: float) -> None:
        """Look at the machine's memory, every second at most; `now` is a clock reading in seconds."""
        if now - self._checked_at < CHECK_EVERY_S:
            return
        self._checked_at = now
        pressure = self._memory.pressure()
        if pressure != "none":
            self._short_at = now
            if now - self._lowered_at >= LOWER_EVERY_S:
                self.relieve("pressure", pressure, now=now)
        elif self._lowered_bytes is not None and now - self._short_at >= CALM_S:
            self._raise(now)

    def relieve(self, cause: Cause, pressure: Pressure, *, now: float) -> None:
        """Evict, give freed memory back and lower the budget, by how short memory is."""
        self._lowered_at = self._short_at = now
        store, ledger = self._store, self._store.ledger()
        planned = store.planned_bytes
        # Sequences that ran out of memory begin again, with less; others continue with what they have.
        running = ledger.running_bytes + ledger.promised_bytes if cause == "pressure" else 0
        budget = lowered(
            pressure,
            budget_bytes=ledger.budget_bytes,
            planned_bytes=planned,
            used_bytes=ledger.used_bytes,
            kept_bytes=running + ledger.pinned_bytes,
        )
        if budget < ledger.budget_bytes:
            self._lowered_bytes = budget
            self._set(budget, planned=planned)
            self._log.warning(
                "memory_budget_lowered",
                cause=cause,
                pressure=pressure,
                budget_bytes=budget,
                planned_bytes=planned,
            )
        self._memory.give_back()
        self._metrics.memory_short(cause)

    def _raise(self, now: float) -> None:
        if now - self._raised_at < RAISE_EVERY_S:
            return
        self._raised_at = now
        planned = self._store.planned_bytes
        budget = raised(self._store.ledger().budget_bytes, planned_bytes=planned)
        self._lowered_bytes = budget if budget < planned else None
        self._set(budget, planned=planned)
        # Requests that waited for room may fit now.
        self._scheduler.unblock()
        if self._lowered_bytes is None:
            self._log.info("memory_budget_restored", budget_bytes=budget)
