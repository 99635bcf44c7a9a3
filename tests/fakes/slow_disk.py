"""A slow disk for a real daemon: `python -m tests.fakes.slow_disk` serves as `semanticd serve` does, but slower.

The disk is the real one; each sync, read and removal of a block's file takes longer, mostly about `SLOW_DISK_MS`
(milliseconds, 10 unless set), and now and then `SLOW_DISK_HANG_MS` (2,000 unless set).
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.entrypoints.daemon import serve

_HANGS = 0.01
"""Share of operations that hang."""


class SlowFileSystem(FileSystem):
    """The real file system, whose operations wait first."""

    def __init__(self, *, delay_s: float, hang_s: float, seed: int = 0) -> None:
        """Wait `delay_s` seconds on average, and `hang_s` seconds at every hundredth operation or so."""
        self._delay_s = delay_s
        self._hang_s = hang_s
        self._random = random.Random(seed)

    def _wait(self) -> None:
        hangs = self._random.random() < _HANGS
        time.sleep(
            self._hang_s if hangs else min(self._random.expovariate(1.0) * self._delay_s, self._hang_s)
        )

    def sync(self, fd: int, *, full: bool) -> None:
        """Sync, later."""
        self._wait()
        super().sync(fd, full=full)

    def read(self, path: Path) -> bytes:
        """Read, later."""
        self._wait()
        return super().read(path)

    def remove(self, path: Path) -> bool:
        """Remove, later."""
        self._wait()
        return super().remove(path)


if __name__ == "__main__":
    serve(
        files=SlowFileSystem(
            delay_s=float(os.environ.get("SLOW_DISK_MS", "10")) / 1000,
            hang_s=float(os.environ.get("SLOW_DISK_HANG_MS", "2000")) / 1000,
        )
    )
