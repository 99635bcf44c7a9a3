"""The daemon's history as it was fetched: per step of 1 and 10 seconds the last samples. Pure, bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from semanticd.control.results import HistoryResult

SAMPLES_KEPT = {1: 600, 10: 360}
"""As many as the daemon keeps, by step in seconds."""
SPANS_S = (60, 120, 300, 600, 1800, 3600)
"""Spans that a graph can show, in seconds."""

Value = float | None


class History:
    """The samples of the last hour."""

    def __init__(self) -> None:
        self._series: dict[int, dict[str, deque[Value]]] = {1: {}, 10: {}}
        self._last = {1: -1, 10: -1}

    def last(self, step_s: int) -> int:
        """Return the number of the newest sample; -1 when there is none."""
        return self._last[step_s]

    def take(self, facts: HistoryResult) -> None:
        """Take an answer of `history`; after a gap or a restart, earlier samples are dropped."""
        step_s = facts.step_s
        if step_s not in self._series:
            return
        if facts.first != self._last[step_s] + 1:
            self._series[step_s].clear()
        for name, values in facts.series.items():
            kept = self._series[step_s].setdefault(name, deque(maxlen=SAMPLES_KEPT[step_s]))
            kept.extend(values)
        self._last[step_s] = facts.last

    def forget(self) -> None:
        """Drop everything: another daemon answers."""
        self._series = {1: {}, 10: {}}
        self._last = {1: -1, 10: -1}

    def values(self, name: str, span_s: int) -> list[Value]:
        """Return the samples of the last `span_s` seconds, oldest first; fewer where fewer are known."""
        step_s = 1 if span_s <= SAMPLES_KEPT[1] else 10
        known = self._series[step_s].get(name, deque())
        return list(known)[-(span_s // step_s) :]

    def total(self, name: str, span_s: int) -> float:
        """Return the sum of a counted series over the last seconds."""
        return sum(value for value in self.values(name, span_s) if value is not None)


def wanted(span_s: int) -> int:
    """Return how many samples a span has."""
    return span_s if span_s <= SAMPLES_KEPT[1] else span_s // 10


def resampled(values: Sequence[Value], num: int, wanted: int) -> list[Value]:
    """Return `num` points for the last `wanted` samples: the largest of each group, None where none was measured."""
    padded = [*[None] * (wanted - len(values)), *values[-wanted:]]
    points: list[Value] = []
    for at in range(num):
        first = at * wanted // num
        known = [
            value for value in padded[first : max((at + 1) * wanted // num, first + 1)] if value is not None
        ]
        points.append(max(known) if known else None)
    return points
