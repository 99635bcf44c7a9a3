"""Folders and files of this user alone: what others could have put there is never touched."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.adapters.disk.files.folder import CacheFolder
from semanticd.control.private_files import (
    UnsafePathError,
    check_shared_folder,
    check_socket,
    open_private,
    prepare_private_folder,
    prepare_runtime_folder,
)
from semanticd.domain.errors import CacheError

OURS = ("semanticd.",)
ANOTHER = os.geteuid() + 4242
"""A user that owns nothing here: to it, all that this user owns is another user's."""


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def folder_of(path: Path, bits: int, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).touch()
    path.chmod(bits)
    return path


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_folder_and_its_parents_are_closed_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        prepare_private_folder(tmp_path / "a" / "b" / "c", ours=OURS)
        prepare_runtime_folder(tmp_path / "x" / "y", ours=OURS)
    finally:
        os.umask(before)
    for made in ("a", "a/b", "a/b/c", "x", "x/y"):
        assert mode(tmp_path / made) == 0o700


@pytest.mark.parametrize("prepare", [prepare_private_folder, prepare_runtime_folder])
def test_another_users_folder_is_refused_and_left_as_it_is(
    tmp_path: Path, prepare: Callable[..., Path]
) -> None:
    folder = folder_of(tmp_path / "theirs", 0o755)
    with pytest.raises(UnsafePathError, match="belongs to user"):
        prepare(folder, ours=OURS, uid=ANOTHER)
    assert mode(folder) == 0o755


def test_another_users_link_is_refused_and_ones_own_is_followed(
    tmp_path: Path,
) -> None:
    target = folder_of(tmp_path / "target", 0o700, "things")
    link = tmp_path / "link"
    link.symlink_to(target)
    assert prepare_private_folder(link, ours=OURS) == target
    with pytest.raises(UnsafePathError, match="link that belongs to user"):
        prepare_private_folder(link, ours=OURS, uid=ANOTHER)
    target.chmod(0o777)
    with pytest.raises(UnsafePathError, match="others may write"):
        prepare_private_folder(link, ours=OURS)


def test_the_runtime_folder_is_never_a_link(tmp_path: Path) -> None:
    link = tmp_path / "run"
    link.symlink_to(folder_of(tmp_path / "target", 0o700))
    with pytest.raises(UnsafePathError, match="is a link"):
        prepare_runtime_folder(link, ours=OURS)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "made")
    with pytest.raises(UnsafePathError, match="is a link"):
        prepare_runtime_folder(dangling, ours=OURS)
    assert not (tmp_path / "made").exists()


def test_an_open_folder_with_only_our_files_is_closed_and_one_with_others_is_not(tmp_path: Path) -> None:
    ours = folder_of(tmp_path / "ours", 0o777, "semanticd.log", "semanticd.out")
    prepare_private_folder(ours, ours=OURS)
    assert mode(ours) == 0o700
    mixed = folder_of(tmp_path / "mixed", 0o755, "semanticd.log", "thesis.tex")
    prepare_private_folder(mixed, ours=OURS)
    assert mode(mixed) == 0o755, "it is not ours to close; the files in it are 0600"
    with pytest.raises(UnsafePathError, match=r"chmod 700"):
        prepare_runtime_folder(mixed, ours=OURS)
    mixed.chmod(0o775)
    with pytest.raises(UnsafePathError, match=r"chmod go-w"):
        prepare_private_folder(mixed, ours=OURS)


@pytest.mark.parametrize("prepare", [prepare_private_folder, prepare_runtime_folder])
def test_a_folder_for_everybodys_files_is_refused_and_stays_open(
    tmp_path: Path, prepare: Callable[..., Path]
) -> None:
    like_tmp = folder_of(tmp_path / "tmp", 0o1777)
    with pytest.raises(UnsafePathError, match="name a folder inside it"):
        prepare(like_tmp, ours=OURS)
    assert like_tmp.stat().st_mode & 0o7777 == 0o1777


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for prepare in (prepare_private_folder, prepare_runtime_folder):
        with pytest.raises(UnsafePathError, match="is not a folder"):
            prepare(tmp_path / "file", ours=OURS)
    with pytest.raises(UnsafePathError, match="is not a folder"):
        check_shared_folder(tmp_path / "file")


def test_a_shared_folder_may_be_read_by_all_and_written_by_its_user_and_root_only(tmp_path: Path) -> None:
    check_shared_folder(tmp_path / "not-there")
    folder = folder_of(tmp_path / "models", 0o755, "smollm2")
    check_shared_folder(folder)
    assert mode(folder) == 0o755
    folder.chmod(0o775)
    with pytest.raises(UnsafePathError, match="others may write"):
        check_shared_folder(folder)


def test_a_new_file_is_private_and_an_open_one_of_ours_is_closed(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        os.close(open_private(tmp_path / "new", os.O_RDWR | os.O_CREAT))
    finally:
        os.umask(before)
    assert mode(tmp_path / "new") == 0o600
    (tmp_path / "old").touch()
    (tmp_path / "old").chmod(0o644)
    os.close(open_private(tmp_path / "old", os.O_RDONLY))
    assert mode(tmp_path / "old") == 0o600


def test_links_pipes_and_others_files_are_not_opened(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep me")
    victim.chmod(0o644)
    (tmp_path / "link").symlink_to(victim)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsafePathError, match="is a link"):
        open_private(tmp_path / "link", os.O_RDWR | os.O_CREAT)
    for flags in (os.O_RDONLY, os.O_RDWR):
        with pytest.raises(UnsafePathError, match="not a regular file"):
            open_private(tmp_path / "pipe", flags)
    with pytest.raises(UnsafePathError, match="belongs to user"):
        open_private(victim, os.O_RDWR | os.O_CREAT, uid=ANOTHER)
    assert (victim.read_text(), mode(victim)) == ("keep me", 0o644)


def test_a_socket_is_only_trusted_where_nobody_else_could_have_put_it(short_tmp_path: Path) -> None:
    path = short_tmp_path / "s"
    with pytest.raises(FileNotFoundError):
        check_socket(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        check_socket(path)
        with pytest.raises(UnsafePathError, match="belongs to user"):
            check_socket(path, uid=ANOTHER)
        short_tmp_path.chmod(0o777)
        with pytest.raises(UnsafePathError, match="may replace"):
            check_socket(path)
        short_tmp_path.chmod(0o1777)
        check_socket(path)
        (short_tmp_path / "link").symlink_to(path)
        with pytest.raises(UnsafePathError, match="not a socket"):
            check_socket(short_tmp_path / "link")


def test_a_cache_folder_that_is_not_ours_alone_is_not_said_to_be_made_writable(tmp_path: Path) -> None:
    for folder, advice in (
        (folder_of(tmp_path / "everybodys", 0o1777), "name a folder inside it"),
        (folder_of(tmp_path / "mixed", 0o775, "somebody's"), "chmod go-w"),
    ):
        with pytest.raises(CacheError) as refused:
            CacheFolder.open(folder, fs=FileSystem())
        assert advice in refused.value.message
        assert refused.value.message.endswith("; set SEMANTIC_AGENT_CACHE_DIR to another")
        assert "writable" not in refused.value.message


@pytest.mark.parametrize("parents", ["", "inside/of/it"])
def test_a_link_that_leads_to_itself_is_the_systems_error(tmp_path: Path, parents: str) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="symbolic links"):
        prepare_private_folder(loop / parents, ours=OURS)
    with pytest.raises(CacheError, match=r"symbolic links.*SEMANTIC_AGENT_CACHE_DIR"):
        CacheFolder.open(loop / parents, fs=FileSystem())


@pytest.mark.parametrize("name", ["blocks", "quarantine"])
def test_a_file_in_the_place_of_a_folder_of_blocks_is_refused(tmp_path: Path, name: str) -> None:
    CacheFolder.open(tmp_path / "caches", fs=FileSystem()).release(clean=True)
    place = tmp_path / "caches" / name
    for path in place.glob("*"):
        path.unlink()
    place.rmdir()
    place.touch()
    with pytest.raises(CacheError, match=f"{name} is not a folder; move it away"):
        CacheFolder.open(tmp_path / "caches", fs=FileSystem())
    place.unlink()
    place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(CacheError, match=f"{name} is not a folder; move it away"):
        CacheFolder.open(tmp_path / "caches", fs=FileSystem())
    place.unlink()
    CacheFolder.open(tmp_path / "caches", fs=FileSystem()).release(clean=True)
