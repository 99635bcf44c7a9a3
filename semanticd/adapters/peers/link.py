"""The measured rate of a link: bytes over the time in which at least one read was under way.

A pure account: the clock's readings are given.
"""

from __future__ import annotations

_REMEMBERED_S = 30.0
"""Seconds of reading after which older ones count half: links change."""
_FORGIVEN = 0.8
"""Share of the seconds that is left after each time they decided against the link."""


class LinkRate:
    """Bytes and seconds of one link."""

    def __init__(self) -> None:
        self._bytes = 0.0
        self._seconds = 0.0
        self._num_reading = 0
        self._since = 0.0

    def begin(self, now: float) -> None:
        """Note that a read begins."""
        self._count(now)
        self._num_reading += 1

    def end(self, now: float, num_bytes: int) -> None:
        """Record that a read ended, completely or not, after this number of bytes."""
        self._count(now)
        self._num_reading -= 1
        self._bytes += num_bytes
        if self._seconds > _REMEMBERED_S:
            self._bytes /= 2
            self._seconds /= 2

    def _count(self, now: float) -> None:
        if self._num_reading:
            self._seconds += max(now - self._since, 0.0)
        self._since = now

    @property
    def bytes_per_s(self) -> float | None:
        """The rate; None: nothing came yet."""
        return self._bytes / self._seconds if self._seconds > 0 and self._bytes > 0 else None

    def forgive(self) -> None:
        """Count the seconds a little less."""
        self._seconds *= _FORGIVEN
