"""The folder of broken block files, kept for inspection: a few, never many."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.domain.ids import BlockHash

MAX_FILES = 16


class Quarantine:
    """A folder of broken files, newest kept; its bytes count towards the cap and it is emptied first."""

    def __init__(self, folder: Path, *, fs: FileSystem, max_files: int = MAX_FILES) -> None:
        self._folder = folder
        self._fs = fs
        self._max_files = max_files
        self.num_bytes = 0
        """Bytes of the files held."""
        self._sizes: dict[Path, int] = {}
        for name in sorted(fs.list_files(folder)):
            with contextlib.suppress(OSError):
                self._hold(folder / name)

    def take(self, path: Path) -> None:
        """Move a file here (remove it if that fails); the oldest files beyond the bound are removed.

        A symbolic link is removed: it has nothing to inspect, and what it leads to is not ours.

        Raises:
            OSError: The file can be neither moved nor removed.
        """
        if self._fs.is_link(path):
            self._fs.remove(path)
            return
        # The time in front makes names sort by age.
        target = self._folder / f"{time.time_ns():020d}-{path.name}"
        try:
            self._fs.rename(path, target)
            self._hold(target)
        except OSError:
            self._fs.remove(path)
            raise
        while len(self._sizes) > self._max_files:
            self._drop(min(self._sizes))

    def drop(self, names: Iterable[BlockHash]) -> int:
        """Remove the files of these blocks; returns the bytes freed."""
        doomed = {name.hex() for name in names}
        freed = 0
        for path in list(self._sizes):
            # `take` puts 20 digits and a dash in front of the block's name.
            if path.name[21:85] in doomed:
                with contextlib.suppress(OSError):
                    freed += self._drop(path)
        return freed

    def empty(self) -> int:
        """Remove all files; returns the bytes freed."""
        freed = 0
        for path in list(self._sizes):
            with contextlib.suppress(OSError):
                freed += self._drop(path)
        return freed

    def _hold(self, path: Path) -> None:
        self._sizes[path] = self._fs.size(path)
        self.num_bytes += self._sizes[path]

    def _drop(self, path: Path) -> int:
        self._fs.remove(path)
        num_bytes = self._sizes.pop(path)
        self.num_bytes -= num_bytes
        return num_bytes
