"""Time, numbers, log lines and events that a test can set and look at. Callable from any thread."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping


class ManualClock:
    """A `Clock` that advances when it is told to; dates and durations advance together."""

    def __init__(self, *, monotonic: float = 100.0, wall: float = 1_700_000_000.0) -> None:
        """Begin at these readings, in seconds."""
        self._monotonic = monotonic
        self._wall = wall
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._monotonic

    def wall(self) -> float:
        """Seconds since the epoch."""
        return self._wall

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self._monotonic += seconds
            self._wall += seconds


class RecordingMetrics:
    """`Metrics` that adds up."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.counters: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self.gauges: dict[tuple[str, ...], float] = {}
        self.observations: dict[str, list[float]] = {}

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        key = (name, *labels.values())
        self.counters[key] += value

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        key = (name, *labels.values())
        self.gauges[key] = value

    def forget(self, name: str, **labels: str) -> None:
        """Drop a gauge's value."""
        del self.gauges[(name, *labels.values())]

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add an observation."""
        self.observations.setdefault(name, []).append(value)


class RecordingLog:
    """A `Log` that keeps its lines: (level, event, fields)."""

    def __init__(self) -> None:
        """Begin empty."""
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def info(self, event: str, **fields: object) -> None:
        """Keep a line."""
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: object) -> None:
        """Keep a line."""
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: object) -> None:
        """Keep a line."""
        self.lines.append(("error", event, fields))

    def events(self, level: str) -> list[str]:
        """Return the events of one level."""
        return [event for at, event, _ in self.lines if at == level]


class RecordingBus:
    """An `EventBus` with one listener: the test."""

    def __init__(self, *, listening: bool = True) -> None:
        """Listen to every topic, or to none."""
        self.listening = listening
        self.published: list[tuple[str, Mapping[str, object]]] = []

    def publish(self, topic: str, data: Mapping[str, object]) -> None:
        """Keep an event."""
        self.published.append((topic, data))

    def wanted(self, topic: str) -> bool:
        """Whether the test listens."""
        return self.listening

    def on(self, topic: str) -> list[Mapping[str, object]]:
        """Return what was published on a topic."""
        return [data for name, data in self.published if name == topic]
