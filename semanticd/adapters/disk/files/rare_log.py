"""RareLog: events that may happen hundreds of times a minute are logged once a minute, with their number."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from semanticd.application.ports.telemetry import Log

EVERY_S = 60.0


class RareLog:
    """Warnings that are counted between two lines; from any thread."""

    def __init__(self, log: Log, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._next_at: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def warning(self, event: str, *, number: int = 1, **fields: object) -> None:
        """Log the event now, or count it for the next line, a minute after the last one."""
        with self._lock:
            count = self._counts[event] = self._counts.get(event, 0) + number
            now = self._monotonic()
            if now < self._next_at.get(event, now):
                return
            self._next_at[event] = now + EVERY_S
            del self._counts[event]
        self._log.warning(event, count=count, **fields)
