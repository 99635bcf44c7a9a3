"""Whether git tracks a file, read from indexes that git itself has written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from semanticd.adapters.config.git_index import is_tracked


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always")
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(
        ["git", *identity, *words], cwd=folder, env=environ, check=True, capture_output=True, timeout=60
    )


def repository(folder: Path, *, init: tuple[str, ...] = ()) -> Path:
    """Make a work tree with enough neighbours that names share beginnings, `.env` in two folders not added yet."""
    folder.mkdir()
    git(folder, "init", *init)
    for name in ("a", "sub/.envrc", "sub/.en", "sub/x", "sub/deep/er/y", "z" * 200 + "/" + "z" * 200, "é/ñ"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    git(folder, "add", ".")
    for name in (".env", "sub/.env"):
        (folder / name).write_text("SEMANTIC_SERVER_PORT=1")
    return folder


def test_files_outside_a_repository_or_not_added_are_untracked(
    tmp_path: Path,
) -> None:
    (tmp_path / ".env").write_text("")
    assert not is_tracked(tmp_path / ".env")
    git(tmp_path, "init")
    assert not is_tracked(tmp_path / ".env")


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("init", [(), ("--object-format=sha256",)], ids=["sha1", "sha256"])
def test_every_version_of_the_index_is_read(tmp_path: Path, version: int, init: tuple[str, ...]) -> None:
    folder = repository(tmp_path / "repository", init=init)
    git(folder, "update-index", "--index-version", str(version))
    assert not is_tracked(folder / ".env")
    git(folder, "add", "sub/.env")
    if version == 3:
        git(folder, "update-index", "--skip-worktree", "a")  # what makes git write extended entries
    assert not is_tracked(folder / ".env")
    assert is_tracked(folder / "sub" / ".env")
    git(folder, "add", ".env")
    assert is_tracked(folder / ".env")


def test_an_ignored_file_that_was_added_all_the_same_is_tracked(tmp_path: Path) -> None:
    folder = repository(tmp_path / "repository")
    (folder / ".gitignore").write_text(".env\n")
    git(folder, "add", ".")
    assert not is_tracked(folder / ".env")
    git(folder, "add", "-f", ".env")
    assert is_tracked(folder / ".env")


def test_an_index_in_two_files_is_read_whole(tmp_path: Path) -> None:
    folder = repository(tmp_path / "repository")
    git(folder, "add", ".env")
    git(folder, "update-index", "--split-index")
    git(folder, "add", "sub/.env")
    assert is_tracked(folder / ".env")
    assert is_tracked(folder / "sub" / ".env")
    assert not is_tracked(folder / "sub" / "other.env")


def test_a_linked_work_tree_has_an_index_of_its_own(tmp_path: Path) -> None:
    folder = repository(tmp_path / "repository")
    git(folder, "add", ".env")
    git(folder, "commit", "-m", "x")
    git(folder, "worktree", "add", str(tmp_path / "linked"))
    assert is_tracked(tmp_path / "linked" / ".env")
    assert not is_tracked(tmp_path / "linked" / "new.env")


def test_the_innermost_repository_decides(tmp_path: Path) -> None:
    outer = repository(tmp_path / "outer")
    inner = repository(outer / "inner")
    git(inner, "add", ".env")
    assert is_tracked(inner / ".env")
    assert not is_tracked(outer / ".env")


def test_letter_case_hides_nothing_on_disks_that_ignore_it(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init")
    (folder / ".ENV").write_text("")
    git(folder, "add", ".")
    assert is_tracked(folder / ".env")


@pytest.mark.parametrize(
    "damage", [b"", b"DIRC", b"DIRC\0\0\0\x09\0\0\0\x01", b"DIRC\0\0\0\x02\0\0\0\x09" + bytes(80)]
)
def test_what_cannot_be_read_counts_as_tracked(tmp_path: Path, damage: bytes) -> None:
    folder = repository(tmp_path / "repository")
    (folder / ".git" / "index").write_bytes(damage)
    assert is_tracked(folder / ".env")
    other = tmp_path / "other"
    other.mkdir()
    (other / ".git").write_text("nonsense")
    assert is_tracked(other / ".env")


def test_no_program_is_run_that_a_repository_names(tmp_path: Path) -> None:
    folder = repository(tmp_path / "repository")
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    hook.chmod(0o755)
    git(folder, "config", "core.fsmonitor", str(hook))
    assert not is_tracked(folder / ".env")
    assert not (tmp_path / "ran").exists()
