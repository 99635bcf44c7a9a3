"""Time and numbers, as the application sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


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


class EventBus(Protocol):
    """Publishes what happens to whoever watches (the control plane's subscriptions). Never blocks."""

    def publish(self, topic: str, data: Mapping[str, object]) -> None:
        """Hand an event to the topic's subscribers; callable from any thread."""

    def wanted(self, topic: str) -> bool:
        """Whether anybody listens, so that costly events need not be made."""
