"""A slow disk for a real daemon: `python -m tests.fakes.slow_disk` serves as `semanticd serve` does, but slower.

The disk is the real one; each sync, read and removal of a block's file takes longer, mostly about `SLOW_DISK_MS`
(milliseconds, 10 unless set), and now and then `SLOW_DISK_HANG_MS` (2,000 unless set). What the process's memory is
made of goes to the file `SLOW_DISK_MEMORY`, if that is set, a few times a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import threading
import time
from pathlib import Path

from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.entrypoints.daemon import serve

_MEMORY = "SLOW_DISK_MEMORY"
_HANGS = 0.01
"""Share of operations that hang."""


class SlowFileSystem(FileSystem):
    """The real file system, whose operations wait first."""

    def __init__(self, *, delay_s: float, hang_s: float, seed: int = 0) -> None:
        """Wait `delay_s` seconds on average, and `hang_s` seconds at every hundredth operation or so."""
        self._delay_s = delay_s
        self._hang_s = hang_s
        self._random = random.Random(seed)
        self._report = threading.Thread(target=_report_memory, daemon=True)

    def _wait(self) -> None:
        # Not earlier: the heap is set up before there are threads, and MLX is loaded behind its BLAS.
        if _MEMORY in os.environ and self._report.ident is None:
            with contextlib.suppress(RuntimeError):  # another thread was quicker
                self._report.start()
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


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2`: mapped bytes are the fifth of its numbers, those in use the eighth, free ones the ninth."""

    _fields_ = (("numbers", ctypes.c_size_t * 10),)


def memory_parts() -> dict[str, int]:
    """Return what MLX, the C library and the system count, in bytes; `mlx_peak` is the peak since the last call."""
    import mlx.core as mx

    resident, shared = (int(word) for word in Path("/proc/self/statm").read_text().split()[1:3])
    page = os.sysconf("SC_PAGE_SIZE")
    parts = {
        "mlx_active": mx.get_active_memory(),
        "mlx_cache": mx.get_cache_memory(),
        "mlx_peak": mx.get_peak_memory(),
        "files": shared * page,
    }
    mx.reset_peak_memory()
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is not None:
        mallinfo.restype = _MallocInfo
        numbers = mallinfo().numbers
        in_use = numbers[4] + numbers[7]
        parts |= {
            "malloc_in_use": in_use,
            "malloc_free": numbers[8],  # whether it was given back or not
            # Objects of Python, threads' stacks, code's data, and what is free and was not given back.
            "others": (resident - shared) * page - in_use,
        }
    return parts


def _report_memory() -> None:
    path = Path(os.environ[_MEMORY])
    new = path.with_suffix(".new")
    while True:
        new.write_text(json.dumps(memory_parts()))
        new.replace(path)
        time.sleep(0.25)


if __name__ == "__main__":
    serve(
        files=SlowFileSystem(
            delay_s=float(os.environ.get("SLOW_DISK_MS", "10")) / 1000,
            hang_s=float(os.environ.get("SLOW_DISK_HANG_MS", "2000")) / 1000,
        )
    )
