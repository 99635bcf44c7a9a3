"""Keeps folders whose content can be fetched or computed again out of backups and out of the search index.

`CACHEDIR.TAG` (bford.info/cachedir) is read by tar, restic, borg and others; on macOS, Time Machine is informed by
tmutil(8), and Spotlight passes over a folder that holds `.metadata_never_index`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

CACHE_TAG = "CACHEDIR.TAG"
NEVER_INDEX = ".metadata_never_index"
_TAG_TEXT = b"""Signature: 8a477f597d28d172789f06886806bc55
# This folder of semanticd can be fetched or computed again, so that backups may leave it out.
# See https://bford.info/cachedir/
"""

Run = Callable[[Sequence[str]], "tuple[int, str]"]
"""Runs a program; returns its exit status and output."""


def leave_out(folder: Path, *, run: Run, platform: str = sys.platform) -> str | None:
    """Mark a folder, if it exists; returns the error of a mark that failed, else None."""
    if not folder.is_dir():
        return None
    names = [CACHE_TAG, NEVER_INDEX] if platform == "darwin" else [CACHE_TAG]
    try:
        for name in names:
            _make(folder / name, _TAG_TEXT if name == CACHE_TAG else b"")
    except OSError as error:
        return f"cannot mark {folder}: {error.strerror or error}"
    if platform == "darwin":
        status, said = run(["tmutil", "addexclusion", str(folder)])
        if status != 0:
            return f"tmutil cannot exclude {folder} from backups: {said or f'status {status}'}"
    return None


def _make(path: Path, content: bytes) -> None:
    """Write a new file; an existing file, or a link of that name, stays unchanged."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
