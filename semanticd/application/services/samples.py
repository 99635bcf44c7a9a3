"""Samples: figures of several series over time, in memory that is allocated once.

An object for each figure would be kept for an hour where there was room when it was taken (see `domain.packed_lines`).
Rule: no figure is NaN, which stands for None here.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence

Sample = dict[str, float | None]
Columns = Mapping[str, Sequence[float]]
"""The figures of each series, oldest first."""


def columns_of(samples: Iterable[Sample], names: Iterable[str]) -> Columns:
    """Return the series of these names."""
    samples = list(samples)
    return {name: array("d", [_packed(sample[name]) for sample in samples]) for name in names}


def figures_of(column: Iterable[float]) -> list[float | None]:
    """Return a series' figures."""
    return [None if math.isnan(value) else value for value in column]


def samples_of(columns: Columns) -> list[Sample]:
    """Return what `columns_of` was given."""
    rows = zip(*(figures_of(column) for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


class SampleRing:
    """The last samples of a number of series."""

    def __init__(self, names: Iterable[str], *, size: int) -> None:
        """Keep `size` samples of the series of these names."""
        self._columns = {name: array("d", [math.nan]) * size for name in names}
        self._size = size
        self.num_taken = 0
        """Samples that were ever added."""

    def __len__(self) -> int:
        return min(self.num_taken, self._size)

    def add(self, sample: Sample) -> None:
        """Add a sample in place of the oldest one."""
        at = self.num_taken % self._size
        for name, column in self._columns.items():
            column[at] = _packed(sample[name])
        self.num_taken += 1

    def last(self, number: int) -> Columns:
        """Return copies of the newest samples, at most as many as there are."""
        end = self.num_taken % self._size if self.num_taken > self._size else len(self)
        return {
            name: (column[end : len(self)] + column[:end])[len(self) - number :]
            for name, column in self._columns.items()
        }


def _packed(figure: float | None) -> float:
    return math.nan if figure is None else figure
