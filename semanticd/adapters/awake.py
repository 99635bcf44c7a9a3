"""Keeps a Mac from going to sleep by itself while requests are answered.

caffeinate(8) holds the assertion (`-i`: no idle sleep; the display may sleep, and a closed lid sleeps all the same) for
as long as it runs, and ends by itself when this process does (`-w`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from semanticd.application.ports.telemetry import Log

LINGER_S = 30.0
"""Seconds to stay awake after the last request: a conversation's next request usually arrives by then."""


class Holder(Protocol):
    """A program that holds the assertion while it runs."""

    def poll(self) -> int | None:
        """Return its exit status; None while it runs."""

    def terminate(self) -> None:
        """Ask it to end."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""


Spawn = Callable[[Sequence[str]], Holder]


def spawn_quietly(command: Sequence[str]) -> Holder:
    """Start a program that neither reads nor prints."""
    return subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


class Awake:
    """Holds the assertion while there are requests; called from one thread."""

    def __init__(
        self, *, log: Log, spawn: Spawn = spawn_quietly, platform: str = sys.platform, pid: int | None = None
    ) -> None:
        """Begin without an assertion; systems other than macOS never hold one."""
        self._log = log
        self._spawn = spawn
        self._enabled = platform == "darwin"
        self._command = ("caffeinate", "-i", "-w", str(os.getpid() if pid is None else pid))
        self._holder: Holder | None = None
        self._busy_at = float("-inf")

    @property
    def needed(self) -> bool:
        """Whether this system must be kept awake at all."""
        return self._enabled

    def note(self, num_requests: int, *, now: float) -> None:
        """Begin or end, by how many requests there are at this clock reading (seconds)."""
        if not self._enabled:
            return
        if num_requests:
            self._busy_at = now
            self._hold()
        elif self._holder is not None and now - self._busy_at >= LINGER_S:
            self.close()

    def _hold(self) -> None:
        if self._holder is not None and self._holder.poll() is None:
            return
        try:
            self._holder = self._spawn(self._command)
        except OSError as error:
            self._enabled = False
            self._log.warning("not_kept_awake", reason=error.strerror or str(error))

    def close(self) -> None:
        """End the assertion. Idempotent."""
        holder, self._holder = self._holder, None
        if holder is None:
            return
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            holder.terminate()
            holder.wait(timeout=1.0)
