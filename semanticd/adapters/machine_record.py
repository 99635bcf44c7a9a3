"""Measurements of this machine, kept between runs: the best chunk of each model, and the last self-test's progress.

One small JSON file in the user's data folder, written whole or not at all. Unreadable values count as missing, because
everything in the file can be measured again.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import platformdirs

_FORMAT = 1
_LARGEST_BYTES = 1 << 20
_LARGEST_CHUNK = 1 << 16


def default_record_path() -> Path:
    """Return the file of this user on this machine."""
    return Path(platformdirs.user_data_dir("semanticd", appauthor=False)) / "machine.json"


class MachineRecord:
    """The file; every change is written at once. A record that cannot be written loses nothing but the memory of it."""

    def __init__(self, path: Path | None = None, *, now: Callable[[], float] = time.time) -> None:
        """Read the file at `path` (None: the user's own)."""
        self.path = path or default_record_path()
        self._now = now
        self._data = _read(self.path)
        last = self._data.get("selftest")
        last = last if isinstance(last, dict) else {}
        began, check = last.get("began_at"), last.get("check")
        self.last_began_at: float | None = float(began) if isinstance(began, int | float) else None
        """Start of the last self-test, in seconds since the epoch; None: there was none."""
        self.interrupted_check: str | None = check if isinstance(check, str) else None
        """The check in which the last self-test was cut off; None: it came to its end."""

    def begin_run(self) -> None:
        """Note that a self-test begins."""
        self._data["selftest"] = {"began_at": self._now(), "check": None}
        self._write()

    def checking(self, name: str | None) -> None:
        """Note which check runs now, so that the next run knows where the machine went down; None: none does."""
        run = self._data.setdefault("selftest", {"began_at": self._now()})
        run["check"] = name
        self._write()

    def keep_chunks(
        self, *, fingerprint: str, computed_by: str, best: int, tokens_per_s: Mapping[int, float]
    ) -> None:
        """Keep the chunk with which a model reads prompts best, for the software and chip that computed."""
        models = self._data.get("models")
        models = models if isinstance(models, dict) else {}
        models[fingerprint] = {
            "computed_by": computed_by,
            "best_chunk": best,
            "tokens_per_s": {str(chunk): round(rate, 1) for chunk, rate in tokens_per_s.items()},
            "measured_at": self._now(),
        }
        self._data["models"] = models
        self._write()

    def best_chunk(self, *, fingerprint: str, computed_by: str) -> int | None:
        """Return the best chunk in tokens; None where it was not measured with this software on this kind of chip."""
        models = self._data.get("models")
        found = models.get(fingerprint) if isinstance(models, dict) else None
        if not isinstance(found, dict) or found.get("computed_by") != computed_by:
            return None
        best = found.get("best_chunk")
        valid = isinstance(best, int) and not isinstance(best, bool) and 0 < best <= _LARGEST_CHUNK
        return best if valid else None

    def _write(self) -> None:
        text = json.dumps({**self._data, "format": _FORMAT}, indent=1)
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, name = tempfile.mkstemp(prefix=f"{self.path.name}.", dir=self.path.parent)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    # A machine that goes down in the next check must find this.
                    os.fsync(file.fileno())
                Path(name).replace(self.path)
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            return {}
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) and data.get("format") == _FORMAT else {}
