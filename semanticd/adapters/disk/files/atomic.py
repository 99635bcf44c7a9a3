"""Writing files so that after a crash each one is either whole or not there.

Every operation on the block folder goes through `FileSystem`, the one seam where tests inject a full or
failing disk and where platforms differ: on macOS `fsync` reaches the drive but not its platters,
`F_FULLFSYNC` does.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TEMP_SUFFIX = ".tmp"
FILE_MODE = 0o600
FOLDER_MODE = 0o700

_MAX_PIECES = 256
_MAX_WRITE_BYTES = 64 * 1024 * 1024

_counter = itertools.count()


class NotRegularFileError(OSError):
    """A link, a named pipe, a folder or a device lies in the place of a file; it is never followed nor read."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be written: its final path and its content in pieces, which may be made as they are written."""

    path: Path
    pieces: Iterable[bytes | memoryview]


class FileSystem:
    """The operating system's files, as far as the warm store needs them. All methods raise OSError."""

    def create(self, path: Path) -> int:
        """Create a file that must not exist yet, for writing, private to the user; returns its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)

    def writev(self, fd: int, pieces: Sequence[bytes | memoryview]) -> int:
        """Write some of the pieces' bytes; returns how many."""
        return os.writev(fd, pieces)

    def sync(self, fd: int, *, full: bool) -> None:
        """Make a file or folder durable; `full` also empties the drive's own cache, of earlier files too."""
        if full and sys.platform == "darwin":
            import fcntl

            try:
                fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            except OSError:  # network and some external volumes do not know it
                os.fsync(fd)
        else:
            os.fsync(fd)

    def free_bytes(self, path: Path) -> int:
        """Return what this user may still write on the path's volume."""
        return shutil.disk_usage(path).free

    def volume_bytes(self, path: Path) -> int:
        """Return the size of the path's volume."""
        return shutil.disk_usage(path).total

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file atomically; replaces an existing one."""
        source.replace(target)

    def open_folder(self, path: Path) -> int:
        """Return a descriptor of a folder, to be synced."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def make_folder(self, path: Path) -> bool:
        """Create a private folder and its parents; returns False when it was there."""
        if path.is_dir():
            return False
        self.make_folder(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir(FOLDER_MODE)
        return True

    def read(self, path: Path) -> bytes:
        """Return a regular file's whole content."""
        with self.open_regular(path) as file:
            return file.readall()

    def read_start(self, path: Path, num_bytes: int) -> tuple[bytes, int]:
        """Return a regular file's first bytes and its size."""
        with self.open_regular(path) as file:
            return file.read(num_bytes) or b"", os.fstat(file.fileno()).st_size

    def remove(self, path: Path) -> bool:
        """Remove a file; returns False when it was not there."""
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def list_files(self, folder: Path) -> list[str]:
        """Return the names in a folder; none when the folder is not there."""
        try:
            return os.listdir(folder)  # noqa: PTH208 (names are wanted, by the hundred thousand)
        except FileNotFoundError:
            return []

    def size(self, path: Path) -> int:
        """Return the size in bytes of what lies at a path; a link is not followed."""
        return path.lstat().st_size

    def is_link(self, path: Path) -> bool:
        """Return whether a symbolic link lies at a path."""
        return path.is_symlink()

    def write_small(self, path: Path, data: bytes) -> None:
        """Write a small file of our own, readable by the user only.

        Raises:
            OSError: The file cannot be written.
        """
        fd = self.create(path)
        try:
            if os.write(fd, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            self.remove(path)
            raise
        finally:
            self.close(fd)

    def modified_at(self, path: Path) -> float:
        """Return when a file was last written, in seconds since the epoch."""
        return path.stat().st_mtime

    def open_regular(self, path: Path) -> io.FileIO:
        """Open a regular file for reading, unbuffered, so that a block's bytes are copied once.

        Raises:
            NotRegularFileError: Something else lies there.
            OSError: It cannot be opened.
        """
        # A named pipe in the place of a block must not make us wait, nor a link lead us elsewhere.
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            if path.is_symlink():
                raise NotRegularFileError(error.errno, "it is a symbolic link", str(path)) from error
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise NotRegularFileError(errno.EINVAL, "it is not a regular file", str(path))
        return io.FileIO(fd, "rb")


def write_group(fs: FileSystem, files: Sequence[NewFile]) -> None:
    """Write files durably, in order (parents before children); either all are there afterwards or none.

    All contents reach the disk before the first gets its name, so that no name ever stands for less than a
    whole file. One full flush empties the drive's cache for the whole group.

    Raises:
        OSError: A file could not be written; the files of this call are removed first.
    """
    temps: list[Path] = []
    named: list[Path] = []
    try:
        for folder in dict.fromkeys(file.path.parent for file in files):
            _make_durable_folder(fs, folder)
        for position, file in enumerate(files):
            temp = file.path.with_name(f"{file.path.name}.{os.getpid()}-{next(_counter)}{TEMP_SUFFIX}")
            temps.append(temp)
            _write_one(fs, temp, file.pieces, full=position == len(files) - 1)
        for temp, file in zip(temps, files, strict=True):
            fs.rename(temp, file.path)
            named.append(file.path)
        folders = list(dict.fromkeys(file.path.parent for file in files))
        for position, folder in enumerate(folders):
            _sync_folder(fs, folder, full=position == len(folders) - 1)
    except BaseException:
        for path in (*named, *temps[len(named) :]):
            with contextlib.suppress(OSError):
                fs.remove(path)
        raise


def _write_one(fs: FileSystem, path: Path, pieces: Iterable[bytes | memoryview], *, full: bool) -> None:
    fd = fs.create(path)
    try:
        for batch in _batches(pieces):
            _write_all(fs, fd, batch)
        fs.sync(fd, full=full)
    finally:
        fs.close(fd)


def _batches(pieces: Iterable[bytes | memoryview]) -> Iterator[list[bytes | memoryview]]:
    """Cut pieces into lists that one `writev` takes: few enough, and small enough for every kernel."""
    batch: list[bytes | memoryview] = []
    num_bytes = 0
    for piece in pieces:
        view = memoryview(piece).cast("B")
        for start in range(0, len(view), _MAX_WRITE_BYTES):
            part = view[start : start + _MAX_WRITE_BYTES]
            if batch and (len(batch) == _MAX_PIECES or num_bytes + len(part) > _MAX_WRITE_BYTES):
                yield batch
                batch, num_bytes = [], 0
            batch.append(part)
            num_bytes += len(part)
    if batch:
        yield batch


def _write_all(fs: FileSystem, fd: int, batch: list[bytes | memoryview]) -> None:
    while batch:
        written = fs.writev(fd, batch)
        while batch and written >= len(batch[0]):
            written -= len(batch.pop(0))
        if batch and written:
            batch[0] = memoryview(batch[0])[written:]


def _make_durable_folder(fs: FileSystem, folder: Path) -> None:
    if fs.make_folder(folder):
        # The new entries themselves must survive: sync both levels that may have been made.
        _sync_folder(fs, folder.parent, full=False)
        _sync_folder(fs, folder.parent.parent, full=False)


def _sync_folder(fs: FileSystem, folder: Path, *, full: bool) -> None:
    fd = fs.open_folder(folder)
    try:
        fs.sync(fd, full=full)
    finally:
        fs.close(fd)
