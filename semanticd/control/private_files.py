"""Folders and files that belong to this user alone: made closed, and looked at before they are used.

Rule: what another user could have put there is never opened, followed, written or removed. A folder is checked before
anything in it is touched, by what it is (`lstat`) and not by what its path promises; a file is opened without following
a link and checked by its descriptor. Nothing of another user's is changed, and no folder that holds other things is
closed for others behind its owner's back.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

FOLDER_MODE = 0o700
FILE_MODE = 0o600
UMASK = 0o077
REGULAR = "a regular file"
_OTHERS_MAY_WRITE = 0o022
_ROOT = 0
_KINDS = (
    (stat.S_ISREG, REGULAR),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class UnsafePathError(OSError):
    """A folder or file that other users made or may change; the text has the path, the cause and the remedy."""


def prepare_private_folder(folder: Path, *, ours: tuple[str, ...], uid: int | None = None) -> Path:
    """Make a folder (0700, parents too) or check the one that is there; returns its path with links resolved.

    A link counts only where this user made it, and then its target is looked at. A folder that others can open is
    closed where every name in it begins with one of `ours`; else it may stay open to readers, and is refused if others
    may write.

    Raises:
        UnsafePathError: It is not a folder of this user's, or others may write into it.
        OSError: It cannot be made or read.
    """
    uid = os.geteuid() if uid is None else uid
    _make(folder)
    info = folder.lstat()
    if stat.S_ISLNK(info.st_mode):
        if info.st_uid != uid:
            raise UnsafePathError(f"{folder} is a link that belongs to user {info.st_uid}, not to {uid}")
        # Not `Path.resolve`: a link that leads to itself is no `OSError` there.
        folder = Path(os.path.realpath(folder, strict=True))
        info = folder.lstat()
    _check_owner(folder, info, uid=uid)
    open_bits = info.st_mode & 0o077
    if info.st_mode & stat.S_ISVTX and open_bits & _OTHERS_MAY_WRITE:
        raise UnsafePathError(f"{folder} is a folder that all users share; name a folder inside it")
    if open_bits and all(entry.name.startswith(ours) for entry in folder.iterdir()):
        folder.chmod(FOLDER_MODE)
    elif open_bits & _OTHERS_MAY_WRITE:
        raise UnsafePathError(f"others may write into {folder}; close it with `chmod go-w {folder}`")
    return folder


def prepare_runtime_folder(folder: Path, *, ours: tuple[str, ...], uid: int | None = None) -> Path:
    """Make or check the folder of socket and pid file: as above, but it may be no link, and others may not even look.

    Raises:
        UnsafePathError: It is not a folder of this user's alone.
        OSError: It cannot be made or read.
    """
    _make(folder)
    if folder.is_symlink():
        raise UnsafePathError(f"{folder} is a link, which could be redirected")
    prepare_private_folder(folder, ours=ours, uid=uid)
    if folder.lstat().st_mode & 0o077:
        raise UnsafePathError(
            f"others can open {folder} and it holds other things; close it with `chmod 700 {folder}`"
        )
    return folder


def check_shared_folder(folder: Path, *, uid: int | None = None) -> None:
    """Check a folder that this user may share with others, as of models: only this user and root may write there.

    A folder that is not there passes.

    Raises:
        UnsafePathError: Another user owns it, or others may write into it.
    """
    uid = os.geteuid() if uid is None else uid
    try:
        link, info = folder.lstat(), folder.stat()
    except FileNotFoundError:
        return
    for one in (link, info):
        if one.st_uid not in (uid, _ROOT):
            raise UnsafePathError(f"{folder} belongs to user {one.st_uid}, not to {uid} or root")
    if not stat.S_ISDIR(info.st_mode):
        raise UnsafePathError(f"{folder} is not a folder")
    if info.st_mode & _OTHERS_MAY_WRITE:
        raise UnsafePathError(f"others may write into {folder}; close it with `chmod go-w {folder}`")


def open_private(path: Path, flags: int, *, uid: int | None = None) -> int:
    """Open a regular file of this user's and return its descriptor; what is new, or was open to others, gets 0600.

    Raises:
        UnsafePathError: A link, something other than a regular file, or another user's file lies there.
        OSError: It cannot be opened.
    """
    try:
        # Without O_NONBLOCK a pipe in the file's place would make us wait for its other end.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE)
    except OSError as error:
        if path.is_symlink():
            raise UnsafePathError(f"{path} is a link; remove it") from error
        raise
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise UnsafePathError(f"{path} is not a regular file; move it away")
        _check_owner(path, info, uid=os.geteuid() if uid is None else uid, folder=False)
        if info.st_mode & 0o077:
            os.fchmod(descriptor, FILE_MODE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_socket(path: Path, *, uid: int | None = None) -> None:
    """Check that a socket and its folder are this user's, before anything is sent to it.

    Raises:
        UnsafePathError: Another user made the socket or its folder, or may replace it.
        OSError: It cannot be looked at, or is not there.
    """
    uid = os.geteuid() if uid is None else uid
    info = path.lstat()
    if not stat.S_ISSOCK(info.st_mode):
        raise UnsafePathError(f"{path} is not a socket")
    _check_owner(path, info, uid=uid, folder=False)
    folder = path.parent.stat()
    # In a folder like /tmp, where the sticky bit is set, only an entry's owner may replace it.
    if folder.st_uid not in (uid, _ROOT) or (
        folder.st_mode & _OTHERS_MAY_WRITE and not folder.st_mode & stat.S_ISVTX
    ):
        raise UnsafePathError(f"others may replace {path}: its folder is not this user's alone")


def kind_of(mode: int) -> str:
    """Return what lies at a path by its `st_mode`, in words: `REGULAR`, "a folder", "a named pipe", ..."""
    return next((name for test, name in _KINDS if test(mode)), "of an unknown kind")


def _make(folder: Path) -> None:
    """Create a folder and its missing parents, all of them closed: `mkdir` gives parents the umask's mode."""
    missing = []
    path = folder
    while not path.exists() and not path.is_symlink():
        missing.append(path)
        path = path.parent
    for path in reversed(missing):
        path.mkdir(mode=FOLDER_MODE, exist_ok=True)


def _check_owner(path: Path, info: os.stat_result, *, uid: int, folder: bool = True) -> None:
    if folder and not stat.S_ISDIR(info.st_mode):
        raise UnsafePathError(f"{path} is not a folder")
    if info.st_uid != uid:
        raise UnsafePathError(f"{path} belongs to user {info.st_uid}, not to {uid}")
