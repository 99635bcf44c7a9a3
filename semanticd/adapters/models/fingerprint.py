"""Names a model by its content: weights, config, tokenizer and chat template.

Reading gigabytes takes a while, so a fingerprint is computed once per set of files and remembered by their paths,
sizes and times of change.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from semanticd.domain.ids import ModelFingerprint

_PATTERNS = (
    "*.safetensors",
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.*",
)
_CHUNK = 4 * 1024 * 1024
_MEMORY = ".fingerprint.json"


def model_files(folder: Path) -> list[Path]:
    """Return the files that decide what the model computes, in a fixed order."""
    return sorted({path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()})


def fingerprint_of(folder: Path, on_progress: Callable[[int, int], None] | None = None) -> ModelFingerprint:
    """Return the model's fingerprint; `on_progress` hears (bytes read, all bytes)."""
    files = model_files(folder)
    facts = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    memory = folder / _MEMORY
    try:
        remembered = json.loads(memory.read_text(encoding="utf-8"))
        if remembered["files"] == facts:
            return ModelFingerprint(str(remembered["fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError):
        # Nothing is remembered, or not for these files: compute.
        pass
    fingerprint = _compute(files, on_progress)
    _remember(memory, {"files": facts, "fingerprint": fingerprint})
    return fingerprint


def _compute(files: Iterable[Path], on_progress: Callable[[int, int], None] | None) -> ModelFingerprint:
    paths = list(files)
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
        whole.update(path.name.encode() + b"\0" + one.digest())
    return ModelFingerprint(whole.hexdigest())


def _remember(memory: Path, content: dict[str, object]) -> None:
    partial = memory.with_name(f"{memory.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(memory)
    except OSError:
        # A read-only model folder: computed again next time.
        partial.unlink(missing_ok=True)
