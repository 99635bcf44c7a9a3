"""The machine's clocks.

```
the machine's date   10:00  10:01  09:01 (set back)  09:02  …  10:05
wall()               10:00  10:01  10:02             10:03  …  11:06
```
A date that is set back does not go back here: uses stay in their order, and no agent lives an hour longer, or is taken
for the one unused longest. It continues as the seconds do, and follows the machine's date again once that is later,
or at the next start. `not_before` keeps to the dates of earlier runs, for a machine may start with a wrong one; but
one run with a date in the future must not set all later ones ahead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LAST_BELIEVED = 4_102_444_800.0
"""The first day of the year 2100: a stored date beyond it is damage, or a clock's that was wrong."""
RELEASED = 1_793_491_200.0
"""The first of November 2026: a machine whose date is before it has a wrong one."""
MOST_AHEAD_S = 86_400.0
"""Seconds that a stored date may be ahead of the machine's date while the stored one is still believed."""


class SystemClock:
    """The machine's clocks. Callable from any thread."""

    def __init__(
        self, *, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        """Read these clocks, in seconds."""
        self._monotonic = monotonic
        self._machines_date = wall
        self._lock = threading.Lock()
        self._read_at = monotonic()
        self._date = wall()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._monotonic()

    def wall(self) -> float:
        """Seconds since the epoch, which never go back during a run."""
        with self._lock:
            now = self._monotonic()
            self._date = max(self._machines_date(), self._date + now - self._read_at)
            self._read_at = now
            return self._date

    def not_before(self, date: float) -> float:
        """Continue from this date (seconds since the epoch) if it is later; returns by how much it is (seconds), or 0.

        One beyond `LAST_BELIEVED` is passed over, and one that is more than `MOST_AHEAD_S` ahead unless the machine's
        date is before `RELEASED`.
        """
        now = self.wall()
        ahead = date - now
        most = LAST_BELIEVED if now < RELEASED else min(now + MOST_AHEAD_S, LAST_BELIEVED)
        if ahead <= 0 or date > most:
            return 0.0
        with self._lock:
            self._date += ahead
        return ahead
