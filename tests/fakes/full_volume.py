"""Volumes that are full, or detached: real ones where they may be mounted, and databases that say so."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.disk.files import database

FULL = "database or disk is full"


@contextmanager
def small_volume(path: Path, *, num_bytes: int) -> Iterator[Path]:
    """Mount an empty volume of so many bytes; the test is skipped where that is not allowed."""
    path.mkdir()
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("no mount(8) here")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={num_bytes},mode=700", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no volume can be mounted here: {done.stderr.strip()[:80]}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def attach(volume: Path, place: Path) -> None:
    """Mount a volume that is mounted already at one more place, an empty folder: there it can be detached."""
    subprocess.run(["mount", "--bind", str(volume), str(place)], check=True)


def detach(place: Path) -> None:
    """Take a volume away from a place, though files on it are open: these stay usable, as with a lazy unmount."""
    subprocess.run(["umount", "-l", str(place)], check=True)


def remount(volume: Path, *, read_only: bool) -> None:
    """Let a volume refuse all writing, or take it again; no file on it may be open for writing."""
    subprocess.run(["mount", "-o", f"remount,{'ro' if read_only else 'rw'}", str(volume)], check=True)


def fill(volume: Path) -> Path:
    """Take every free byte of a volume, as another program would; returns the file that does."""
    filler = volume / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    assert os.statvfs(volume).f_bavail == 0
    return filler


def refuse_commits(monkeypatch: pytest.MonkeyPatch, when: Callable[[], bool]) -> None:
    """Let databases that are opened from now on refuse, while `when` says so, to commit what changes anything."""

    class Full(sqlite3.Connection):
        changes_before = 0

        def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
            if query.startswith("BEGIN"):
                self.changes_before = self.total_changes
            if query == "COMMIT" and self.total_changes > self.changes_before and when():
                raise sqlite3.OperationalError(FULL)
            return super().execute(query, *values)

    real = sqlite3.connect

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        return real(*args, **{**options, "factory": Full})

    class Module:
        """`sqlite3` as `database` sees it."""

        def __getattr__(self, name: str) -> Any:
            return connect if name == "connect" else getattr(sqlite3, name)

    monkeypatch.setattr(database, "sqlite3", Module())
