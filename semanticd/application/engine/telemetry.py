"""EngineTelemetry: clock, log, events, and the records of sequences, for the parts of the engine."""

from __future__ import annotations

from dataclasses import dataclass

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.metrics import SequenceMetrics
from semanticd.application.engine.trace import SequenceTrace
from semanticd.application.ports.telemetry import Clock, EventBus, Log, Telemetry


@dataclass(frozen=True, slots=True)
class EngineTelemetry:
    """The telemetry of the engine's parts."""

    clock: Clock
    log: Log
    bus: EventBus
    metrics: SequenceMetrics
    trace: SequenceTrace

    @classmethod
    def over(cls, telemetry: Telemetry, *, store: AgentCacheStore) -> EngineTelemetry:
        """Record sequences, whose blocks are in `store`, with the daemon's telemetry."""
        return cls(
            clock=telemetry.clock,
            log=telemetry.log,
            bus=telemetry.bus,
            metrics=SequenceMetrics(telemetry.metrics),
            trace=SequenceTrace(telemetry.tracer, store=store, clock=telemetry.clock),
        )
