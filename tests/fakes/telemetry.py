"""Time, numbers, log lines and events that a test can set and look at. Callable from any thread."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from semanticd.adapters.telemetry.catalogue import CATALOGUE, GEN_AI

KNOWN = {**CATALOGUE, **GEN_AI}


class ManualClock:
    """A `Clock` that advances on demand; dates and durations advance together."""

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


class SettableDate:
    """A machine whose date can be set, ahead or back; its seconds go on."""

    def __init__(self, *, seconds: float = 100.0, date: float = 1_700_000_000.0) -> None:
        """Begin at these readings."""
        self.seconds = seconds
        self.date = date

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self.seconds

    def wall(self) -> float:
        """Seconds since the epoch, as the machine is set."""
        return self.date

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds
        self.date += seconds


class Counters(dict[tuple[str, ...], float]):
    """Counters by name and label values, nought at first; a name that is not in the catalogue is a mistake."""

    def __missing__(self, key: tuple[str, ...]) -> float:
        """Return nought for a counter that has not moved."""
        spec = KNOWN[key[0]]
        if spec.kind != "counter" or len(key) != 1 + len(spec.labels):
            raise KeyError(key)
        return 0.0


class RecordingMetrics:
    """`Metrics` that adds up; like the real one it takes the names and labels of the catalogue only."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.counters = Counters()
        self.gauges: dict[tuple[str, ...], float] = {}
        self.observations: dict[str, list[float]] = {}

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        self.counters[_key(name, labels)] += value

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self.gauges[_key(name, labels)] = value

    def forget(self, name: str, **labels: str) -> None:
        """Drop a gauge's value."""
        del self.gauges[_key(name, labels)]

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add an observation."""
        _key(name, labels)
        self.observations.setdefault(name, []).append(value)


def _key(name: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return name and label values in the catalogue's order."""
    spec = KNOWN[name]
    if set(labels) != set(spec.labels):
        raise KeyError((name, *labels))
    return (name, *(labels[label] for label in spec.labels))


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
