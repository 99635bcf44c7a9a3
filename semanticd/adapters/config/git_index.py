"""Whether git tracks a file, read from the index itself.

Git is not run: a repository of another author may name programs in its configuration that git would start. The
format is gitformat-index(5), versions 2 to 4. If the index cannot be read, the file counts as tracked, to be safe.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Generator, Iterator
from pathlib import Path

_HEADER = struct.Struct(">4sII")
_STAT_BYTES = 40
_EXTENDED = 0x4000
_SHA1_BYTES, _SHA256_BYTES = 20, 32


def is_tracked(path: Path) -> bool:
    """Return whether the innermost git work tree tracks a file; ignores letter case, as some file systems do.

    A folder above it that git keeps as one entry (a sparse index) counts too.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 (a link's own path is wanted, not its target's)
    for root in path.parents:
        git = root / ".git"
        if not os.path.lexists(git):
            continue
        try:
            names = list(_all_names(_git_folder(git)))
        except FileNotFoundError:
            return False  # nothing was ever added
        except (OSError, ValueError, IndexError, struct.error):
            return True
        wanted = os.fsencode(path.relative_to(root).as_posix()).lower()
        return any(
            name.lower() == wanted or (name.endswith(b"/") and wanted.startswith(name.lower()))
            for name in names
        )
    return False


def _git_folder(git: Path) -> Path:
    """Return the folder with the index; work trees and submodules have a file that names it."""
    if git.is_dir():
        return git
    prefix, _, folder = git.read_text(encoding="utf-8").strip().partition("gitdir: ")
    if prefix or not folder:
        raise ValueError(f"{git} names no folder")
    return git.parent / folder


def _all_names(folder: Path) -> Iterator[bytes]:
    data = (folder / "index").read_bytes()
    oid_bytes = _SHA256_BYTES if hashlib.sha256(data[:-32]).digest() == data[-32:] else _SHA1_BYTES
    rest = yield from _names(data, oid_bytes)
    # A split index keeps most entries in a file that the extension `link` names.
    while rest + 8 <= len(data) - oid_bytes:
        signature, size = struct.unpack_from(">4sI", data, rest)
        if signature == b"link":
            shared = data[rest + 8 : rest + 8 + oid_bytes].hex()
            yield from _names((folder / f"sharedindex.{shared}").read_bytes(), oid_bytes)
        rest += 8 + size


def _names(data: bytes, oid_bytes: int) -> Generator[bytes, None, int]:
    """Yield the entries' paths; returns where the extensions begin."""
    signature, version, num_entries = _HEADER.unpack_from(data)
    if signature != b"DIRC" or version not in (2, 3, 4):
        raise ValueError("not a git index of a known version")
    at, name = _HEADER.size, b""
    for _ in range(num_entries):
        start = at
        at += _STAT_BYTES + oid_bytes
        (flags,) = struct.unpack_from(">H", data, at)
        at += 4 if flags & _EXTENDED else 2
        kept = b""
        if version == 4:
            cut, at = _varint(data, at)
            kept = name[: len(name) - cut]
        end = data.index(b"\0", at)
        name = kept + data[at:end]
        yield name
        # Up to version 3, one to eight zeros fill the entry up to a multiple of eight bytes.
        at = end + 1 if version == 4 else start + (end - start + 8) // 8 * 8
    return at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number as packs have it for offsets; returns it and the place after it."""
    value = data[at] & 0x7F
    while data[at] & 0x80:
        at += 1
        value = ((value + 1) << 7) | (data[at] & 0x7F)
    return value, at + 1
