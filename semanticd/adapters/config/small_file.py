"""A file of settings, read whole: a regular file of at most 1 MiB, whatever the path refers to.

Rule: what is judged is what is read, so facts and content come from one descriptor; nothing in the file's place (a
pipe, a device, a file of the kernel's without an end) makes us wait or fills the memory.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_MAX_BYTES = 1024 * 1024


def read_small_file(path: Path) -> tuple[str, os.stat_result]:
    """Return a file's text and the facts about it.

    Raises:
        OSError: It cannot be opened or read.
        ValueError: It is not a regular file of at most 1 MiB, or not UTF-8.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        is_small = stat.S_ISREG(info.st_mode) and info.st_size <= _MAX_BYTES
        # A file of the kernel's has no size, and where it has nothing to say yet this reads None.
        content = file.read(_MAX_BYTES + 1) if is_small else None
        if content is None or len(content) > _MAX_BYTES:
            raise ValueError("it is not a regular file of at most 1 MiB")
        return content.decode("utf-8"), info
