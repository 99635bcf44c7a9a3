"""A `.env` file of the working folder, and how far it is trusted.

Rule: a working folder may be anything that the user has cloned or unpacked. A `.env` file that git tracks, that belongs
to another user, or that others may change sets nothing with effect on security: see `schema.setting` for what that is.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from semanticd.adapters.config.git_index import is_tracked
from semanticd.adapters.config.schema import Declared, declared
from semanticd.adapters.config.small_file import read_small_file
from semanticd.adapters.config.sources import FileRead, Source, from_environment

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*")
_QUOTED = re.compile(r"""(["'])(.*?)\1\s*(?:#.*)?""")


def from_dotenv(path: Path, *, uid: int | None = None) -> Source:
    """Values of a `.env` file, if there is one: `NAME=value` lines, quotes, `export` and comments."""
    uid = os.geteuid() if uid is None else uid
    try:
        text, info = read_small_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return Source()
    except (OSError, ValueError) as error:
        return Source(complaints=[f"cannot read {path}: {error}"])
    assigned, not_understood = _assignments(text)
    source = from_environment({name: _unquoted(value) for name, value in assigned.items()}, where=".env")
    names = {one.env for one in declared()}
    source.complaints += [
        f"{path}: the quote of {name} is not closed"
        for name, value in assigned.items()
        if name in names and value[:1] in ("'", '"') and not _QUOTED.fullmatch(value)
    ]
    if not source.values:
        return source
    if not_understood:
        source.warnings.append(f"{path}: not NAME=value, so ignored: {_lines(not_understood)}")
    guarded = [
        one.name
        for one in declared()
        if one.name in source.values
        and (one.guarded or _is_foreign_model(one, source.values[one.name], path.parent))
    ]
    reason = why_not_trusted(path, info, uid=uid) if guarded else ""
    ignored = guarded if reason else []
    for name in ignored:
        source.drop(name)
    source.file = FileRead(path, tuple(source.values), tuple(ignored), reason)
    return source


def why_not_trusted(path: Path, info: os.stat_result, *, uid: int) -> str:
    """Return why a file with these facts may not decide about security; empty if it may."""
    for one in (path.lstat(), info):
        if one.st_uid != uid:
            return f"it belongs to user {one.st_uid}"
    if _others_may_write(info, uid=uid):
        return "other users can write to it"
    if is_tracked(path) or is_tracked(path.resolve()):
        return "git tracks it, so it may have come with the repository"
    return ""


def _others_may_write(info: os.stat_result, *, uid: int) -> bool:
    if info.st_mode & stat.S_IWOTH:
        return True
    return bool(info.st_mode & stat.S_IWGRP) and not _is_private_group(info.st_gid, uid=uid)


def _is_private_group(gid: int, *, uid: int) -> bool:
    """Return whether a group is a user's private group; systems with such groups often make files group-writable."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _is_foreign_model(one: Declared, value: str, folder: Path) -> bool:
    """Return whether a value makes the daemon load a path, or a model that another user chose.

    A name of the catalogue or of the user's own entries has no slash. No model brings code along unless its entry
    allows it, but one from anywhere answers the user's programs, and costs the download.
    """
    if one.name != "mlx.model_id":
        return False
    return "/" in value or value.startswith(("hf:", "~")) or os.path.lexists(folder / value)


def _assignments(text: str) -> tuple[dict[str, str], list[int]]:
    """Return the assignments as written, and the numbers of the other lines."""
    assigned: dict[str, str] = {}
    not_understood = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _ASSIGNMENT.fullmatch(line)
        if match:
            assigned[match[1]] = match[2]
        elif line.strip() and not line.lstrip().startswith("#"):
            not_understood.append(number)
    return assigned, not_understood


def _lines(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")
    return f"line{'s' if len(numbers) > 1 else ''} {shown}"


def _unquoted(value: str) -> str:
    quoted = _QUOTED.fullmatch(value)
    return quoted[2] if quoted else re.split(r"\s#", value, maxsplit=1)[0].strip()
