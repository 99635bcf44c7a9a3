"""Block files and their index, changed together: every action of the warm store, one at a time, under one lock.

Order makes it safe to die anywhere: when storing, files are durable before their rows; when removing, rows go
before their files. So a row always names a whole file, and a file without a row is found by recovery.

On a disk so full that no row can be removed, files go first: that makes the room. A row that is left without its file
is a miss when it is read, and recovery finds it.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from semanticd.adapters.disk.blocks.codec import BrokenBlockError, decode
from semanticd.adapters.disk.blocks.index import BlockIndex
from semanticd.adapters.disk.blocks.index_rows import NewBlock, StoredBlock
from semanticd.adapters.disk.blocks.quarantine import Quarantine
from semanticd.adapters.disk.blocks.write_batch import OutgoingBlock, Stored, groups_of, leading, total_bytes
from semanticd.adapters.disk.files.atomic import FileSystem, NotRegularFileError, write_group
from semanticd.adapters.disk.files.database import is_damage, is_out_of_room
from semanticd.adapters.disk.files.folder import SHARDS, CacheFolder, hash_of
from semanticd.adapters.disk.files.rare_log import RareLog
from semanticd.application.ports.telemetry import Log, Metrics
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.block import LostFile
from semanticd.domain.ids import BlockHash, ModelFingerprint

_MAX_LOST = 16_384
"""Blocks whose files were lost that are remembered: enough for every conversation's first one."""
_REMOVED_AT_ONCE = 64
"""Blocks whose rows are removed in one transaction on a full disk: a log of about a megabyte."""
PRUNED_AT_ONCE = 1024
"""Blocks that are removed on request before others are written: about a tenth of a second."""
_PAUSE_S = 0.001
"""Pause between two parts without the lock, so that waiting threads can take it."""
_VAIN_PRUNING_S = 60.0
"""Seconds until blocks are removed for the reserve again, after a removal that freed no space."""


@dataclass(slots=True)
class Counters:
    """Counters since this process opened the folder."""

    bytes_written: int = 0
    bytes_read: int = 0
    num_writes: int = 0
    num_reads: int = 0
    num_quarantined: int = 0
    num_pruned: int = 0
    num_write_errors: int = 0
    num_refused: int = 0


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Limits in bytes: total storage, and writes per UTC day; None means no limit."""

    cap_bytes: int | None = None
    write_budget_bytes: int | None = None
    reserve_bytes: int = 0
    """Nothing is written that would leave less than this free on the volume."""


class BlockRepository:
    """Blocks on disk under one byte cap. Callable from any thread; may take as long as the disk does."""

    def __init__(
        self,
        *,
        folder: CacheFolder,
        index: BlockIndex,
        fs: FileSystem,
        limits: StoreLimits | None = None,
        metrics: Metrics,
        log: Log,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take over an owned folder and its index; `now` gives seconds since the epoch."""
        self.folder = folder
        self.index = index
        self.fs = fs
        limits = limits or StoreLimits()
        self.cap_bytes = limits.cap_bytes
        self.write_budget_bytes = limits.write_budget_bytes
        self.reserve_bytes = limits.reserve_bytes
        self._pruning_helps_from = 0.0
        self.counters = Counters()
        self._fileless: dict[BlockHash, int] = {}
        """Blocks that were removed though the full disk kept their rows, and the bytes those still count."""
        self._fileless_bytes = 0
        self._unindexed: dict[Path, int] = {}
        self._unindexed_bytes = 0
        self.knows_all_files = True
        """Whether each block file has a row; False until the folder has been scanned."""
        self.on_removed: Callable[[Sequence[BlockHash]], None] = lambda names: None
        """Hears of blocks that were pruned."""
        self.on_damaged_index: Callable[[], None] = lambda: None
        self._metrics = metrics
        self._log = log
        self._rare_log = RareLog(log)
        self._now = now
        self._changing = threading.RLock()
        self._counting = threading.Lock()
        """For what must not wait for the disk."""
        self._quarantine = Quarantine(folder.quarantine, fs=fs)
        self._protected: dict[str, frozenset[BlockHash]] = {}
        self._lost: dict[BlockHash, LostFile] = {}
        self._has_lost = False
        """Whether a file was found to be gone or broken since the start."""
        self._was_cleared = False
        self.totals = index.totals()
        self._day = _utc_day(now())
        self._written_today = index.written_on(self._day)

    @property
    def bytes_stored(self) -> int:
        """All files' bytes: indexed, still to be indexed, and in quarantine."""
        indexed = max(self.totals.file_bytes - self._fileless_bytes, 0)
        return indexed + self._unindexed_bytes + self._quarantine.num_bytes

    @property
    def has_fileless_rows(self) -> bool:
        """Whether the index lists removed blocks because the disk refused to delete their rows."""
        return bool(self._fileless)

    def note_unindexed(self, path: Path, num_bytes: int) -> None:
        """Count a file without a row towards the cap, until its row is made."""
        self._unindexed_bytes += num_bytes - self._unindexed.get(path, 0)
        self._unindexed[path] = num_bytes

    def forget_unindexed(self, paths: Iterable[Path] | None = None) -> None:
        """Count files (None: all) no longer by themselves: they have rows, or are gone."""
        if paths is None:
            self._unindexed.clear()
            self._unindexed_bytes = 0
            return
        for path in paths:
            self._unindexed_bytes -= self._unindexed.pop(path, 0)

    def free_disk_bytes(self) -> int:
        """Return what may still be written on the folder's volume.

        Raises:
            OSError: The volume cannot be queried.
        """
        return self.fs.free_bytes(self.folder.root)

    @property
    def written_today_bytes(self) -> int:
        """Bytes written on this UTC day, by any process."""
        day = _utc_day(self._now())
        if day != self._day:
            self._day, self._written_today = day, 0
        return self._written_today

    def wall(self) -> float:
        """Return the time in seconds since the epoch."""
        return self._now()

    def read(self, block_hash: BlockHash) -> BlockRecord | None:
        """Return a block, or None when missing or broken: then its row goes, the file is set aside."""
        found = self.read_file(block_hash)
        return None if found is None else found[1]

    def read_file(self, block_hash: BlockHash, *, again: bool = True) -> tuple[bytes, BlockRecord] | None:
        """Return a block's file and its content; None as `read`. Rereads a replaced file once (`again`)."""
        started = time.monotonic()
        stored = self.index.stored(block_hash)
        if stored is None:
            return None
        path = self.folder.block_path(stored.fingerprint, block_hash)
        try:
            data = self.fs.read(path)
            record = decode(data, expected=block_hash)
        except FileNotFoundError:
            self.forget_missing(block_hash)
            return None
        except (BrokenBlockError, NotRegularFileError) as error:
            if self.quarantine(path, block_hash=block_hash, reason=str(error)) or not again:
                return None
            return self.read_file(block_hash, again=False)
        except OSError as error:
            # Not proof against the file (too many open files, a sleeping volume): a miss this time, nothing
            # more.
            self._metrics.count("warm_read_errors_total")
            self._log.warning("block_file_not_read", path=str(path), error=str(error))
            self.note_lost([block_hash], "damaged")
            return None
        with self._counting:
            self._lost.pop(block_hash, None)
            self.counters.num_reads += 1
            self.counters.bytes_read += len(data)
        self._metrics.count("warm_read_bytes_total", len(data))
        self._metrics.observe("warm_read_seconds", time.monotonic() - started)
        return data, record

    def note_lost(self, names: Iterable[BlockHash], what: LostFile) -> None:
        """Record what happened to the files of these blocks; the oldest entries beyond a bound are dropped."""
        with self._counting:
            self._has_lost = self._has_lost or what != "pruned"
            self._lost.update(dict.fromkeys(names, what))
            for name in list(itertools.islice(self._lost, max(len(self._lost) - _MAX_LOST, 0))):
                del self._lost[name]

    def lost_file(self, names: Sequence[BlockHash]) -> LostFile | None:
        """Return what happened to the first of these blocks whose file was lost since the start."""
        otherwise: LostFile | None = "pruned" if self._was_cleared else None
        if not self._lost:
            return otherwise
        with self._counting:
            return next((self._lost[name] for name in names if name in self._lost), otherwise)

    def _found_again(self, names: Iterable[BlockHash]) -> None:
        with self._counting:
            for name in names:
                self._lost.pop(name, None)

    def forget_missing(self, block_hash: BlockHash) -> bool:
        """Remove the row of a block whose file is gone.

        Returns False, and removes nothing, where the row is gone, the file is back, or the whole folder is gone.
        """
        with self._changing:
            stored = self.index.stored(block_hash)
            if stored is None or self._exists(self.folder.block_path(stored.fingerprint, block_hash)):
                return False
            self.note_lost([block_hash], "missing")
            if not self.folder.is_in_place:
                return False  # its volume may be attached again, with the file
            self._metrics.count("warm_missing_files_total")
            self._log.warning("block_file_missing", block=block_hash.hex())
            self.index.remove([block_hash])
            self._settle()
            return True

    def quarantine(self, path: Path, *, block_hash: BlockHash | None, reason: str) -> bool:
        """Move a broken file out of the way and remove the row it belonged to.

        Returns False, and does nothing, where the file is whole: it was written again since it was found broken.
        """
        name = block_hash or hash_of(path)
        with self._changing:
            if name is not None:
                if self._is_whole(path, name):
                    return False
                # Before its row goes: who does not find it any more may ask why at once.
                self.note_lost([name], "damaged")
            if block_hash is not None:
                self.index.remove([block_hash])
            with contextlib.suppress(OSError):
                self._quarantine.take(path)
            self.counters.num_quarantined += 1
            self._metrics.count("warm_quarantined_total")
            self._log.warning("block_file_quarantined", path=str(path), reason=reason)
            self._settle()
            return True

    def _is_whole(self, path: Path, block_hash: BlockHash) -> bool:
        try:
            decode(self.fs.read(path), expected=block_hash)
        except (OSError, BrokenBlockError):
            return False
        return True

    def store(self, records: Sequence[BlockRecord]) -> Stored:
        """Store records (parents first) that are not there yet; refuse those for which there is no room."""
        result = Stored()
        for group in groups_of([OutgoingBlock.of(record, self.folder) for record in records]):
            if result.refused:
                # Children of what was refused would be unreachable.
                result += Stored(refused=tuple(block.block_hash for block in group), reason=result.reason)
            else:
                with self._changing:
                    result += self._store_group(group)
        return result

    def _store_group(self, group: list[OutgoingBlock]) -> Stored:
        self.remove_fileless()
        fresh = [block for block in group if not self._is_stored(block.block_hash)]
        num_present = len(group) - len(fresh)
        fitting, reason = self._make_room(fresh)
        num_bytes = total_bytes(fitting)
        try:
            self._write(fitting, num_bytes)
        except (OSError, sqlite3.Error) as error:
            self.counters.num_write_errors += 1
            self._metrics.count("warm_write_errors_total")
            self._rare_log.warning(
                "block_write_failed", number=len(fresh), folder=str(self.folder.root), error=str(error)
            )
            if is_damage(error):
                self.on_damaged_index()
            everyone = tuple(block.block_hash for block in fresh)
            return Stored(num_present=num_present, refused=everyone, reason=f"the disk failed: {error}")
        return Stored(
            num_written=len(fitting),
            num_present=num_present,
            bytes_written=num_bytes,
            refused=tuple(block.block_hash for block in fresh[len(fitting) :]),
            reason=reason,
        )

    def _is_stored(self, block_hash: BlockHash) -> bool:
        """Return whether a block is already stored; drops the index row of one whose file is lost.

        A block that was computed though it has a row may stand behind one whose file was lost, or be lost itself
        without having been read: its file is looked at, and read where others were lost since the start.
        """
        if block_hash in self._fileless or not self.index.has(block_hash):
            return False
        stored = self.index.stored(block_hash)
        if stored is None:
            return True
        path = self.folder.block_path(stored.fingerprint, block_hash)
        try:
            num_bytes = self.fs.size(path)
        except FileNotFoundError:
            return not self.forget_missing(block_hash)
        except OSError:
            return True
        if num_bytes != stored.file_bytes:
            self.quarantine(path, block_hash=block_hash, reason=f"{num_bytes} bytes, not {stored.file_bytes}")
            return False
        return not self._has_lost or self.read(block_hash) is not None or self.index.has(block_hash)

    def _write(self, group: list[OutgoingBlock], num_bytes: int) -> None:
        if not group:
            return
        started = time.monotonic()
        write_group(self.fs, [block.file for block in group])
        now = self._now()
        written_today = self.written_today_bytes + num_bytes
        try:
            with self.index.transaction():
                self.index.add(NewBlock.of(b.record, file_bytes=b.num_bytes, used_at=now) for b in group)
                self.index.count_written(self._day, num_bytes)
        except BaseException:
            for block in group:
                self._unlink(block.file.path)
            raise
        self._found_again(block.block_hash for block in group)
        self._forget_fileless(block.block_hash for block in group)
        self._written_today = written_today
        self.counters.num_writes += len(group)
        self.counters.bytes_written += num_bytes
        self._metrics.count("warm_written_bytes_total", num_bytes)
        self._metrics.observe("warm_write_seconds", time.monotonic() - started)
        self._settle()

    def _make_room(self, fresh: list[OutgoingBlock]) -> tuple[list[OutgoingBlock], str]:
        """Return the leading blocks that may be written now, after making room, and why not the others."""
        reason = ""
        if self.write_budget_bytes is not None:
            left = self.write_budget_bytes - self.written_today_bytes
            if total_bytes(fresh) > left:
                fresh, reason = leading(fresh, left), "daily write budget"
        cap = self._cap_of_blocks()
        # Blocks that can never be stored must not displace stored ones.
        if cap is not None and total_bytes(fresh) > cap:
            fresh, reason = leading(fresh, cap), "the cap is reached"
        spare = {block.block_hash for block in fresh} | {block.record.block.parent for block in fresh}
        room = self._room_above_reserve(total_bytes(fresh), spare=spare)
        if total_bytes(fresh) > room:
            fresh, reason = leading(fresh, room), "the disk's reserve is reached"
        if cap is not None and self.bytes_stored + total_bytes(fresh) > cap:
            self._prune(cap - total_bytes(fresh), spare=spare)
            room = cap - self.bytes_stored
            if total_bytes(fresh) > room:
                fresh, reason = leading(fresh, room), "the cap is reached"
        return fresh, reason

    def _cap_of_blocks(self) -> int | None:
        """Return the part of the cap for blocks: agents' records count too, but take no more than half of it."""
        cap = self.cap_bytes
        return None if cap is None else max(cap - self.folder.database_bytes(), cap // 2)

    def _room_above_reserve(self, num_bytes: int, *, spare: Iterable[BlockHash]) -> int:
        """Return what may be written without touching the reserve; old blocks go if that makes the room."""
        if not self.reserve_bytes or not num_bytes:
            return num_bytes
        try:
            before = free = self.free_disk_bytes()
        except OSError:
            return num_bytes
        missing = self.reserve_bytes + num_bytes - before
        now = time.monotonic()
        if 0 < missing <= self.bytes_stored and now >= self._pruning_helps_from:
            freed = self._prune(self.bytes_stored - missing, spare=spare)
            with contextlib.suppress(OSError):
                free = self.free_disk_bytes()
            if free - before < freed / 2:
                # File system snapshots may retain removed files: do not empty the cache without effect.
                self._pruning_helps_from = now + _VAIN_PRUNING_S
        return max(free - self.reserve_bytes, 0)

    def adopt(self, blocks: Iterable[NewBlock]) -> int:
        """Add rows for files found without; returns how many there are still."""
        with self._changing:
            rows = [
                new
                for new in blocks
                if self._exists(self.folder.block_path(new.fingerprint, new.block.block_hash))
            ]
            self.index.add(rows)
            self._found_again(new.block.block_hash for new in rows)
            self._settle()
            return len(rows)

    def protect(self, hashes: Iterable[BlockHash], *, owner: str) -> None:
        """Replace the blocks that `owner` protects from pruning (in memory: owners repeat it after a start)."""
        kept = frozenset(hashes)
        with self._counting:
            others = {name: hashes for name, hashes in self._protected.items() if name != owner}
            self._protected = {**others, owner: kept} if kept else others

    def delete(self, hashes: Iterable[BlockHash], *, scrub: bool) -> int:
        """Remove these blocks and no others, also from quarantine, with `scrub` from the index's log too.

        Returns the bytes freed.
        """
        with self._changing:
            names = list(hashes)
            self.remove_fileless()
            try:
                freed = self._unlink_all(self.index.remove(names))
            except sqlite3.OperationalError as error:
                if not is_out_of_room(error, folder=self.folder.root):
                    raise
                stored = [one for name in names if (one := self.index.stored(name)) is not None]
                freed = self._remove_files_first(stored)
            freed += self._quarantine.drop(names)
            if not self.knows_all_files:
                freed += self._unlink_unindexed(names)
            if scrub:
                self.folder.ballast.make_room_for(self.index.scrub)
            return freed

    def prune(self, target_bytes: int) -> int:
        """Remove least recently used blocks until at most `target_bytes` are stored, if pins allow it.

        A part at a time: blocks are written in between, and what was removed by then stays so.
        """
        freed, excess = 0, self.bytes_stored - target_bytes
        while freed < excess:
            with self._changing:
                part = self._prune(target_bytes, spare=frozenset(), limit=PRUNED_AT_ONCE)
            if not part:
                break
            freed += part
            time.sleep(_PAUSE_S)
        return freed

    def prunable_bytes(self, target_bytes: int) -> int:
        """Return the bytes that `prune` would free now."""
        with self._changing:
            excess = self.bytes_stored - target_bytes
            if excess <= 0:
                return 0
            # The quarantine is emptied first, completely.
            aside = self._quarantine.num_bytes
            kept = set[BlockHash]().union(*self._protected.values())
            leaves = self.index.oldest_leaves(max(excess - aside, 0), spare=kept)
            return aside + sum(stored.file_bytes for stored in leaves)

    def _prune(self, target_bytes: int, *, spare: Iterable[BlockHash], limit: int | None = None) -> int:
        """Prune at most `limit` blocks; see `prune`. Blocks in `spare` and pinned blocks stay."""
        freed = 0
        self.remove_fileless()
        if self.bytes_stored > target_bytes:
            freed += self._quarantine.empty()
        excess = self.bytes_stored - target_bytes
        if excess > 0:
            spare = set(spare).union(*self._protected.values())
            freed += self._remove_oldest(excess, spare=spare, limit=limit)
        return freed

    def _remove_oldest(self, excess: int, *, spare: set[BlockHash], limit: int | None) -> int:
        freed = 0
        while freed < excess:
            removed = self._try_removing(excess - freed, spare=spare, limit=limit)
            if removed is not None:
                self._note_pruned(removed)
                return freed + self._unlink_all(removed)
            removed = self._next_on_full_disk(excess - freed, spare=spare)
            num_bytes = self._remove_files_first(removed)
            if not num_bytes:
                break
            self._note_pruned(removed)
            freed += num_bytes
        return freed

    def _try_removing(
        self, num_bytes: int, *, spare: set[BlockHash], limit: int | None
    ) -> list[StoredBlock] | None:
        """Remove the rows of the oldest blocks; None where the disk is too full for it."""
        try:
            return self.index.remove_oldest_leaves(num_bytes, spare=spare, limit=limit)
        except sqlite3.OperationalError as error:
            if not is_out_of_room(error, folder=self.folder.root):
                raise
            return None

    def _next_on_full_disk(self, num_bytes: int, *, spare: set[BlockHash]) -> list[StoredBlock]:
        """Return a few of the next blocks to remove: they mostly free the room that the rows of others need.

        Where it never is, each time there are twice as many, because those before are looked at again.
        """
        num_before = len(self._fileless)
        limit = _REMOVED_AT_ONCE + 2 * num_before
        try:
            found = self.index.oldest_leaves(num_bytes + self._fileless_bytes, spare=spare, limit=limit)
        except sqlite3.OperationalError as error:
            if not num_before or not is_out_of_room(error, folder=self.folder.root):
                raise
            return []
        return [one for one in found if one.block_hash not in self._fileless]

    def _note_pruned(self, removed: Sequence[StoredBlock]) -> None:
        names = [stored.block_hash for stored in removed]
        self.note_lost(names, "pruned")
        self.on_removed(names)
        self.counters.num_pruned += len(removed)
        self._metrics.count("warm_pruned_total", len(removed))

    def _remove_files_first(self, stored: Sequence[StoredBlock]) -> int:
        """Remove blocks on a full disk: their files, then their rows; returns the bytes freed."""
        freed = 0
        for one in stored:
            if one.block_hash in self._fileless:
                continue
            if self._unlink(self.folder.block_path(one.fingerprint, one.block_hash)):
                freed += one.file_bytes
                self._fileless[one.block_hash] = one.file_bytes
                self._fileless_bytes += one.file_bytes
        self.remove_fileless()
        return freed

    def rest(self) -> None:
        """Free the memory that writing took, while there is nothing to write."""
        self.index.rest()

    def remove_fileless(self) -> None:
        """Remove the rows that a full disk kept before, as far as it lets."""
        if not self._fileless:
            return
        with self._changing:
            names = list(self._fileless)
            try:
                for first in range(0, len(names), _REMOVED_AT_ONCE):
                    part = names[first : first + _REMOVED_AT_ONCE]
                    remove = partial(self.index.remove, part)
                    self.folder.ballast.make_room_for(remove, after=self.index.scrub)
                    self._forget_fileless(part)
            except sqlite3.Error as error:
                self._rare_log.warning(
                    "block_rows_not_removed",
                    number=len(self._fileless),
                    error=str(error),
                )
            self._settle()

    def _forget_fileless(self, names: Iterable[BlockHash]) -> None:
        for name in names:
            self._fileless_bytes -= self._fileless.pop(name, 0)

    def clear(self, fingerprint: ModelFingerprint | None) -> int:
        """Remove all blocks (of one model), with files that have no row yet; returns the bytes freed."""
        with self._changing:
            before = self.bytes_stored
            # There are too many to note each.
            self._was_cleared = True
            try:
                self.index.remove_model(fingerprint)
            except sqlite3.OperationalError as error:
                if not is_out_of_room(error, folder=self.folder.root):
                    raise
                for shard in SHARDS:
                    stored = self.index.shard(shard)
                    self._remove_files_first(
                        [one for one in stored if fingerprint in {None, one.fingerprint}]
                    )
            folders = self.folder.model_folders()
            if fingerprint is not None:
                # Another fingerprint may share the folder's 16 digits: only what the index does not know
                # goes.
                wanted = self.folder.model_name(fingerprint)
                folders = [folder for folder in folders if folder.name == wanted]
            for model in folders:
                for shard in SHARDS:
                    kept = {
                        s.block_hash.hex()
                        for s in (self.index.shard(shard) if fingerprint else ())
                        if s.fingerprint != fingerprint
                    }
                    for name in self.fs.list_files(model / shard):
                        if name[:64] not in kept:
                            self._unlink(model / shard / name)
                    with contextlib.suppress(OSError):
                        (model / shard).rmdir()
                with contextlib.suppress(OSError):
                    model.rmdir()
            if fingerprint is None:
                self._quarantine.empty()
                self.forget_unindexed()
            self.remove_fileless()
            self.folder.ballast.make_room_for(self.index.scrub)
            self._settle()
            return before - self.bytes_stored

    def _unlink_all(self, removed: Sequence[StoredBlock]) -> int:
        for stored in removed:
            self._unlink(self.folder.block_path(stored.fingerprint, stored.block_hash))
        self._settle()
        return sum(stored.file_bytes for stored in removed)

    def _unlink_unindexed(self, names: Iterable[BlockHash]) -> int:
        """Remove the files of blocks without rows, of any model; returns their bytes."""
        freed = 0
        folders = self.folder.model_folders()
        for name in names:
            for path in (self.folder.path_in(folder, name) for folder in folders):
                with contextlib.suppress(OSError):
                    freed += self.fs.size(path)
                    self._unlink(path)
                    self.forget_unindexed([path])
        return freed

    def _unlink(self, path: Path) -> bool:
        try:
            self.fs.remove(path)
        except OSError as error:
            self._log.warning("block_file_not_removed", path=str(path), error=str(error))
            return False
        return True

    def remove_file(self, path: Path) -> None:
        """Remove a file that is not a block (left by a dead process)."""
        with self._changing:
            self._unlink(path)

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Nothing is written or removed while inside."""
        with self._changing:
            yield

    def rebuild_index(self) -> None:
        """Begin an empty index after the old one was found damaged."""
        with self._changing:
            self.index.recreate()
            self.forget_unindexed()
            self._forget_fileless(list(self._fileless))
            self._settle()

    def _exists(self, path: Path) -> bool:
        try:
            self.fs.size(path)
        except OSError:
            return False
        return True

    def _settle(self) -> None:
        self.totals = self.index.totals()
        self._metrics.gauge("warm_bytes", self.bytes_stored)
        self._metrics.gauge("warm_blocks", self.totals.num_blocks)


def _utc_day(now: float) -> str:
    """Return the date of a time in seconds since the epoch, as `YYYY-MM-DD`."""
    return datetime.fromtimestamp(now, tz=timezone.utc).strftime("%Y-%m-%d")
