"""Names a model by its content: every file that a loader may read.

No list says which files a loader reads: models bring code, vocabularies of many kinds, templates in folders. So all
files count, except those that cannot matter (documents, pictures, weights in formats that are not loaded) and those
that matter, but not to the KV of given tokens: blocks computed before they changed stay usable.

Reading gigabytes takes a while, so a fingerprint is computed once per set of files and remembered by their paths,
sizes, times of change and inodes, in a folder of ours: nothing is written into a model's. A file that was put in
another's place with its size and time of modification differs in its inode and in the time of its change, which
programs cannot set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from semanticd.application.ports.models import FileFacts
from semanticd.control.private_files import kind_of
from semanticd.domain.errors import BrokenModelError
from semanticd.domain.ids import ModelFingerprint

_DOCUMENTS = frozenset({".md", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".html"})
_OTHER_FORMATS = frozenset({".gguf", ".bin", ".pt", ".pth", ".onnx", ".h5", ".msgpack", ".pyc"})
_INERT_NAMES = frozenset(
    {"license", "license.txt", "notice", "notice.txt", "use_policy", "readme", "readme.txt"}
)
_SETTINGS = ("generation_config.json",)
"""Sampling defaults and end tokens: they affect the choice of tokens, not the KV."""
_CHUNK = 4 * 1024 * 1024


def model_files(folder: Path) -> list[Path]:
    """Return the files that may decide what the model's KV is, in a fixed order; hidden ones are not the model's."""
    return sorted(path for path in folder.rglob("*") if _counts(path.relative_to(folder)) and path.is_file())


def check_regular(folder: Path) -> None:
    """Refuse a folder with a pipe, a socket or a device among its files: a loader would wait for it, forever.

    Raises:
        BrokenModelError: There is one; says where.
        OSError: The folder cannot be read.
    """
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            mode = path.stat().st_mode
        except OSError:
            # A link that leads nowhere: the loader says so where it needs the file.
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise BrokenModelError(
                f"cannot load a model from {folder}: {path.name} in it is {kind_of(mode)}, not a file"
            )


def _counts(path: Path) -> bool:
    if any(part.startswith(".") or part == "__pycache__" for part in path.parts):
        return False
    if path.as_posix() in _SETTINGS:
        return False
    return path.suffix.lower() not in _DOCUMENTS | _OTHER_FORMATS and path.name.lower() not in _INERT_NAMES


def fingerprint_of(
    folder: Path, on_progress: Callable[[int, int], None] | None = None, *, memory_dir: Path | None = None
) -> ModelFingerprint:
    """Return the model's fingerprint; `on_progress` hears (bytes read, all bytes).

    It is remembered in a file of `memory_dir`, which is made when it is needed; None: it is computed each time.
    """
    files = model_files(folder)
    facts = [_facts(path, path.relative_to(folder).as_posix()) for path in files]
    if memory_dir is None:
        return _compute(folder, files, on_progress)
    memory = memory_dir / memory_name(folder)
    try:
        remembered = json.loads(memory.read_text(encoding="utf-8"))
        if remembered["files"] == facts:
            return ModelFingerprint(str(remembered["fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # Nothing is remembered, or not for these files: compute.
        pass
    fingerprint = _compute(folder, files, on_progress)
    _remember(memory, {"folder": str(folder), "files": facts, "fingerprint": fingerprint})
    return fingerprint


def settings_digest(folder: Path) -> str:
    """Return a digest of the files that a loader reads and the fingerprint leaves out; empty where there are none."""
    whole = hashlib.sha256()
    found = False
    for name in _SETTINGS:
        # One that cannot be read is refused where the model is loaded.
        with contextlib.suppress(OSError):
            whole.update(name.encode() + b"\0" + hashlib.sha256((folder / name).read_bytes()).digest())
            found = True
    return whole.hexdigest() if found else ""


def file_facts(folder: Path) -> tuple[FileFacts, ...]:
    """Return all files that a loader may read, as they are now.

    Raises:
        OSError: A file cannot be read.
    """
    settings = [folder / name for name in _SETTINGS if (folder / name).is_file()]
    return tuple(_file_facts(path, folder) for path in [*model_files(folder), *settings])


def _file_facts(path: Path, folder: Path) -> FileFacts:
    stat = path.stat()
    return FileFacts(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns, stat.st_ino)


def memory_name(folder: Path) -> str:
    """Return the name of the file that remembers a folder's fingerprint: the folder's path may not fit a file name."""
    return hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32] + ".json"


def _facts(path: Path, name: str) -> list[str | int]:
    stat = path.stat()
    return [name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _compute(
    folder: Path, paths: Sequence[Path], on_progress: Callable[[int, int], None] | None
) -> ModelFingerprint:
    total = sum(path.stat().st_size for path in paths)
    done = 0
    whole = hashlib.sha256(b"semanticd.model.v1\0")
    for path in paths:
        one = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                one.update(chunk)
                done += len(chunk)
                if on_progress is not None:
                    on_progress(done, total)
        whole.update(path.relative_to(folder).as_posix().encode() + b"\0" + one.digest())
    return ModelFingerprint(whole.hexdigest())


def _remember(memory: Path, content: dict[str, object]) -> None:
    partial = memory.with_name(f"{memory.name}.{os.getpid()}")
    try:
        memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(memory)
    except OSError:
        # A models' folder that cannot be written: computed again next time.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
