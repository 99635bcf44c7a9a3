"""The memory of this process as MLX and the system report it, for the self-test."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass

import mlx.core as mx
import psutil

_TOO_MANY_BYTES = 1 << 48
_NUM_NUMBERS = 10
_FOOTPRINT = 7
"""Index of `ri_phys_footprint` among the numbers of `struct rusage_info_v0`, which follow a UUID of 16 bytes."""


@dataclass(frozen=True, slots=True)
class MemoryCounters:
    """Bytes that arrays take, that they took at most since `reset_peak`, and that the whole process takes."""

    active_bytes: int
    peak_bytes: int
    footprint_bytes: int


def read_memory() -> MemoryCounters:
    """Return the counters as of now; where MLX computes, on the thread that owns it."""
    return MemoryCounters(mx.get_active_memory(), mx.get_peak_memory(), footprint_bytes())


def reset_peak() -> None:
    """Reset the peak to the active memory."""
    mx.reset_peak_memory()


def footprint_bytes() -> int:
    """Return the memory that the system accounts to this process.

    On macOS that is the physical footprint, as in Activity Monitor, which counts the GPU's memory and what was
    compressed (proc_pid_rusage, in XNU's bsd/sys/resource.h); elsewhere the resident set.
    """
    found = _physical_footprint() if sys.platform == "darwin" else None
    return found or int(psutil.Process().memory_info().rss)


def _physical_footprint() -> int | None:
    numbers = (ctypes.c_uint64 * (2 + _NUM_NUMBERS))()
    try:
        failed = ctypes.CDLL(None).proc_pid_rusage(os.getpid(), 0, ctypes.byref(numbers))
    except (OSError, AttributeError):
        return None
    return None if failed else int(numbers[2 + _FOOTPRINT])


def allocation_fails_cleanly() -> bool:
    """Return whether a failed allocation raises an error: MLX's CPU back end aborts the process (0.32)."""
    return mx.default_device() != mx.Device(mx.cpu)


def allocate_too_much() -> None:
    """Ask for an array that no machine holds, 256 TiB; where that would end the process, say what a GPU would.

    Raises:
        RuntimeError: MLX's error when an allocation fails.
    """
    if not allocation_fails_cleanly():
        raise RuntimeError(f"[malloc] Unable to allocate {_TOO_MANY_BYTES} bytes.")
    mx.eval(mx.zeros((_TOO_MANY_BYTES >> 20, 1 << 20), mx.uint8) + 1)
