"""ChangedFiles: detects loaded models whose files on disk have changed since they were loaded.

A model that was converted from a user's file is compared with that file too.

Looking costs a call of the file system for each file, in a worker thread, every few seconds while it is polled. A file
system that does not answer delays an answer by half a second at most: what was seen last is shown.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from semanticd.application.ports.models import FileFacts, InstalledModel, ModelSource
from semanticd.application.ports.telemetry import Clock
from semanticd.domain.ids import ModelId

LOOK_EVERY_S = 5.0
_PATIENCE_S = 0.5
_NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class _Seen:
    """The files on disk at one check."""

    files: tuple[FileFacts, ...] | None
    """None: they could not be inspected."""
    replaced_source: str | None = None


class ChangedFiles:
    """Compares files with their recorded state; asyncio thread."""

    def __init__(self, *, source: ModelSource, clock: Clock) -> None:
        """Look at files where this source has them."""
        self._source = source
        self._clock = clock
        self._looking: asyncio.Task[dict[tuple[str, str], _Seen]] | None = None
        self._seen: dict[tuple[str, str], _Seen] = {}
        """State at the last check, by folder and source."""
        self._looked_at = float("-inf")

    async def warnings(self, loaded: Mapping[ModelId, InstalledModel]) -> dict[ModelId, str]:
        """Return a sentence for each model whose files changed since it was found as it is in `loaded`."""
        places = {_place(model): model for model in loaded.values() if model.files}
        if self._looking is None and places and self._is_due(places):
            self._looked_at = self._clock.monotonic()
            self._looking = asyncio.create_task(asyncio.to_thread(self._look, places))
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=_PATIENCE_S)
        if self._looking is not None and self._looking.done():
            self._seen = self._looking.result()
            self._looking = None
        return {
            model_id: sentence
            for model_id, model in loaded.items()
            if (seen := self._seen.get(_place(model))) and (sentence := _sentence(model, seen))
        }

    def _is_due(self, places: Iterable[tuple[str, str]]) -> bool:
        is_new = any(place not in self._seen for place in places)
        return is_new or self._clock.monotonic() - self._looked_at >= LOOK_EVERY_S

    # Worker thread.

    def _look(self, places: Mapping[tuple[str, str], InstalledModel]) -> dict[tuple[str, str], _Seen]:
        return {place: self._see(model) for place, model in places.items()}

    def _see(self, model: InstalledModel) -> _Seen:
        try:
            return _Seen(self._source.files(model.path), self._source.replaced_source(model))
        except OSError:
            # One that vanished while they were listed, or a folder that may not be read any more.
            return _Seen(None)


def _place(model: InstalledModel) -> tuple[str, str]:
    return model.path, model.entry.source


def _sentence(model: InstalledModel, seen: _Seen) -> str:
    """Return a sentence about a model's changed files; empty where they are unchanged."""
    now = seen.files
    if now is None:
        return f"its files in {model.path} can no longer be read; the loaded version stays in use"
    before, there = ({one.name: one for one in files} for files in (model.files, now))
    removed = [name for name in before if name not in there]
    changed = [name for name in before if name in there and there[name] != before[name]]
    added = [name for name in there if name not in before]
    kinds = (("removed", removed), ("changed", changed), ("added", added))
    parts = "; ".join(f"{kind}: {_listed(names)}" for kind, names in kinds if names)
    cure = f"`semanticd models swap {shlex.quote(model.model_id)}` loads the new files"
    if seen.replaced_source is not None:
        # Then its conversion may be gone too; it is rebuilt.
        return (
            f"the file {seen.replaced_source}, which it was converted from, changed since it was loaded; the "
            f"loaded version stays in use: {cure}"
        )
    if not parts:
        return ""
    if not there:
        cure = "it cannot be loaded again"
    return f"its files in {model.path} changed since it was loaded ({parts}); the loaded version stays in use: {cure}"


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
