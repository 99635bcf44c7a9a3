"""GGUF files on this machine: the names of their models, and the hashes of their content.

A conversion belongs to a content: a file that was replaced is another one, a copy is the same one under the same name,
and two files whose names end alike share nothing. Hashes of large files take a while, so they are remembered by path,
size, times of change and inode.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from semanticd.control.private_files import REGULAR, kind_of
from semanticd.domain.model_name import plain_name

_CHUNK = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class GgufFile:
    """One file as it was when it was last hashed; `name` is its model's."""

    name: str
    digest: str
    facts: tuple[int, ...]


class GgufFiles:
    """The memory of one models' folder."""

    def __init__(self, memory: Path) -> None:
        """Remember digests in this file; a fault in it costs only another hash."""
        self._memory = memory

    def name_of(self, path: Path) -> str:
        """Return the name of a model: its file's stem, made plain, or the one that a copy of it has."""
        known = self._read()
        here = _key(path)
        return known[here].name if here in known else _free_name(path, {file.name for file in known.values()})

    def named(self, name: str) -> Path | None:
        """Return the file whose model has this name; of several copies, one that is as it was when it was hashed."""
        paths = [Path(path) for path, file in self._read().items() if file.name == name]
        return next(
            (path for path in paths if self.known_digest(path) is not None), paths[0] if paths else None
        )

    def known_digest(self, path: Path) -> str | None:
        """Return the SHA-256 of a file's content if it was computed of the file as it is now, or as it was last."""
        known = self._read().get(_key(path))
        if known is None or (path.is_file() and known.facts != _facts(path)):
            return None
        return known.digest

    def last_digest(self, path: Path) -> str | None:
        """Return the last computed SHA-256 of a file's content, even if the file has changed since."""
        known = self._read().get(_key(path))
        return None if known is None else known.digest

    def looks_replaced(self, path: Path) -> bool:
        """Return whether a file's size, modification time or inode changed since it was hashed.

        A new mode or link, or a missing file, is not a replacement: the content may be the same.

        Raises:
            OSError: The file cannot be examined.
        """
        known = self._read().get(_key(path))
        return known is not None and path.is_file() and _apparent(known.facts) != _apparent(_facts(path))

    def digest(self, path: Path, on_progress: Callable[[int, int], None]) -> tuple[str, str | None]:
        """Return the SHA-256 of a file's content, and the one it had before if it was replaced.

        Raises:
            OSError: The file cannot be read.
        """
        found = self.known_digest(path)
        if found is not None:
            return found, None
        facts = _facts(path)
        found = _hash(path, on_progress)
        before = self._update(path, found, facts)
        return found, before.digest if before is not None and before.digest != found else None

    def has(self, digest: str) -> bool:
        """Return whether any known file has this content."""
        return any(file.digest == digest for file in self._read().values())

    def _update(self, path: Path, digest: str, facts: tuple[int, ...]) -> GgufFile | None:
        locks = self._memory.parent / ".locks"
        locks.mkdir(exist_ok=True, mode=0o700)
        with FileLock(str(locks / f"{self._memory.name}.lock")):
            known = self._read()
            before = known.pop(_key(path), None)
            known[_key(path)] = GgufFile(_name_for(path, digest, before, known), digest, facts)
            partial = self._memory.with_name(f"{self._memory.name}.{os.getpid()}")
            content = {key: [one.name, one.digest, *one.facts] for key, one in known.items()}
            partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
            partial.replace(self._memory)
        return before

    def _read(self) -> dict[str, GgufFile]:
        try:
            content: dict[str, Any] = json.loads(self._memory.read_text(encoding="utf-8"))
            names: dict[str, str] = {}
            # Earlier versions gave copies names of their own, and took over what a file name may hold.
            return {
                path: GgufFile(
                    names.setdefault(str(digest), kept_name(str(name), str(digest))),
                    str(digest),
                    tuple(int(fact) for fact in facts),
                )
                for path, (name, digest, *facts) in content.items()
            }
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}


def kept_name(name: str, digest: str) -> str:
    """Return the name recorded for a content, or a writable replacement; distinct names stay distinct."""
    plain = plain_name(name)
    return name if plain == name else f"{plain}-{digest[:6]}"


def _name_for(path: Path, digest: str, before: GgufFile | None, others: dict[str, GgufFile]) -> str:
    """Return the name for a content: that of its copies, else the path's own one unless another content has it."""
    for file in others.values():
        if file.digest == digest:
            return file.name
    taken = {file.name for file in others.values()}
    return before.name if before is not None and before.name not in taken else _free_name(path, taken)


def _free_name(path: Path, taken: set[str]) -> str:
    stem = plain_name(path.stem)
    if stem not in taken:
        return stem
    name = f"{stem}-{hashlib.sha256(_key(path).encode()).hexdigest()[:6]}"
    number = 2
    # The path's own name may have gone to a copy of what was there before.
    while name in taken:
        name = f"{stem}-{number}"
        number += 1
    return name


def _key(path: Path) -> str:
    return str(path.expanduser().absolute())


def _facts(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _apparent(facts: tuple[int, ...]) -> tuple[int, ...]:
    """Return what of a file's facts changes with its content: all but the time of its last change of any kind."""
    return facts[:2] + facts[3:]


def _hash(path: Path, on_progress: Callable[[int, int], None]) -> str:
    if (kind := kind_of(path.stat().st_mode)) != REGULAR:
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
    # No more than the file had at first: one that is being written grows as fast as it is read.
    size, done, digest = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(min(_CHUNK, size - done)):
            digest.update(chunk)
            done += len(chunk)
            on_progress(done, size)
    return digest.hexdigest()
