"""Checking every stored file against the index and its checksum, slowly and alongside other work."""

from __future__ import annotations

import threading
import time

from semanticd.adapters.disk.blocks.codec import BrokenBlockError, decode
from semanticd.adapters.disk.blocks.index_rows import StoredBlock
from semanticd.adapters.disk.blocks.recovery import adopt_files, reconcile, survey_shard
from semanticd.adapters.disk.blocks.repository import BlockRepository
from semanticd.adapters.disk.files.atomic import TEMP_SUFFIX, NotRegularFileError
from semanticd.adapters.disk.files.folder import SHARDS
from semanticd.application.ports.telemetry import Log
from semanticd.application.ports.warm_store import VerifyReport


def verify(
    storage: BlockRepository,
    *,
    fix: bool,
    stop: threading.Event,
    log: Log,
    max_bytes_per_s: float | None = None,
) -> VerifyReport:
    """Read every file and compare; with `fix`, set broken ones aside and make files and rows agree.

    Orphans are files without a row (adopted by `fix` when whole) and leftovers of dead processes (removed).
    `max_bytes_per_s` limits the disk time taken from others.

    Raises:
        sqlite3.Error: The index cannot be read or changed.
        OSError: The folder cannot be read.
    """
    num_checked = num_broken = num_missing = num_orphaned = 0
    for shard in SHARDS:
        with storage.still():
            found = survey_shard(storage, shard)
            rows = storage.index.shard(shard)
            if fix:
                reconcile(storage, found)
        temps = [path for path in found.leftover if path.name.endswith(TEMP_SUFFIX)]
        num_missing += len(found.missing)
        num_orphaned += len(found.unindexed) + len(temps)
        if fix:
            adopt_files(storage, found.unindexed, stop=stop, log=log)
        gone = set(found.missing)
        for stored in rows:
            if stop.is_set():
                break
            if stored.block_hash in gone:
                continue
            started = time.monotonic()
            num_checked += 1
            num_broken += not _is_whole(storage, stored, fix=fix)
            if max_bytes_per_s:
                stop.wait(max(0.0, stored.file_bytes / max_bytes_per_s - (time.monotonic() - started)))
    return VerifyReport(
        num_checked=num_checked, num_broken=num_broken, num_missing=num_missing, num_orphaned=num_orphaned
    )


def _is_whole(storage: BlockRepository, stored: StoredBlock, *, fix: bool) -> bool:
    path = storage.folder.block_path(stored.fingerprint, stored.block_hash)
    try:
        decode(storage.fs.read(path), expected=stored.block_hash)
    except (BrokenBlockError, NotRegularFileError) as error:
        if fix:
            storage.quarantine(path, block_hash=stored.block_hash, reason=str(error))
        return False
    except OSError:
        # Pruned since the rows were listed is fine; otherwise the next survey says that it is missing.
        return storage.index.stored(stored.block_hash) is None
    return True


class BackgroundVerification:
    """Verifies the whole store again and again, at a rate too low to be noticed."""

    def __init__(self, storage: BlockRepository, *, log: Log, every_s: float, max_bytes_per_s: float) -> None:
        """Start the thread; the first walk begins after `every_s` seconds."""
        self._storage = storage
        self._log = log
        self._every_s = every_s
        self._max_bytes_per_s = max_bytes_per_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="semanticd-warm-verify", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop at the next file."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                report = verify(
                    self._storage,
                    fix=True,
                    stop=self._stop,
                    log=self._log,
                    max_bytes_per_s=self._max_bytes_per_s,
                )
            except Exception as error:  # noqa: BLE001 (this thread must live on)
                self._log.warning("warm_verification_failed", error=repr(error))
                continue
            self._log.info(
                "warm_verified",
                num_checked=report.num_checked,
                num_broken=report.num_broken,
                num_missing=report.num_missing,
                num_orphaned=report.num_orphaned,
            )
