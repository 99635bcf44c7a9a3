"""The few statistics that figures need; all return 0.0 for no values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of all lie, between neighbours in proportion."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return quantile(values, 0.5)


def gaps(times: Sequence[float]) -> list[float]:
    """Return the time from each moment to the next."""
    return [after - before for before, after in itertools.pairwise(times)]
