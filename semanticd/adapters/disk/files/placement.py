"""Whether a file that is open still lies at its path.

Rule: a file that was removed, with its folder or alone, takes writes as before and loses them when it is closed. So
what must be durable asks this first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A file as it was opened; make it with `FilePlace.of`."""

    path: Path
    device: int
    inode: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> FilePlace:
        """Remember the file that lies at this path now.

        Raises:
            OSError: There is none, or it cannot be read.
        """
        info = path.stat()
        return cls(path, info.st_dev, info.st_ino, info.st_mtime_ns)

    def is_held(self) -> bool:
        """Return whether the file still exists and no other file has replaced it."""
        try:
            info = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # a disk that fails says nothing about it
        return (info.st_dev, info.st_ino) == (self.device, self.inode)

    def volume_is_there(self) -> bool:
        """Return whether a file created at this path would lie on the same volume as before.

        A volume that was attached again may be another device; then the file itself is there, as it was.
        """
        folder = next((folder for folder in self.path.parents if folder.is_dir()), None)
        try:
            if folder is None or folder.stat().st_dev == self.device:
                return folder is not None
            info = self.path.lstat()
        except OSError:
            return False
        return (info.st_ino, info.st_mtime_ns) == (self.inode, self.modified_ns)
