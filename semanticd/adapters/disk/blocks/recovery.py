"""Bringing files and index together after a crash, a lost index, or for a check.

First a survey: it lists files and rows shard by shard, removes what dead processes left half written and rows
whose files are gone, and counts the bytes of files without rows. Then those files are adopted: their headers
are read and rows made. Blocks are read and written meanwhile, between two shards, and those that are asked for are
looked for by their names (`adopt_named`). A file's tensors are verified when they are next read.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from semanticd.adapters.disk.blocks.codec import BlockHeader, BrokenBlockError, decode_header, header_bytes
from semanticd.adapters.disk.blocks.index_rows import NewBlock
from semanticd.adapters.disk.blocks.repository import BlockRepository
from semanticd.adapters.disk.files.atomic import TEMP_SUFFIX, FileSystem, NotRegularFileError
from semanticd.adapters.disk.files.folder import SHARDS, hash_of
from semanticd.application.ports.telemetry import Log
from semanticd.domain.ids import BlockHash, ModelFingerprint

_FIRST_READ_BYTES = 32 * 1024
_ROWS_PER_TRANSACTION = 128
_PAUSE_S = 0.001
"""Between two shards of a survey."""


@dataclass(slots=True)
class Survey:
    """Differences between files and index rows."""

    num_rows: int = 0
    missing: list[BlockHash] = field(default_factory=list)
    """Rows without a file."""
    unindexed: list[Path] = field(default_factory=list)
    """Block files without a row."""
    leftover: list[Path] = field(default_factory=list)
    """Files that are not blocks: partially written by a process that died, or foreign."""


def survey_shard(storage: BlockRepository, shard: str) -> Survey:
    """Compare the rows and files of one shard.

    Raises:
        OSError: The folder cannot be read.
        sqlite3.Error: The index cannot be read.
    """
    rows = {storage.folder.block_path(s.fingerprint, s.block_hash): s for s in storage.index.shard(shard)}
    found = Survey(num_rows=len(rows))
    storage.folder.require()
    files = set(storage.folder.shard_files(shard))
    storage.folder.require()  # what lies in another volume's place says nothing about these rows
    found.missing = [stored.block_hash for path, stored in rows.items() if path not in files]
    for path in sorted(files - rows.keys()):
        (found.leftover if hash_of(path) is None else found.unindexed).append(path)
    return found


def survey(
    storage: BlockRepository,
    *,
    stop: threading.Event,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Survey:
    """Compare everything, and remove leftovers and rows without files; the rest is for `adopt_files`.

    `on_progress` hears how many of the shards are done. Ends early when `stop` is set.
    """
    total = Survey()
    for number, shard in enumerate(SHARDS):
        if stop.is_set():
            break
        on_progress(number)
        with storage.still():
            found = survey_shard(storage, shard)
            reconcile(storage, found)
            for path in found.unindexed:
                storage.note_unindexed(path, _size(storage.fs, path))
        if found.num_rows or found.unindexed:
            # A moment without the lock, or who waits for it would not get it.
            stop.wait(_PAUSE_S)
        total.num_rows += found.num_rows
        total.missing += found.missing
        total.unindexed += found.unindexed
        total.leftover += found.leftover
    return total


def reconcile(storage: BlockRepository, found: Survey) -> None:
    """Remove temporary files and rows without files."""
    for path in found.leftover:
        # Files with other names are not ours to remove.
        if path.name.endswith(TEMP_SUFFIX):
            storage.remove_file(path)
    if found.missing:
        storage.note_lost(found.missing, "missing")
        storage.delete(found.missing, scrub=True)


def adopt_files(
    storage: BlockRepository,
    paths: list[Path],
    *,
    stop: threading.Event,
    log: Log,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Add rows for files that have none, quarantining broken ones; returns the number of rows added.

    `on_progress` gets (files done, files to do). Ends early when `stop` is set; the next start continues.

    Raises:
        sqlite3.Error: The index cannot be read or changed.
    """
    adopted = 0
    for first in range(0, len(paths), _ROWS_PER_TRANSACTION):
        if stop.is_set():
            break
        part = paths[first : first + _ROWS_PER_TRANSACTION]
        rows = [row for path in part if (row := _read_row(storage, path, log=log)) is not None]
        with storage.still():
            adopted += storage.adopt(rows)
            storage.forget_unindexed(part)
        on_progress(first + len(part), len(paths))
    return adopted


def adopt_named(
    storage: BlockRepository, names: Iterable[BlockHash], fingerprint: ModelFingerprint, *, log: Log
) -> int:
    """Add rows for those of one model's named blocks that are on disk without one; returns their number.

    A block's name is its file's name: each costs one file lookup, however many files there are.

    Raises:
        sqlite3.Error: The index cannot be read or changed.
    """
    wanted = list(dict.fromkeys(names))
    known = storage.index.block_bytes(wanted)
    paths = (storage.folder.block_path(fingerprint, name) for name in wanted if name not in known)
    lying = [path for path in paths if _size(storage.fs, path)]
    return adopt_files(storage, lying, stop=threading.Event(), log=log)


def read_header(fs: FileSystem, path: Path, *, expected: BlockHash) -> BlockHeader:
    """Read and check a block file's header only.

    Raises:
        OSError: The file cannot be read.
        BrokenBlockError: The header is not that of the named block.
    """
    start, file_bytes = fs.read_start(path, _FIRST_READ_BYTES)
    end = header_bytes(start)
    if end > len(start):
        start, file_bytes = fs.read_start(path, end)
    return decode_header(start, file_bytes=file_bytes, expected=expected)


def _read_row(storage: BlockRepository, path: Path, *, log: Log) -> NewBlock | None:
    expected = hash_of(path)
    if expected is None:
        return None
    try:
        header = read_header(storage.fs, path, expected=expected)
        if path != storage.folder.block_path(header.fingerprint, expected):
            raise BrokenBlockError("the file lies in another model's folder")
        used_at = storage.fs.modified_at(path)
    except (BrokenBlockError, NotRegularFileError) as error:
        storage.quarantine(path, block_hash=None, reason=str(error))
        return None
    except OSError as error:
        log.warning("block_file_not_read", path=str(path), error=str(error))
        return None
    return NewBlock(
        block=header.block,
        fingerprint=header.fingerprint,
        layout=header.layout,
        file_bytes=header.file_bytes,
        used_at=used_at,
    )


def _size(fs: FileSystem, path: Path) -> int:
    try:
        return fs.size(path)
    except OSError:
        return 0


class Recovery:
    """A recovery in the background, on a thread of its own."""

    def __init__(
        self, storage: BlockRepository, *, log: Log, on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Prepare; nothing happens before `start`."""
        self._storage = storage
        self._log = log
        self._on_progress = on_progress
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._done = threading.Event()
        self._failed = False
        self.progress: tuple[int, int] = (0, 0)
        """Files adopted or set aside, and files there were to look at."""
        self._surveyed = 0

    @property
    def complete(self) -> bool:
        """Whether files and index agree as far as recovery knows."""
        return self._done.is_set() and not self._failed

    @property
    def share(self) -> float | None:
        """Completed share of the work, from 0 to 1; None if no recovery runs."""
        if self._done.is_set():
            return None
        done, total = self.progress
        # Listing files and reading their headers count for half each.
        return 0.5 * self._surveyed / len(SHARDS) + (0.5 * done / total if total else 0.0)

    def start(self) -> None:
        """Start looking through all files."""
        self._storage.knows_all_files = False
        self._thread = threading.Thread(target=self._run, name="semanticd-warm-recovery", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            found = survey(self._storage, stop=self._stop, on_progress=self._note_shards)
            if self._stop.is_set():
                self._failed = True
                return
            self._log.info(
                "cache_folder_recovered",
                num_rows=found.num_rows,
                num_missing=len(found.missing),
                num_unindexed=len(found.unindexed),
                num_leftover=len(found.leftover),
            )
            self.progress, self._surveyed = (0, len(found.unindexed)), len(SHARDS)
            adopt_files(
                self._storage, found.unindexed, stop=self._stop, log=self._log, on_progress=self._report
            )
            if self._stop.is_set() and self.progress[0] < self.progress[1]:
                self._failed = True
        except (OSError, sqlite3.Error) as error:
            self._fail(error)
        finally:
            self._storage.knows_all_files = not self._failed
            self._done.set()

    def _note_shards(self, done: int) -> None:
        self._surveyed = done

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; False when the time ran out."""
        return self._done.wait(timeout_s)

    def stop(self, *, wait: bool = True) -> None:
        """Stop adopting; the rest is found again at the next start. `wait` for the thread's end."""
        self._stop.set()
        if wait and self._thread is not None:
            self._thread.join()

    def _report(self, done: int, total: int) -> None:
        self.progress = (done, total)
        if self._on_progress is not None:
            self._on_progress(done, total)

    def _fail(self, error: Exception) -> None:
        self._log.error("cache_recovery_failed", error=str(error))
        self._failed = True
