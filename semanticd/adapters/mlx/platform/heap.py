"""Returns unused memory of the process to the system.

The budget counts tensors in use. On top of them come two pools of freed memory, each bounded here:

- glibc raises its own limit for blocks that are returned at once (up to 32 MiB) and opens an arena per thread, so that
  freed tensors stay in the process. The limits are fixed at shares of the cache budget, because a block that was
  returned must be mapped again for the next tensor, which takes longer than computing it; and there is one arena, so
  that memory freed by a reading thread serves the computing one. Kept memory is returned when no thread computes,
  except a reserve for the next conversation, and gaps between tensors as soon as they are more than may be kept.
  Other C libraries, macOS's among them, return memory by themselves.
- MLX keeps freed buffers for the next tensor of that size; how many is decided by machine, in `domain.memory_plan`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_NUM_ARENAS = 1
_MIB, _GIB = 1 << 20, 1 << 30
_KEPT_SHARE = 16
_LARGE_SHARE = 128


def return_freed_memory(*, budget_bytes: int) -> bool:
    """Make glibc return freed memory; whether it did. To be called before there are threads.

    Of a cache budget of 4 GiB it may keep 256 MiB, of 1 GiB 64, of 512 MiB 16; blocks from 32 MiB on, of a budget of
    512 MiB from 4 MiB on, are returned at once. `MALLOC_…` variables and `GLIBC_TUNABLES` take precedence: where one is
    set, nothing is changed.
    """
    mallopt = _from_glibc("mallopt")
    if mallopt is None or any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    settings = (
        (_M_ARENA_MAX, _NUM_ARENAS),
        (_M_MMAP_THRESHOLD, _large_bytes(budget_bytes)),
        (_M_TRIM_THRESHOLD, _kept_bytes(budget_bytes)),
    )
    done = [mallopt(name, value) == 1 for name, value in settings]
    return all(done)


def give_back() -> None:
    """Return glibc's free memory to the system now; takes milliseconds, and later allocations map it again."""
    trim = _from_glibc("malloc_trim")
    if trim is not None:
        trim(0)


class Gaps:
    """The free memory between tensors in use; for one thread at a time.

    Blocks that come and go for hours leave gaps that glibc never returns by itself. glibc does not distinguish those
    that were returned from those that still take memory: what the process takes besides MLX's tensors does.
    """

    def __init__(self, *, budget_bytes: int) -> None:
        """Let as much be kept as `return_freed_memory` does."""
        self._most = _kept_bytes(budget_bytes)
        self._other_bytes: int | None = None
        """Memory of the process besides tensors, measured without gaps."""

    def trim(self) -> bool:
        """Give gaps back, if there are more than may be kept; returns whether there were.

        Takes about 10 ms for 100 MiB, and 0.1 ms where there is nothing to return.
        """
        if _from_glibc("mallinfo2") is None:
            return False
        other = _other_bytes()
        if self._other_bytes is not None and other - self._other_bytes <= self._most:
            self._other_bytes = min(self._other_bytes, other)
            return False
        has_gaps = _free_bytes() > self._most
        if has_gaps:
            give_back()
        self._other_bytes = _other_bytes()
        return has_gaps


def _free_bytes() -> int:
    """Return the bytes that glibc has free, returned to the system or not; it looks at each gap."""
    mallinfo = _from_glibc("mallinfo2")
    mallinfo.restype = _MallocInfo
    return int(mallinfo().fordblks)


def _other_bytes() -> int:
    """Return what the process has in RAM that is neither a file's nor MLX's: objects, and gaps."""
    import mlx.core as mx

    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    anonymous = (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    return anonymous - mx.get_active_memory() - mx.get_cache_memory()


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2`; `fordblks` counts the free bytes of all arenas, returned to the system or not."""

    _fields_ = (
        ("arena", ctypes.c_size_t),
        ("ordblks", ctypes.c_size_t),
        ("smblks", ctypes.c_size_t),
        ("hblks", ctypes.c_size_t),
        ("hblkhd", ctypes.c_size_t),
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    )


def reserve(*, budget_bytes: int) -> None:
    """Map the memory that the next conversation takes, so that it need not wait for that.

    Half of what glibc may keep: 128 MiB of a cache budget of 4 GiB, which takes up to a tenth of a second.
    """
    if _from_glibc("mallopt") is None:
        return
    # Larger blocks would be returned at once.
    size = _large_bytes(budget_bytes) // 2
    blocks = [bytearray(size) for _ in range(_kept_bytes(budget_bytes) // 2 // size)]
    blocks.clear()


def _from_glibc(name: str) -> Any:
    """Return a function that only glibc has, or None."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def _large_bytes(budget_bytes: int) -> int:
    return min(max(budget_bytes // _LARGE_SHARE, _MIB), 32 * _MIB)


def _kept_bytes(budget_bytes: int) -> int:
    # Activations and Python's objects take the same memory whatever the budget is. A small budget's tenth for all that
    # is not KV so leaves less of it for freed memory.
    share = budget_bytes // _KEPT_SHARE * min(budget_bytes, _GIB) // _GIB
    return min(max(share, _MIB), 256 * _MIB)


def limit_buffer_cache(num_bytes: int) -> None:
    """Limit the freed buffers that MLX keeps to this number of bytes, or to its own limit if that is lower."""
    import mlx.core as mx

    theirs = mx.set_cache_limit(num_bytes)
    mx.set_cache_limit(min(num_bytes, theirs))
