"""Figures on disk: whole or the ones before, private, and left out where they cannot be used."""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.adapters.disk.files.figures_file import MAX_FILE_BYTES, MAX_TEXT_BYTES, FiguresFile
from tests.fakes.disk import FaultyFileSystem
from tests.fakes.telemetry import RecordingLog

FIGURES = {"ended_at": 1.5, "series": {"queue": [0.0, None, 3.0]}}


def as_they_are(figures: Mapping[str, Any]) -> Mapping[str, Any]:
    return figures


class Kept:
    """A file in a folder, and what was logged about it."""

    def __init__(self, folder: Path, *, version: int = 1, fs: FileSystem | None = None) -> None:
        self.path = folder / "history"
        self.log = RecordingLog()
        self.file = FiguresFile(self.path, version=version, fs=fs or FileSystem(), log=self.log)

    def read(self) -> Mapping[str, Any] | None:
        return self.file.read(as_they_are)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def packed(text: bytes, head: bytes = b"semanticd history 1\n") -> bytes:
    return head + zlib.compress(text)


def test_figures_come_back_and_are_this_users_alone(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert kept.read() is None
    assert kept.file.write({"older": 1})
    assert kept.file.write(FIGURES)
    assert Kept(tmp_path).read() == FIGURES
    assert kept.path.stat().st_mode & 0o777 == 0o600
    assert names_in(tmp_path) == ["history"]
    assert kept.log.lines == []


def _deep(_: bytes) -> bytes:
    return packed(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)


SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[:-1],
    "only its head": lambda content: content.partition(b"\n")[0] + b"\n",
    "another program's": lambda content: b"SQLite format 3\0" + content,
    "another kind": lambda content: content.replace(b"history", b"savings", 1),
    "a newer version": lambda content: content.replace(b" 1\n", b" 2\n", 1),
    "no version": lambda content: content.replace(b" 1\n", b" \n", 1),
    "no compression": lambda content: b"semanticd history 1\n" + json.dumps(FIGURES).encode(),
    "no json": lambda content: packed(b"\xff\xfe{"),
    "a list": lambda content: packed(b"[1]"),
    "nested deeply": _deep,
    "a bomb": lambda content: packed(b" " * (MAX_TEXT_BYTES + 1)),
    "large": lambda content: content + b"\0" * MAX_FILE_BYTES,
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
def test_a_file_that_cannot_be_used_is_left_out_with_one_line_and_replaced(
    spoil: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    kept = Kept(tmp_path)
    kept.file.write(FIGURES)
    kept.path.write_bytes(spoil(kept.path.read_bytes()))
    assert kept.read() is None
    assert kept.log.events("warning") == ["figures_left_out"]
    assert kept.file.write(FIGURES)
    assert kept.read() == FIGURES


def test_every_cut_and_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.file.write(FIGURES)
    whole = kept.path.read_bytes()
    for at in range(len(whole)):
        kept.path.write_bytes(whole[:at])
        assert kept.read() is None
        kept.path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :])
        assert kept.read() in (None, FIGURES)


def test_what_its_reader_does_not_know_is_left_out(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.file.write(FIGURES)

    def refuse(figures: Mapping[str, Any]) -> None:
        raise ValueError("expected totals")

    assert kept.file.read(refuse) is None
    assert kept.log.lines == [
        ("warning", "figures_left_out", {"file": str(kept.path), "reason": "expected totals"})
    ]


def test_neither_a_link_nor_a_pipe_nor_a_folder_is_read(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    elsewhere = Kept(tmp_path / "elsewhere")
    elsewhere.path.parent.mkdir()
    elsewhere.file.write(FIGURES)
    kept.path.symlink_to(elsewhere.path)
    assert kept.read() is None
    kept.path.unlink()
    os.mkfifo(kept.path)
    assert kept.read() is None
    kept.path.unlink()
    kept.path.mkdir()
    assert kept.read() is None
    assert not kept.file.write(FIGURES)


@pytest.mark.parametrize("operation", ["create", "writev", "sync", "rename"])
def test_a_disk_that_takes_nothing_leaves_the_figures_before_and_one_line(
    operation: str, tmp_path: Path
) -> None:
    fs = FaultyFileSystem()
    kept = Kept(tmp_path, fs=fs)
    kept.file.write({"older": 1})
    fs.fail[operation] = errno.ENOSPC
    assert [kept.file.write(FIGURES) for _ in range(3)] == [False] * 3
    assert kept.log.events("warning") == ["figures_not_saved"]
    assert Kept(tmp_path).read() == {"older": 1}
    assert names_in(tmp_path) == ["history"]
    fs.fail.clear()
    assert kept.file.write(FIGURES)
    fs.fail[operation] = errno.ENOSPC
    kept.file.write(FIGURES)
    assert len(kept.log.events("warning")) == 2, "another failure is news"


def test_what_a_killed_process_had_begun_to_write_is_removed(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.file.write(FIGURES)
    (tmp_path / "history.4711-3.tmp").write_bytes(b"half")
    (tmp_path / "savings.4711-4.tmp").write_bytes(b"another file's")
    assert kept.read() == FIGURES
    assert names_in(tmp_path) == ["history", "savings.4711-4.tmp"]
