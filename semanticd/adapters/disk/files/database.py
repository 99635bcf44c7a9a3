"""Common code of our SQLite files: opening, changing, and setting aside a damaged one."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from semanticd.domain.errors import CacheError

_SUFFIXES = ("", "-wal", "-shm")
_DAMAGED = ".damaged"
_PROBE_BYTES = 8 * 1024 * 1024
"""More than the ballast, which another thread may have given up for a moment; random, for a volume that compresses."""
_PRAGMAS = {
    "journal_mode": "WAL",
    # Deleted content is overwritten, so that it cannot be read from the file.
    "secure_delete": "ON",
}


def connect(path: Path, pragmas: Mapping[str, str | int]) -> sqlite3.Connection:
    """Open a database with these pragmas and our own.

    Raises:
        sqlite3.Error: The database cannot be opened.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    try:
        for name, value in {**_PRAGMAS, **pragmas}.items():
            connection.execute(f"PRAGMA {name} = {value}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def release_pages(connection: sqlite3.Connection) -> None:
    """Free the pages that a connection keeps in memory; it reads them again when they are asked for.

    SQLite itself keeps them for as long as the connection is open.
    """
    connection.execute("PRAGMA shrink_memory")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Make the changes inside all or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            # A full disk may have rolled it back already.
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")


def schema_version(connection: sqlite3.Connection, path: Path, *, newest: int) -> int:
    """Return the version of a database's schema, 0 for an empty one.

    Raises:
        CacheError: The version is beyond `newest`. The database is whole, and must not be taken for a damaged one.
        sqlite3.Error: The database cannot be read.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > newest:
        raise CacheError(
            f"cannot open {path}: a newer semanticd wrote it (schema {version}, this version reads up to {newest});"
            " install the newer version again, or move the file away to start without its data"
        )
    return version


def is_damage(error: BaseException) -> bool:
    """Return whether an error means a corrupt database, as opposed to a busy, full or temporarily unreadable one."""
    # SQLite's "malformed" and "not a database" come as the base class itself; subclasses stand for other things.
    return type(error) is sqlite3.DatabaseError or (
        isinstance(error, sqlite3.OperationalError) and str(error).startswith("no such table")
    )


def is_out_of_room(error: BaseException, *, folder: Path) -> bool:
    """Return whether an error means that the folder's disk is full or a quota is exhausted.

    SQLite has one error for a quota, for the index of a log that cannot grow, and for a disk that fails. Writing
    something else distinguishes them: freeing space does not help against a failing disk.
    """
    if isinstance(error, sqlite3.OperationalError):
        text = str(error)
        return text == "database or disk is full" or (text == "disk I/O error" and not _takes_bytes(folder))
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def _takes_bytes(folder: Path) -> bool:
    """Return whether a small test write succeeds, or fails for another reason than a full disk."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(os.urandom(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return not is_out_of_room(error, folder=folder)
    return True


def set_aside(path: Path) -> None:
    """Rename a damaged database, so that a new one can be begun in its place.

    Raises:
        OSError: The file cannot be renamed.
    """
    for suffix in _SUFFIXES:
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.replace(path.with_name(path.name + _DAMAGED + suffix))


def files_set_aside(path: Path) -> list[Path]:
    """Return where `set_aside` puts the files of a database."""
    return [path.with_name(path.name + _DAMAGED + suffix) for suffix in _SUFFIXES]
