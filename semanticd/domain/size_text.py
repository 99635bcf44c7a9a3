"""size_text: sizes in a sentence that compares them, in MiB.

What is needed is rounded up and what is there is rounded down: no sentence says that a size exceeds an equal one.
"""

from __future__ import annotations

import math

_TENTH = (1 << 20) / 10


def at_least(num_bytes: int) -> str:
    """Return a size that is needed, rounded up."""
    return f"{math.ceil(num_bytes / _TENTH) / 10:.1f} MiB"


def at_most(num_bytes: int) -> str:
    """Return a size that is there, rounded down."""
    return f"{math.floor(num_bytes / _TENTH) / 10:.1f} MiB"
