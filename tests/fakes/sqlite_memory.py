"""What SQLite itself holds in memory: pages, schemas, statements."""

from __future__ import annotations

import _sqlite3
import ctypes


def sqlite_bytes() -> int:
    """Return the memory in use of all connections of this process, in bytes."""
    # The library that Python's module is linked with, or the module itself where it is part of Python.
    used = ctypes.CDLL(getattr(_sqlite3, "__file__", None)).sqlite3_memory_used
    used.restype = ctypes.c_int64
    return int(used())
