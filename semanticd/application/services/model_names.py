"""ModelNames: which model a name stands for, and where the files lie that it was loaded from.

A client's name is one of the registry, of a profile, or the path that an administrator loaded from. An administrator's
may also be a path from which nothing was loaded yet; files are looked at for it.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.ports.inference import LoadedModel
from semanticd.application.ports.models import InstalledModel, ModelEntry, ModelSource
from semanticd.application.services.changed_files import ChangedFiles
from semanticd.application.services.model_use import ModelUse
from semanticd.domain.errors import NO_MODEL_LOADED, ConflictError, ModelNotFoundError, SemanticError
from semanticd.domain.ids import ModelId
from semanticd.domain.model_name import DEFAULT_NAME, did_you_mean, is_gguf, is_path


class ModelNames:
    """The names of loaded models and of those that can be; asyncio thread."""

    def __init__(
        self, *, engine: BlockPoolBatchEngine, source: ModelSource, use: ModelUse, changed: ChangedFiles
    ) -> None:
        """Know the models of this engine, as far as they are not leaving, by the names of this source."""
        self.awaited: Callable[[], str | None] = lambda: None
        """Returns the name of the model that is to be served and comes by itself, None: there is none."""
        self._changed = changed
        self._engine = engine
        self._source = source
        self._use = use
        self._files: dict[ModelId, InstalledModel] = {}

    def loaded(self, name: str) -> LoadedModel | None:
        """Return the loaded model that a client's name stands for (`""`: the current one); no file is looked at."""
        models = self.serving()
        if not name:
            return models.get(self._use.current) if self._use.current else None
        if (profile := self._source.profile(name)) is not None:
            name = profile.model
        found = models.get(ModelId(name))
        if found is None and (known := self._source.known_name(name)) is not None:
            found = models.get(ModelId(known)) or models.get(ModelId(known.removeprefix("hf:")))
        if found is not None:
            return found
        # One that an administrator loaded from a folder answers to that folder's path too, as it was written.
        paths = ((key, self._files.get(key)) for key in models)
        return next(
            (models[key] for key, there in paths if there and name in (there.path, there.entry.source)), None
        )

    async def administered(self, name: str) -> LoadedModel | None:
        """Return the loaded model that an administrator's name stands for, which may be a path.

        A path of another model that is called like a loaded one does not stand for that; one of a copy does.
        """
        found = self.loaded(self._as_called(name))
        if found is not None or not name or (entry := self._resolved(name)) is None:
            return found
        loaded = self.serving().get(ModelId(entry.name))
        if loaded is None or self.is_source(loaded.model_id, entry.source):
            return loaded
        there = await self.look(name)
        return loaded if there is not None and there.fingerprint == loaded.fingerprint else None

    async def unchanged(self, name: str) -> LoadedModel | None:
        """Return the loaded model that a name stands for, unless its files were replaced by another's since."""
        loaded = await self.administered(name)
        if loaded is None or (entry := self._resolved(name)) is None:
            return loaded
        there = await self.look(name)
        if there is not None:
            return loaded if self.recognize(loaded, there) else None
        # A downloaded file may be gone; an unknown file of the user's is not the one that was loaded.
        return None if is_gguf(entry.source) and is_path(entry.source) else loaded

    def serving(self) -> dict[ModelId, LoadedModel]:
        """Return the loaded models but those that are leaving."""
        return {key: model for key, model in self._engine.models.items() if not self._use.is_leaving(key)}

    def id_of(self, name: str) -> ModelId:
        """Return the id of the model that an administrator's name stands for, loaded or not; no file is looked at."""
        entry = self._resolved(name)
        return ModelId(name if entry is None else entry.name)

    def _resolved(self, name: str) -> ModelEntry | None:
        try:
            return self._source.resolve(self.source_name(name))
        except SemanticError:
            return None

    def source_name(self, name: str) -> str:
        """Return the name by which the source finds a model: of a listed one from a folder of the user's, its path.

        `default` is the current one, as in requests, or the one that is awaited, unless a model or a profile has this
        name.

        Raises:
            ModelNotFoundError: There is no current one, and none is awaited.
        """
        if name.casefold() == DEFAULT_NAME and self._source.known_name(name) is None:
            current = self._use.current or self.awaited()
            if current is None:
                raise ModelNotFoundError(NO_MODEL_LOADED, param="model")
            name = current
        name = self._as_called(name)
        there = self._files.get(ModelId(name))
        return name if there is None or self._source.known_name(name) else there.entry.source

    def _as_called(self, name: str) -> str:
        """Return the id of a model that was looked for or fetched, where a name equals it, ignoring case."""
        if ModelId(name) in self._files or is_path(name) or self._source.known_name(name) is not None:
            return name
        alike = [one for one in self._files if one.casefold() == name.casefold()]
        return alike[0] if len(alike) == 1 else name

    async def look(self, name: str) -> InstalledModel | None:
        """Return the model whose files lie where a name says now; None where there are none that can be read."""
        try:
            return await asyncio.to_thread(self._source.find, self.source_name(name))
        except (SemanticError, OSError):
            return None

    @property
    def files(self) -> Mapping[ModelId, InstalledModel]:
        """Folders of the models that were resolved or downloaded, including all loaded ones."""
        return self._files

    def note_files(self, found: InstalledModel, *, again: bool = False) -> None:
        """Remember where a model's files lie; of a loaded one, where those lie that it was loaded from.

        With `again`, they are those of a model that left and is to come back.
        """
        model_id = ModelId(found.model_id)
        if again or model_id not in self._engine.models or model_id not in self._files:
            self._files[model_id] = found

    def recognize(self, loaded: LoadedModel, found: InstalledModel) -> bool:
        """Return whether a model was loaded from these files; records files that were only copied or touched."""
        if loaded.content != found.content:
            return False
        noted = self._files.get(loaded.model_id)
        if noted is not None and noted.path == found.path:
            self._files[loaded.model_id] = found
        return True

    async def warnings(self) -> Mapping[ModelId, str]:
        """Return remarks on loaded models whose files on disk have changed; never waits long for a disk."""
        files = {key: self._files[key] for key in self._engine.models if key in self._files}
        return await self._changed.warnings(files)

    def forget_files(self, name: str) -> None:
        """Forget the files of a model that were removed."""
        if ModelId(name) not in self._engine.models:
            self._files.pop(ModelId(name), None)

    def is_source(self, model_id: ModelId, source: str) -> bool:
        """Return whether a loaded model came from this source."""
        there = self._files.get(model_id)
        return there is not None and _whole_path(there.entry.source) == _whole_path(source)

    def namesake(self, loaded: LoadedModel, name: str, entry: ModelEntry) -> ConflictError:
        """Return the obstacle to loading a model alongside another one of the same id."""
        unload = f"first (`semanticd models unload {shlex.quote(loaded.model_id)}`)"
        swap = f"`semanticd models swap {shlex.quote(name)}`"
        if self.is_source(loaded.model_id, entry.source):
            return ConflictError(
                f"model {loaded.model_id} is loaded, from files that were replaced since; unload it {unload}, "
                f"or swap to the new ones ({swap})"
            )
        return ConflictError(
            f"model {loaded.model_id} is loaded from {self._files[loaded.model_id].entry.source}, and "
            f"{entry.source} is another model of this name; unload the loaded one {unload}, swap to the other "
            f"({swap}), or rename it"
        )

    def why_not_loaded(self, name: str) -> str:
        """Return the message where an administrator's name stands for no loaded model."""
        entry = self._resolved(name)
        there = self._files.get(ModelId(entry.name)) if entry is not None else None
        if there is None or ModelId(there.model_id) not in self._engine.models:
            return f"model {name[:80]!r} is not loaded{did_you_mean(name, self.serving())}"
        return (
            f"model {name!r} is not loaded; {there.model_id} is, from {there.entry.source}: unload it by that name "
            f"(`semanticd models unload {shlex.quote(there.model_id)}`)"
        )


def _whole_path(source: str) -> str:
    return str(Path(source).expanduser().absolute()) if is_path(source) else source
