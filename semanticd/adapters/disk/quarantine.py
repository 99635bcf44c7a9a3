"""Where broken block files are set aside for whoever wants to look: a few, never many."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from semanticd.adapters.disk.atomic import FileSystem

MAX_FILES = 16


class Quarantine:
    """A folder of broken files, newest kept; its bytes count towards the cap and it is emptied first."""

    def __init__(self, folder: Path, *, fs: FileSystem, max_files: int = MAX_FILES) -> None:
        """Take stock of what an earlier process set aside."""
        self._folder = folder
        self._fs = fs
        self._max_files = max_files
        self._sizes: dict[Path, int] = {}
        for name in sorted(fs.list_files(folder)):
            with contextlib.suppress(OSError):
                self._sizes[folder / name] = fs.size(folder / name)

    @property
    def num_bytes(self) -> int:
        """Bytes of the files held."""
        return sum(self._sizes.values())

    def take(self, path: Path) -> None:
        """Move a file here (remove it if that fails); the oldest beyond the bound goes. Raises OSError."""
        # The time in front makes names sort by age.
        target = self._folder / f"{time.time_ns():020d}-{path.name}"
        try:
            self._fs.rename(path, target)
            self._sizes[target] = self._fs.size(target)
        except OSError:
            self._fs.remove(path)
            raise
        while len(self._sizes) > self._max_files:
            oldest = min(self._sizes)
            self._fs.remove(oldest)
            del self._sizes[oldest]

    def empty(self) -> int:
        """Remove all files; returns the bytes freed."""
        freed = 0
        for path in list(self._sizes):
            with contextlib.suppress(OSError):
                self._fs.remove(path)
                freed += self._sizes.pop(path)
        return freed
