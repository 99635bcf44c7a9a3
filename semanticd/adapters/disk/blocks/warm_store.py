"""The warm store on disk: the port's questions answered from the index, its bytes moved by a small I/O pool.

Lookups touch the index's reading connection only. Reads run concurrently; writes run one after the
other on the write queue, which agents' records share. After any error of the disk, callers get a miss or
a refusal, no exception.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from semanticd.adapters.disk.blocks.index import BlockIndex
from semanticd.adapters.disk.blocks.recovery import Recovery, adopt_named
from semanticd.adapters.disk.blocks.repository import BlockRepository, StoreLimits
from semanticd.adapters.disk.blocks.verification import BackgroundVerification, verify
from semanticd.adapters.disk.blocks.write_batch import PendingTouches, PendingWrite, PendingWrites, Stored
from semanticd.adapters.disk.blocks.write_policy import SeenHashes, WritePolicy
from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.adapters.disk.files.database import is_damage, is_out_of_room
from semanticd.adapters.disk.files.folder import CacheFolder
from semanticd.adapters.disk.files.rare_log import RareLog
from semanticd.adapters.disk.files.volume import UNKNOWN_SPACE, VolumeSpace, default_cap, default_reserve
from semanticd.adapters.disk.files.write_queue import WriteQueue
from semanticd.application.ports.telemetry import Log, Metrics, NullLog, NullMetrics
from semanticd.application.ports.warm_store import (
    BlockRecord,
    ModelSize,
    VerifyReport,
    WarmStats,
    WriteResult,
)
from semanticd.domain.block import Block, LostFile
from semanticd.domain.errors import CacheError, StorageFullError
from semanticd.domain.ids import BlockHash, ModelFingerprint

_T = TypeVar("_T")
_MAX_TOUCHES_KEPT = 4096
_REMEDIES = {
    "the cap is reached": "raise SEMANTIC_AGENT_CACHE_MAX_GB, or unpin or delete agents; what is in RAM is still used",
    "the disk's reserve is reached": "make room on the volume, or lower SEMANTIC_AGENT_DISK_RESERVE_GB",
}
"""Advice about blocks that are not written, by reason."""


@dataclass(frozen=True, slots=True)
class WarmOptions:
    """Options of the warm store; sizes in bytes, None means no limit."""

    cap_bytes: int | Literal["by volume"] | None = None
    reserve_bytes: int | Literal["by volume"] = 0
    """Bytes to keep free on the volume; `by volume`: see `files/volume`, also for the cap."""
    write_policy: WritePolicy = "always"
    write_budget_bytes: int | None = None
    """Bytes that may be written per UTC day."""
    max_queue_bytes: int = 512 * 1024 * 1024
    """Bytes of records waiting to be written; more are refused (any one group fits an empty queue)."""
    num_readers: int = 4
    verify_every_s: float | None = 6 * 3600.0
    """Seconds between background verifications; None: none."""
    verify_bytes_per_s: float = 16e6


class DiskWarmStore:
    """`WarmStore` in a folder; make it with `DiskWarmStore.open`."""

    def __init__(
        self,
        storage: BlockRepository,
        *,
        options: WarmOptions,
        metrics: Metrics,
        log: Log,
        recovery: Recovery | None,
    ) -> None:
        """Take over an open folder; `recovery` runs alongside normal work."""
        self._storage = storage
        self._index = storage.index
        self._options = options
        self._metrics = metrics
        self._log = log
        self._rare_log = RareLog(log)
        self._seen = SeenHashes()
        self._lock = threading.Lock()
        self._pending = PendingWrites(max_bytes=options.max_queue_bytes)
        self._touched = PendingTouches()
        self._doomed: list[frozenset[BlockHash]] = []
        """Blocks whose deletion is queued, a set for each call."""
        self._cap_is_settled = options.cap_bytes != "by volume"
        self._free_disk_bytes: int | None = None
        self._look_at_free_disk()
        self._closed = False
        self._rebuilding = False
        self._stop = threading.Event()
        self.write_queue = WriteQueue(log=log, on_idle=self._rest)
        """All writing to the folder, in order; the agent archive shares it."""
        self._readers = _start_readers(options.num_readers)
        self._recovery = recovery
        storage.on_damaged_index = self._rebuild_soon
        if recovery is not None:
            recovery.start()
        self.write_queue.put(self._put_ballast_back)
        self.write_queue.put(self._warm_up)
        self._verification = (
            BackgroundVerification(
                storage, log=log, every_s=options.verify_every_s, max_bytes_per_s=options.verify_bytes_per_s
            )
            if options.verify_every_s
            else None
        )

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        options: WarmOptions | None = None,
        fs: FileSystem | None = None,
        metrics: Metrics | None = None,
        log: Log | None = None,
        now: Callable[[], float] = time.time,
        on_recovery: Callable[[int, int], None] | None = None,
    ) -> DiskWarmStore:
        """Own the folder and open its index; the files are looked through only after an unclean end.

        `on_recovery` hears (files done, files to do) from a background thread; `now` gives seconds since the
        epoch.

        Raises:
            CacheError: The folder cannot be used, or another process owns it.
        """
        options, fs = options or WarmOptions(), fs or FileSystem()
        metrics, log = metrics or NullMetrics(), log or NullLog()
        folder = CacheFolder.open(root, fs=fs)
        try:
            index = folder.ballast.make_room_for(lambda: BlockIndex(folder.index))
            storage = BlockRepository(
                folder=folder,
                index=index,
                fs=fs,
                limits=_limits(folder, options, fs=fs, stored_bytes=index.totals().file_bytes),
                metrics=metrics,
                log=log,
                now=now,
            )
        except (OSError, sqlite3.Error) as error:
            folder.release(clean=False)
            raise CacheError(
                f"cannot open the cache index {folder.index}: {error}; check the disk and its permissions"
            ) from error
        needed = folder.was_unclean or index.is_new
        recovery = Recovery(storage, log=log, on_progress=on_recovery) if needed else None
        return cls(storage, options=options, metrics=metrics, log=log, recovery=recovery)

    @property
    def folder(self) -> CacheFolder:
        """The folder owned."""
        return self._storage.folder

    def when_pruned(self, hear: Callable[[Sequence[BlockHash]], None]) -> None:
        """Register `hear` for blocks that were removed to make room; it is called on the writing thread."""
        self._storage.on_removed = hear

    @property
    def recovery(self) -> Recovery | None:
        """The recovery running or done since the start, if one was needed."""
        return self._recovery

    def get(self, block_hash: BlockHash) -> Block | None:
        """Return a block's facts if it is stored (index only)."""
        found = self._ask(lambda: self._index.get(block_hash), None)
        return None if found is None or self._is_doomed(block_hash) else found

    def get_many(self, hashes: Sequence[BlockHash]) -> list[Block]:
        """Return the facts of the leading hashes that are stored, stopping at the first that is not."""
        nothing: list[Block] = []
        found = self._ask(lambda: self._index.get_leading(hashes), nothing)
        doomed = next((i for i, block in enumerate(found) if self._is_doomed(block.block_hash)), len(found))
        return found[:doomed]

    def block_bytes(self, hashes: Sequence[BlockHash]) -> dict[BlockHash, int]:
        """Return the tensor bytes of those of these blocks that are stored (index only)."""
        nothing: dict[BlockHash, int] = {}
        found = self._ask(lambda: self._index.block_bytes(hashes), nothing)
        return {name: size for name, size in found.items() if not self._is_doomed(name)}

    def names(self, fingerprint: ModelFingerprint, layout: str) -> list[BlockHash]:
        """Return the names of a model's blocks in one layout, those that are about to be deleted left out."""
        nothing: list[BlockHash] = []
        found = self._ask(lambda: self._index.names(fingerprint, layout), nothing)
        return [name for name in found if not self._is_doomed(name)]

    def children(self, parent: BlockHash) -> list[Block]:
        """Return the stored blocks that directly follow `parent`, most recently used first (at most 512)."""
        nothing: list[Block] = []
        found = self._ask(lambda: self._index.children(parent), nothing)
        return [block for block in found if not self._is_doomed(block.block_hash)]

    def _put_ballast_back(self) -> None:
        self.folder.ballast.put_back()

    def _warm_up(self) -> None:
        if not self._stop.is_set():
            self._index.warm_up()

    def _ask(self, question: Callable[[], _T], nothing: _T) -> _T:
        try:
            return question()
        except sqlite3.Error as error:
            if not self._closed:
                self._log_index_error(error)
            return nothing

    def _log_index_error(self, error: sqlite3.Error) -> None:
        self._metrics.count("warm_index_errors_total")
        self._rare_log.warning("cache_index_not_read", error=str(error))
        if is_damage(error):
            self._rebuild_soon()

    @property
    def knows_all_files(self) -> bool:
        """Whether each block file has a row in the index."""
        return self._storage.knows_all_files

    def find_files(self, names: Iterable[BlockHash], fingerprint: ModelFingerprint) -> Future[int] | None:
        """Look for these blocks' files where the index may lack rows; see the port."""
        if self.knows_all_files:
            return None
        found: Future[int] = Future()
        search = partial(self._find_files, names, fingerprint, found)
        # A damaged index takes no rows: its successor is made on the writing thread.
        if self._rebuilding and self.write_queue.put(search):
            return found
        with contextlib.suppress(RuntimeError):  # closed
            self._readers.submit(search)
            return found
        return None

    def _find_files(
        self, names: Iterable[BlockHash], fingerprint: ModelFingerprint, found: Future[int]
    ) -> None:
        if found.set_running_or_notify_cancel():
            self._search(tuple(names), fingerprint, found)

    def _search(
        self,
        names: Sequence[BlockHash],
        fingerprint: ModelFingerprint,
        found: Future[int],
        *,
        is_last: bool = False,
    ) -> None:
        number: int | None = 0
        try:
            number = self._adopt(names, fingerprint)
        except Exception as error:  # noqa: BLE001 (this thread must live on)
            self._log.error("block_lookup_failed", error=repr(error))
        # If the damage was found just now: search once more, after the new index has been made.
        again = partial(self._search, names, fingerprint, found, is_last=True)
        if number is None and self._rebuilding and not is_last and self.write_queue.put(again):
            return
        found.set_result(number or 0)

    def _adopt(self, names: Sequence[BlockHash], fingerprint: ModelFingerprint) -> int | None:
        """Make the index know these blocks, as far as they lie on disk; returns how many, None: it did not answer."""
        wanted = [name for name in names if not self._is_doomed(name)]
        return self._ask(lambda: adopt_named(self._storage, wanted, fingerprint, log=self._log), None)

    def read(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
        """Read and verify a block; None when it is missing or broken (then it is quarantined and counted)."""
        try:
            return self._readers.submit(self._read, block_hash)
        except RuntimeError:  # closed
            nothing: Future[BlockRecord | None] = Future()
            nothing.set_result(None)
            return nothing

    def _read(self, block_hash: BlockHash) -> BlockRecord | None:
        try:
            return self._storage.read(block_hash)
        except sqlite3.Error as error:
            self._log_index_error(error)
        except Exception as error:  # noqa: BLE001 (this thread must live on)
            self._log.error("block_read_failed", block=block_hash.hex(), error=repr(error))
        return None

    def read_file(self, block_hash: BlockHash) -> bytes | None:
        """Return a verified block file for a peer; None when it is missing, broken or to be deleted.

        Not by the I/O pool, whose readers are for this daemon's own agents: it takes as long as the disk does.
        """
        if self._closed or self._is_doomed(block_hash):
            return None
        found = self._ask(lambda: self._storage.read_file(block_hash), None)
        # Its deletion may have been asked for while it was read.
        return None if found is None or self._is_doomed(block_hash) else found[0]

    def lost_file(self, names: Sequence[BlockHash]) -> LostFile | None:
        """Return what happened to the first of these blocks whose file was lost since the start, or None."""
        return self._storage.lost_file(names)

    def note_lost(self, names: Sequence[BlockHash], what: LostFile) -> None:
        """Record what happened to files of these blocks on another machine that computes with this one."""
        self._storage.note_lost(names, what)

    def wants(self, block_hash: BlockHash) -> bool:
        """Return whether the write policy accepts this block now; the query counts as a use of the block."""
        policy = self._options.write_policy
        if policy == "always" or (policy == "second_use" and self._seen.note(block_hash)):
            return True
        self._metrics.count("warm_refused_total", reason=self._policy_reason)
        return False

    def write(self, records: Sequence[BlockRecord]) -> Future[WriteResult]:
        """Queue records to be stored durably, parents before children. Never raises through the future."""
        result: Future[WriteResult] = Future()
        result.set_running_or_notify_cancel()  # what is queued is written: it cannot be cancelled
        admitted, refused = self._admit(records)
        reason = self._policy_reason if refused else ""
        write = PendingWrite(tuple(_parents_first(admitted)), result, tuple(refused), reason)
        if not self._pending.add(write):
            self._metrics.count("warm_queue_full_total")
            self._answer(write, Stored(refused=write.everyone, reason="the write queue is full"))
        elif not self.write_queue.put(lambda: self._run_write(write)):
            self._pending.remove(write)
            self._answer(write, Stored(refused=write.everyone, reason="the store is closed"))
        return result

    @property
    def _policy_reason(self) -> str:
        return f"write policy {self._options.write_policy}"

    def _admit(self, records: Sequence[BlockRecord]) -> tuple[list[BlockRecord], list[BlockHash]]:
        policy = self._options.write_policy
        if policy == "always":
            return list(records), []
        admitted, refused = [], []
        for record in records:
            block_hash = record.block.block_hash
            if policy == "second_use" and self._seen.note(block_hash):
                admitted.append(record)
            else:
                refused.append(block_hash)
        return admitted, refused

    def _run_write(self, write: PendingWrite) -> None:
        try:
            self._keep_in_place()
            self._write_touches()
            self._settle_cap()
            done = Stored(refused=write.refused, reason=write.reason) + self._storage.store(write.wanted)
        except Exception as error:  # noqa: BLE001 (this thread must live on)
            self._log.error("block_store_failed", error=repr(error))
            done = Stored(refused=write.everyone, reason=f"failed: {error}")
        self._look_at_free_disk()
        self._pending.remove(write)
        self._answer(write, done)

    def _answer(self, write: PendingWrite, done: Stored) -> None:
        if done.refused:
            self._metrics.count("warm_refused_total", len(done.refused), reason=done.reason.split(":")[0])
            self._storage.counters.num_refused += len(done.refused)
            more = {"remedy": _REMEDIES[done.reason]} if done.reason in _REMEDIES else {}
            self._rare_log.warning("blocks_not_written", number=len(done.refused), reason=done.reason, **more)
        write.result.set_result(
            WriteResult(
                num_written=done.num_written,
                num_present=done.num_present,
                num_refused=len(done.refused),
                bytes_written=done.bytes_written,
                reason=done.reason,
                refused=done.refused,
            )
        )

    def touch(self, hashes: Sequence[BlockHash]) -> None:
        """Mark blocks as just used; written to the index with the next write, or when idle."""
        if self._options.write_policy == "second_use":
            for block_hash in hashes:
                self._seen.note(block_hash)
        self._touched.add(hashes, when=self._storage.wall())
        if len(self._touched) > _MAX_TOUCHES_KEPT:
            self.write_queue.put(self._write_touches)

    def _rest(self) -> None:
        """The writing thread's work while there is nothing to write."""
        try:
            self._keep_in_place()
        except (CacheError, sqlite3.Error, OSError) as error:
            self._rare_log.warning("cache_folder_not_made_anew", error=str(error))
            self._look_at_free_disk()
            return
        self._write_touches()
        self._storage.remove_fileless()
        self._storage.rest()
        self._settle_cap()
        self._look_at_free_disk()
        ballast = self.folder.ballast
        if not ballast.is_there and (self._free_disk_bytes or 0) > 2 * ballast.num_bytes:
            ballast.put_back()

    def _keep_in_place(self) -> None:
        """Recreate the folder and index if they were removed, before anything is stored based on the index.

        On the writing thread.

        Raises:
            CacheError: The folder cannot be made or locked.
            sqlite3.Error: The index cannot be opened.
            OSError: Its file cannot be made.
        """
        self.folder.keep_in_place(self._log)
        if not self._index.place.is_held():
            self._storage.knows_all_files = False
            self._log.error("cache_index_rebuilt", index=str(self.folder.index))
            self._rebuild()

    def _settle_cap(self) -> None:
        """Decide again on a cap that goes by the volume, until so much is free there that it is written down."""
        if not self._cap_is_settled:
            storage = self._storage
            storage.cap_bytes = _limits(
                storage.folder, self._options, fs=storage.fs, stored_bytes=storage.bytes_stored
            ).cap_bytes
            self._cap_is_settled = storage.folder.cap.exists()

    def _look_at_free_disk(self) -> None:
        # On the writing thread: a volume that does not answer holds up nothing but writing.
        if not self.folder.is_in_place:
            self._free_disk_bytes = None  # what lies there now may be another volume
            return
        with contextlib.suppress(OSError):
            self._free_disk_bytes = self._storage.free_disk_bytes()

    def _write_touches(self) -> None:
        touched = self._touched.take()
        if touched:
            try:
                self._index.touch(touched)
            except sqlite3.Error as error:
                self._log_index_error(error)

    def delete(self, hashes: Sequence[BlockHash], *, scrub: bool = True) -> Future[int]:
        """Remove blocks and their files soon, also those waiting to be written; the future gets the bytes freed.

        With `scrub` the index's log is emptied, in which their rows may still be read: a flush of the disk.
        """
        doomed = frozenset(hashes)
        self._pending.cancel(lambda record: record.block.block_hash in doomed)
        freed: Future[int] = Future()
        freed.set_running_or_notify_cancel()
        with self._lock:
            self._doomed.append(doomed)

        def remove() -> None:
            num_bytes = 0
            try:
                num_bytes = self._ask(lambda: self._storage.delete(hashes, scrub=scrub), 0)
            except Exception as error:  # noqa: BLE001 (this thread must live on)
                self._log.error("block_delete_failed", error=repr(error))
            with self._lock:
                self._doomed.remove(doomed)
            freed.set_result(num_bytes)

        if not self.write_queue.put(remove):
            with self._lock:
                self._doomed.remove(doomed)
            freed.set_result(0)
        return freed

    def _is_doomed(self, block_hash: BlockHash) -> bool:
        """Return whether the block is about to be deleted; lookups must not find it any longer."""
        return any(block_hash in doomed for doomed in self._doomed)

    def protect(self, hashes: Sequence[BlockHash], *, owner: str) -> None:
        """Replace the set of blocks that `owner` pins (kept in memory: repeat it after a start)."""
        self._storage.protect(hashes, owner=owner)

    def verify(self, *, fix: bool) -> VerifyReport:
        """Check all files against the index and their checksums; with `fix`, quarantine and reconcile. Slow.

        Raises:
            CacheError: The folder or the index cannot be read.
        """
        self._require_folder()
        try:
            return verify(self._storage, fix=fix, stop=self._stop, log=self._log)
        except (OSError, sqlite3.Error) as error:
            raise CacheError(f"cannot verify the cache in {self.folder.root}: {error}") from error

    def prune(self, *, target_bytes: int | None = None, dry_run: bool = False) -> int:
        """Remove least recently used unpinned blocks down to `target_bytes` (default: the cap), or return how much.

        Raises:
            CacheError: As in the port.
        """
        self._require_folder()
        self._write_touches()
        target = self._storage.cap_bytes if target_bytes is None else target_bytes
        if target is None:
            return 0
        prune = self._storage.prunable_bytes if dry_run else self._storage.prune
        return self._removal(lambda: prune(target))

    def _removal(self, remove: Callable[[], int]) -> int:
        """Return the bytes removed.

        Raises:
            CacheError: The index or the disk refuses the change.
        """
        try:
            return remove()
        except (sqlite3.Error, OSError) as error:
            what = "the disk"
            if isinstance(error, sqlite3.Error):
                self._log_index_error(error)
                what = "its index"
            is_full = is_out_of_room(error, folder=self.folder.root)
            remedy = "make room on the disk" if is_full else "check the disk and its permissions"
            raise (StorageFullError if is_full else CacheError)(
                f"cannot remove blocks from the cache folder {self.folder.root}: {what} refuses ({error}); {remedy}"
            ) from error

    def _require_folder(self) -> None:
        """Make sure that the folder and its index are in place, before what is stored is changed on request.

        Not on the writing thread.

        Raises:
            CacheError: The folder is gone, and the message says what to do.
        """
        self.folder.keep_in_place(self._log)
        if not self._index.place.is_held():
            # The index is replaced on the writing thread, before this returns.
            self.write_queue.put(self._keep_in_place)
            self.write_queue.flush()

    def sizes(self) -> tuple[ModelSize, ...]:
        """Return what each model's blocks take, largest first."""
        nothing: tuple[ModelSize, ...] = ()
        return self._ask(self._index.sizes, nothing)

    def clear(self, fingerprint: ModelFingerprint | None = None) -> int:
        """Remove all blocks (of one model), also those waiting to be written; returns the bytes freed.

        Raises:
            CacheError: As in the port.
        """
        self._require_folder()
        self._pending.cancel(lambda record: fingerprint in (None, record.fingerprint))
        return self._removal(lambda: self._storage.clear(fingerprint))

    def stats(self) -> WarmStats:
        """Return the store's numbers; waits for nothing."""
        storage, counters, problem = self._storage, self._storage.counters, self.folder.problem
        return WarmStats(
            num_blocks=storage.totals.num_blocks,
            bytes_stored=storage.bytes_stored,
            cap_bytes=storage.cap_bytes,
            reserve_bytes=storage.reserve_bytes,
            num_refused=counters.num_refused,
            bytes_written=counters.bytes_written,
            bytes_read=counters.bytes_read,
            num_writes=counters.num_writes,
            num_reads=counters.num_reads,
            num_quarantined=counters.num_quarantined,
            num_pruned=counters.num_pruned,
            num_write_errors=counters.num_write_errors,
            pending_writes=self._pending.num_records,
            write_budget_bytes=self._options.write_budget_bytes,
            written_today_bytes=storage.written_today_bytes,
            free_disk_bytes=self._free_disk_bytes if problem is None else None,
            folder_problem=problem,
            recovered_share=None if self._recovery is None else self._recovery.share,
        )

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything queued is durable; False when the time ran out."""
        self.write_queue.put(self._write_touches)
        return self.write_queue.flush(timeout_s)

    def close(self) -> None:
        """Flush, stop all threads, and give the folder up. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._stop.set()
        self._index.stop_warming_up()
        if self._verification is not None:
            self._verification.stop()
        self.write_queue.close()
        if self._recovery is not None:
            self._recovery.stop()
        self._readers.shutdown(wait=True)
        self._write_touches()
        self._storage.remove_fileless()
        clean = not self._rebuilding and (self._recovery is None or self._recovery.complete)
        clean = clean and self._storage.knows_all_files and not self._storage.has_fileless_rows
        self._index.close()
        self.folder.release(clean=clean)

    def _rebuild_soon(self) -> None:
        """Queue the replacement of a damaged index by a new one, made from the files."""
        with self._lock:
            if self._rebuilding:
                return
            self._rebuilding = True
        self._storage.knows_all_files = False
        self._log.error("cache_index_rebuilt", index=str(self.folder.index))
        self.write_queue.put(self._rebuild)

    def _rebuild(self) -> None:
        if self._recovery is not None:
            self._recovery.stop()
        try:
            self._storage.rebuild_index()
            self._recovery = Recovery(self._storage, log=self._log)
            self._recovery.start()
        finally:
            # After a failure the next write that finds no index tries again.
            with self._lock:
                self._rebuilding = False


def _limits(folder: CacheFolder, options: WarmOptions, *, fs: FileSystem, stored_bytes: int) -> StoreLimits:
    """Return the limits in bytes; those that go by the volume are looked up."""
    cap, reserve = options.cap_bytes, options.reserve_bytes
    try:
        space = VolumeSpace(fs.free_bytes(folder.root), fs.volume_bytes(folder.root))
    except OSError:
        space = UNKNOWN_SPACE
    if cap == "by volume":
        cap = default_cap(folder.cap, space, stored_bytes=stored_bytes, fs=fs)
    if reserve == "by volume":
        reserve = default_reserve(space)
    return StoreLimits(cap, options.write_budget_bytes, reserve)


def _start_readers(number: int) -> ThreadPoolExecutor:
    """Return started threads: else the first reads would wait until each of them runs."""
    readers = ThreadPoolExecutor(number, thread_name_prefix="semanticd-warm-reader")
    # One that waits is not idle, so that the next is started; not forever, in case the system refuses one.
    all_started = threading.Barrier(number)
    for _ in range(number):
        readers.submit(all_started.wait, 10.0)
    return readers


def _parents_first(records: Sequence[BlockRecord]) -> list[BlockRecord]:
    """Return the records so that each comes after its parent where both are given; duplicates are dropped."""
    by_hash = {record.block.block_hash: record for record in records}
    ordered: dict[BlockHash, BlockRecord] = {}
    for record in by_hash.values():
        chain: list[BlockRecord] = []
        current: BlockRecord | None = record
        while current is not None and current.block.block_hash not in ordered:
            chain.append(current)
            current = by_hash.get(current.block.parent)
        for link in reversed(chain):
            ordered[link.block.block_hash] = link
    return list(ordered.values())
