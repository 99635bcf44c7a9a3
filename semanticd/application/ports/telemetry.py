"""Time and numbers, as the application sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Attribute = str | int | float | tuple[str, ...]

GEN_AI_PROVIDER = "semanticd"
"""Provider name by OpenTelemetry's GenAI conventions."""


class Clock(Protocol):
    """Two clocks: one for durations, one for dates."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def wall(self) -> float:
        """Seconds since the epoch."""


class Metrics(Protocol):
    """Counters, gauges and histograms by name; names are the catalogue's, without the `semanticd_` prefix."""

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""

    def forget(self, name: str, **labels: str) -> None:
        """Drop one labelled value of a gauge."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add an observation to a histogram."""


class Log(Protocol):
    """Structured log: a constant message with fields."""

    def info(self, event: str, **fields: object) -> None:
        """Something normal worth knowing."""

    def warning(self, event: str, **fields: object) -> None:
        """Something went wrong and was handled."""

    def error(self, event: str, **fields: object) -> None:
        """Something failed."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Clock, metrics, log, events and traces, which most parts get together."""

    clock: Clock
    metrics: Metrics
    log: Log
    bus: EventBus
    tracer: Tracer | None = None


class NullMetrics:
    """Metrics that are discarded."""

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Discard it."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Discard it."""

    def forget(self, name: str, **labels: str) -> None:
        """Discard it."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Discard it."""


class NullLog:
    """A log whose lines are discarded."""

    def info(self, event: str, **fields: object) -> None:
        """Discard it."""

    def warning(self, event: str, **fields: object) -> None:
        """Discard it."""

    def error(self, event: str, **fields: object) -> None:
        """Discard it."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A finished phase of a request; times are clock readings, or seconds since the epoch for a tracer."""

    name: str
    began_at: float
    ended_at: float
    attributes: Mapping[str, Attribute]


class Span(Protocol):
    """A request under way, as a trace shows it."""

    trace_id: str
    trace_parent: str | None
    """Trace parent of its phases, in W3C's format; None: this trace is not kept."""

    def end(self, *, failed: bool, **attributes: Attribute) -> None:
        """End the span; `__` in a name stands for a dot."""


class Tracer(Protocol):
    """Keeps traces; every method is callable from any thread and never blocks or raises."""

    def begin(self, name: str, *, headers: Mapping[str, str]) -> Span:
        """Begin a span now, under the caller's if `headers` hold a W3C trace context."""

    def record(self, phases: Sequence[Phase], *, trace_parent: str) -> None:
        """Add finished phases as children of a span of this process."""


class EventBus(Protocol):
    """Publishes events to the control plane's subscribers. Never blocks."""

    def publish(self, topic: str, data: Mapping[str, object]) -> None:
        """Hand an event to the topic's subscribers; callable from any thread."""

    def wanted(self, topic: str) -> bool:
        """Return whether a topic has a subscriber; without one, costly events need not be built."""
