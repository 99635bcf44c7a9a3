"""Checks of the machine without a model: the doctor's checks, and those that need a real disk and system."""

from __future__ import annotations

import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from semanticd.adapters.config import Settings
from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.adapters.exclusions import leave_out
from semanticd.adapters.machine_record import MachineRecord
from semanticd.adapters.mlx.platform.device import macos_version
from semanticd.adapters.service import run_program
from semanticd.control.address import SocketPathTooLongError, socket_path_in
from semanticd.control.peer import HasDescriptor, peer_uid
from semanticd.domain.memory_plan import DeviceMemory, in_gb
from semanticd.entrypoints.doctor import check_socket
from semanticd.entrypoints.model_fit import machine
from semanticd.entrypoints.selftest.outcome import Outcome, fail, of_finding, ok, skipped, warn

ONLY_MACOS = "only macOS has this"
_NUM_SYNCS = 12
_SYNC_BYTES = 64 * 1024
_SLOW_SYNC_MS = 100.0
_DAY_S = 86_400.0
_FIRST_RUN_DAYS = 14
_FEW_FILES = 1024

Run = Callable[[Sequence[str]], "tuple[int, str]"]
"""Runs a program; returns its exit status and output."""


def nearest_folder(path: Path) -> Path:
    """Return the folder, or the nearest one around it that exists."""
    return next((one for one in (path, *path.parents) if one.is_dir()), Path("/"))


def place_beside(folder: Path) -> Path | None:
    """Return where a temporary folder lies on the same volume as the caches; None: where others lie."""
    nearest = nearest_folder(folder.parent)
    return nearest if os.access(nearest, os.W_OK | os.X_OK) else None


def check_device(settings: Settings, *, read: Callable[[Settings], DeviceMemory] = machine) -> Outcome:
    """The device that computes, what it lends one process, and the limits of the process."""
    device = read(settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    figures = {
        "kind": device.kind,
        "total_bytes": device.total_bytes,
        "working_set_bytes": device.working_set_bytes,
        "macos": ".".join(map(str, macos_version() or ())) or None,
        "open_files": [soft, hard],
    }
    text = f"{device.kind}: {in_gb(device.working_set_bytes)} of {in_gb(device.total_bytes)} for one process"
    if device.room_bytes == 0:
        return fail(f"{text}: less than the reserve", **figures)
    if 0 <= hard < _FEW_FILES:
        return warn(f"{text}; at most {hard} open files, which is few for a server", **figures)
    return ok(text, **figures)


def check_disk_sync(folder: Path, *, files: FileSystem | None = None) -> Outcome:
    """Measure how long the cache disk takes to sync 64 KiB, as the warm tier does for each group of blocks."""
    files = files or FileSystem()
    took: list[float] = []
    with tempfile.TemporaryDirectory(prefix="semanticd-", dir=place_beside(folder)) as place:
        for number in range(_NUM_SYNCS):
            descriptor = files.create(Path(place) / str(number))
            try:
                files.writev(descriptor, [bytes(_SYNC_BYTES)])
                began = time.perf_counter()
                files.sync(descriptor, full=True)
                took.append(1000 * (time.perf_counter() - began))
            finally:
                files.close(descriptor)
    return judge_disk_sync(took)


def judge_disk_sync(took_ms: Sequence[float]) -> Outcome:
    """Judge the times of full flushes, in milliseconds."""
    median, longest = statistics.median(took_ms), max(took_ms)
    figures = {"median_ms": round(median, 2), "longest_ms": round(longest, 2)}
    text = f"a full flush takes {median:.1f} ms, at most {longest:.1f} ms"
    if median > _SLOW_SYNC_MS:
        return warn(f"{text}: blocks are written slowly, and a stop takes long", **figures)
    return ok(text, **figures)


def check_socket_path(settings: Settings, *, limit: Callable[[Path], Path] = socket_path_in) -> Outcome:
    """Check that the control socket's path is short enough and its folder is persistent."""
    try:
        path = limit(settings.paths.runtime_dir)
    except SocketPathTooLongError as error:
        return fail(f"{error} -> set SEMANTIC_RUNTIME_DIR to a shorter folder")
    found = of_finding(check_socket(settings.paths.runtime_dir, in_daemon=False))
    return Outcome(found.verdict, found.message, {"path_bytes": len(os.fsencode(path))})


def check_peer(*, uid_of: Callable[[HasDescriptor], int] = peer_uid) -> Outcome:
    """Check that the system reports the user at the other end of a control socket."""
    # Its path must be short, whatever the temporary folder is called.
    with (
        tempfile.TemporaryDirectory(prefix="smt-", dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX) as server,
        socket.socket(socket.AF_UNIX) as client,
    ):
        server.bind(f"{folder}/s")
        server.listen(1)
        client.connect(f"{folder}/s")
        accepted, _ = server.accept()
        with accepted:
            uid = uid_of(accepted)
    if uid != os.getuid():
        return fail(f"the system reports user {uid} instead of {os.getuid()}")
    return ok("the system names the user at the other end of a socket")


def check_backups(settings: Settings, *, run: Run = run_program, platform: str = sys.platform) -> Outcome:
    """Check that Time Machine excludes the caches, and a test folder with the same mark."""
    if platform != "darwin":
        return skipped(ONLY_MACOS)
    beside = place_beside(settings.agent.cache_dir)
    with tempfile.TemporaryDirectory(prefix="semanticd-", dir=beside) as place:
        problem = leave_out(Path(place), run=run, platform=platform)
        if problem is not None:
            return fail(problem)
        if not _is_excluded(Path(place), run):
            return fail("tmutil accepted the exclusion of a folder but does not report it")
    kept = [settings.agent.cache_dir, settings.paths.models_dir]
    backed_up = [str(one) for one in kept if one.is_dir() and not _is_excluded(one, run)]
    if backed_up:
        return warn(
            f"Time Machine backs up {' and '.join(backed_up)}; the next start of the daemon excludes them"
        )
    return ok("Time Machine excludes marked folders")


def _is_excluded(folder: Path, run: Run) -> bool:
    status, said = run(["tmutil", "isexcluded", str(folder)])
    return status == 0 and "[Excluded]" in said


@dataclass(frozen=True, slots=True)
class Reports:
    """Location of a system's kernel panic reports, and the clock."""

    folder: Path = Path("/Library/Logs/DiagnosticReports")
    now: Callable[[], float] = field(default=time.time)

    def newer_than(self, at: float) -> list[str]:
        """Return the names of reports written since a time in seconds.

        Raises:
            OSError: The folder of reports cannot be read.
        """
        return sorted(path.name for path in _panics(self.folder) if path.stat().st_mtime >= at)


def _panics(folder: Path) -> Iterable[Path]:
    # macOS has called them Kernel_….panic, Kernel-….panic and panic-full-….panic.
    return (path for path in folder.iterdir() if path.suffix in (".panic", ".ips") and "anic" in path.name)


def check_panics(
    record: MachineRecord, *, reports: Reports | None = None, platform: str = sys.platform
) -> Outcome:
    """Check whether the system panicked since the last self-test began, and whether that self-test finished."""
    cut = record.interrupted_check
    if platform != "darwin":
        return warn(f"the last self-test did not end: it was in {cut}") if cut else skipped(ONLY_MACOS)
    reports = reports or Reports()
    since = record.last_began_at or reports.now() - _FIRST_RUN_DAYS * _DAY_S
    try:
        found = reports.newer_than(since)
    except OSError as error:
        return skipped(f"cannot read {reports.folder}: {error.strerror or error}")
    when = "the last self-test" if record.last_began_at else f"{_FIRST_RUN_DAYS} days ago"
    if found and cut:
        return fail(f"the system panicked since {when}, which did not end: it was in {cut}", reports=found)
    if found:
        return warn(f"the system panicked since {when}; the reports say what ran", reports=found)
    if cut:
        return warn(f"the last self-test did not end: it was in {cut}")
    return ok(f"no kernel panic since {when}")
