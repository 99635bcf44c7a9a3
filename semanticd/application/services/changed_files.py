"""ChangedFiles: which loaded models' files are not on disk any more what they were when they were loaded.

Looking costs a call of the file system for each file, in a worker thread, every few seconds while somebody asks. A file
system that does not answer delays an answer by half a second at most: what was seen last is shown.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping

from semanticd.application.ports.models import FileFacts, InstalledModel, ModelSource
from semanticd.application.ports.telemetry import Clock
from semanticd.domain.ids import ModelId

LOOK_EVERY_S = 5.0
_PATIENCE_S = 0.5
_NAMES_SHOWN = 3


class ChangedFiles:
    """Compares files with what was noted of them; asyncio thread."""

    def __init__(self, *, source: ModelSource, clock: Clock) -> None:
        """Look at files where this source has them."""
        self._source = source
        self._clock = clock
        self._looking: asyncio.Task[dict[str, tuple[FileFacts, ...] | None]] | None = None
        self._seen: dict[str, tuple[FileFacts, ...] | None] = {}
        """By folder, the files as they were at the last look; None: they could not be looked at."""
        self._looked_at = float("-inf")

    async def warnings(self, loaded: Mapping[ModelId, InstalledModel]) -> dict[ModelId, str]:
        """Return a sentence for each model whose files changed since it was found as it is in `loaded`."""
        folders = {model.path for model in loaded.values() if model.files}
        if self._looking is None and folders and self._is_due(folders):
            self._looked_at = self._clock.monotonic()
            self._looking = asyncio.create_task(asyncio.to_thread(self._look, folders))
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=_PATIENCE_S)
        if self._looking is not None and self._looking.done():
            self._seen = self._looking.result()
            self._looking = None
        return {
            model_id: sentence
            for model_id, model in loaded.items()
            if model.path in self._seen and (sentence := _sentence(model, self._seen[model.path]))
        }

    def _is_due(self, folders: set[str]) -> bool:
        is_new = not folders <= self._seen.keys()
        return is_new or self._clock.monotonic() - self._looked_at >= LOOK_EVERY_S

    # Worker thread.

    def _look(self, folders: set[str]) -> dict[str, tuple[FileFacts, ...] | None]:
        return {folder: self._files(folder) for folder in folders}

    def _files(self, folder: str) -> tuple[FileFacts, ...] | None:
        try:
            return self._source.files(folder)
        except OSError:
            # One that vanished while they were listed, or a folder that may not be read any more.
            return None


def _sentence(model: InstalledModel, now: tuple[FileFacts, ...] | None) -> str:
    """Return what to say of a model's files; empty where they are as they were."""
    if now is None:
        return f"its files in {model.path} cannot be looked at any more; what was loaded is served"
    before, there = ({one.name: one for one in files} for files in (model.files, now))
    removed = [name for name in before if name not in there]
    changed = [name for name in before if name in there and there[name] != before[name]]
    added = [name for name in there if name not in before]
    kinds = (("removed", removed), ("changed", changed), ("added", added))
    parts = "; ".join(f"{kind}: {_listed(names)}" for kind, names in kinds if names)
    if not parts:
        return ""
    cure = f"`semanticd models swap {shlex.quote(model.model_id)}` loads what is there now"
    if not there:
        cure = "it cannot be loaded again"
    return (
        f"its files in {model.path} changed since it was loaded ({parts}); what was loaded is served: {cure}"
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
