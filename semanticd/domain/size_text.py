"""size_text: sizes in sentences, in the unit that suits them; those that a sentence compares are rounded with care.

Required sizes are rounded up and available ones down: no sentence says that a size exceeds an equal one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_MIB, _GIB = 1 << 20, 1 << 30


def size(num_bytes: float) -> str:
    """Return a size in the largest unit of which it has one, rounded to the nearest tenth."""
    number = float(num_bytes)
    for unit in _UNITS[:-1]:
        # A number that would be rounded to 1024.0 becomes 1.0 of the next unit.
        if abs(number) < 1023.95:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} {_UNITS[-1]}"


def at_least(num_bytes: float) -> str:
    """Return a size that is needed, rounded up; in MiB, from 1 GiB on in GiB."""
    return _rounded(num_bytes, math.ceil)


def at_most(num_bytes: float) -> str:
    """Return a size that is there, rounded down; in MiB, from 1 GiB on in GiB."""
    return _rounded(num_bytes, math.floor)


def _rounded(num_bytes: float, rounding: Callable[[float], int]) -> str:
    unit, name = (_GIB, "GiB") if abs(num_bytes) >= _GIB else (_MIB, "MiB")
    return f"{rounding(num_bytes * 10 / unit) / 10:.1f} {name}"
