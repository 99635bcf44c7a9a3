"""Group writes: all or nothing, durable before visible, one full flush."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pytest

from semanticd.adapters.disk.files.atomic import FileSystem, NewFile, write_group
from tests.fakes.disk import FaultyFileSystem


def group(folder: Path, count: int = 3) -> list[NewFile]:
    return [
        NewFile(folder / f"{n % 2}" / f"file{n}", (b"head", memoryview(b"x" * 5000))) for n in range(count)
    ]


def everything(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_group_is_written_whole_and_private(tmp_path: Path) -> None:
    files = group(tmp_path / "new")
    write_group(FaultyFileSystem(), files)
    assert everything(tmp_path) == ["file0", "file1", "file2"]
    for file in files:
        assert file.path.read_bytes() == b"head" + b"x" * 5000
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


def test_contents_are_durable_before_any_name_is_given(tmp_path: Path) -> None:
    fs = FaultyFileSystem()
    steps: list[str] = []
    fs.before = steps.append
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    write_group(fs, group(tmp_path))
    order = [step for step in steps if step in ("sync", "rename")]
    assert order == ["sync"] * 3 + ["rename"] * 3 + ["sync"] * 2
    assert fs.synced == [False, False, True, False, True], "one full flush for the files, one for the names"


def test_names_are_given_in_order(tmp_path: Path) -> None:
    fs = FaultyFileSystem()
    files = group(tmp_path)
    named: list[list[str]] = []

    def look(operation: str) -> None:
        if operation == "rename":
            named.append([name for name in everything(tmp_path) if not name.endswith(".tmp")])

    fs.before = look
    write_group(fs, files)
    assert named == [[], ["file0"], ["file0", "file1"]]


@pytest.mark.parametrize("operation", ["create", "writev", "sync", "rename"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_failure_anywhere_leaves_nothing(tmp_path: Path, operation: str, nth: int) -> None:
    fs = FaultyFileSystem()
    seen = 0

    def fail_at_nth(happening: str) -> None:
        nonlocal seen
        seen += happening == operation
        if happening == operation and seen == nth:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    fs.before = fail_at_nth
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_group(fs, group(tmp_path))
    assert everything(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    fs = FaultyFileSystem()
    fs.room_bytes = 7000
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write_group(fs, group(tmp_path))
    assert everything(tmp_path) == []


def test_pieces_of_any_number_are_written(tmp_path: Path) -> None:
    pieces = tuple(bytes([n % 251]) * (n % 7) for n in range(3000))
    write_group(FileSystem(), [NewFile(tmp_path / "file", pieces)])
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


def test_a_link_or_pipe_is_not_read_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    assert FileSystem().read(tmp_path / "file") == b"secret"
    for name in ("link", "pipe", "none"):
        with pytest.raises(OSError):
            FileSystem().read(tmp_path / name)


def test_on_macos_a_full_sync_goes_to_the_platters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    asked: list[int] = []

    def record(fd: int, command: int) -> int:
        asked.append(command)
        if len(asked) > 1:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        return 0

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", record)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        FileSystem().sync(fd, full=False)
        assert asked == []
        FileSystem().sync(fd, full=True)
        FileSystem().sync(fd, full=True)  # a volume that does not know it: plain fsync
    finally:
        os.close(fd)
    assert asked == [51, 51]
