"""Room that is kept for deletions: a file that is given up where a full disk refuses a database's transaction.

SQLite needs room to remove rows. On a disk without any, the file is removed, the transaction made, the database's log
emptied, and the file put back. A process that dies in between leaves no file, and the next one makes it again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from semanticd.adapters.disk.files.atomic import FILE_MODE
from semanticd.adapters.disk.files.database import is_out_of_room

_T = TypeVar("_T")
BALLAST_BYTES = 4 * 1024 * 1024
"""Bytes that deleting an agent of some hundred thousand tokens writes to the log of its database."""
_PARTS = 8


class Ballast:
    """A file of `num_bytes` that holds nothing. Callable from any thread."""

    def __init__(self, path: Path, *, num_bytes: int = BALLAST_BYTES) -> None:
        """Take over the file at `path`; it is made by `put_back`."""
        self._path = path
        self._lock = threading.Lock()
        self.num_bytes = num_bytes

    @property
    def is_there(self) -> bool:
        """Whether the file exists in full size."""
        try:
            return self._path.lstat().st_size >= self.num_bytes
        except OSError:
            return False

    def put_back(self) -> bool:
        """Make the file unless it exists, as large as there is room; returns False where it is smaller than wanted."""
        with self._lock:
            return self._put_back()

    def make_room_for(self, action: Callable[[], _T], *, after: Callable[[], object] = lambda: None) -> _T:
        """Return the result of `action`; if the disk is full, free the file's room and retry once.

        `after` returns the room that the action took, such as a database's log.

        Raises:
            Exception: Any exception of `action`.
        """
        try:
            return action()
        except (OSError, sqlite3.Error) as error:
            if not is_out_of_room(error, folder=self._path.parent):
                raise
            with self._lock:
                try:
                    self._path.unlink()
                except OSError:
                    raise error from None
                try:
                    return action()
                finally:
                    with contextlib.suppress(sqlite3.Error):
                        after()
                    self._put_back()

    def _put_back(self) -> bool:
        if self.is_there:
            return True
        # Files that took its room may keep some of it, such as the index of a database's log.
        return next(
            (part == _PARTS for part in range(_PARTS, 0, -1) if self._make(self.num_bytes * part // _PARTS)),
            False,
        )

    def _make(self, num_bytes: int) -> bool:
        try:
            self._path.unlink(missing_ok=True)  # a part, or one that was not finished
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            try:
                _fill(fd, num_bytes)
            except OSError:
                self._path.unlink()
                raise
            finally:
                os.close(fd)
        except OSError:
            return False
        return True


def _fill(fd: int, num_bytes: int) -> None:
    """Make an empty file take its room on the volume.

    Raises:
        OSError: The volume has no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, num_bytes)
        return
    # Bytes that a volume cannot compress, for it would keep less room then.
    piece = os.urandom(64 * 1024)
    while num_bytes > 0:
        written = os.write(fd, piece[:num_bytes])
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        num_bytes -= written
