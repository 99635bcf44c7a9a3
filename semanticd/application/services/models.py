"""The installed models and the one in use: pull, load, unload and swap without a failed request.

While a change needs the place of the present model, new requests wait (see `ModelUse`); requests that were admitted
before finish on the model they were admitted to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.ports.inference import LoadedModel, ModelLoader
from semanticd.application.ports.models import InstalledModel, ModelSource, PullProgress
from semanticd.application.services.model_facts import (
    ModelFacts,
    ModelInUse,
    PulledModel,
    RemovedModel,
    SwappedModel,
    UnloadedModel,
    memory_needed,
    model_facts,
    one_sentence,
    removed_facts,
)
from semanticd.application.services.model_memory import ModelMemory
from semanticd.application.services.model_names import ModelNames
from semanticd.application.services.model_progress import ModelProgress
from semanticd.application.services.model_use import ModelUse
from semanticd.domain.errors import (
    BrokenModelError,
    ConflictError,
    DrainingError,
    ModelLoadError,
    ModelNotFoundError,
    ModelTooLargeError,
    SemanticError,
)
from semanticd.domain.ids import ModelId
from semanticd.domain.memory_plan import ModelFootprint
from semanticd.domain.model_name import is_path
from semanticd.domain.size_text import at_least, at_most

if TYPE_CHECKING:  # loaded where a model is spread over machines, and nowhere else
    from semanticd.application.ports.ranks import Ranks

_T = TypeVar("_T")

_DRAIN_POLL_S = 0.02


class ModelsService:
    """The models' use cases; asyncio thread."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        source: ModelSource,
        loader: ModelLoader,
        use: ModelUse,
        names: ModelNames,
        memory: ModelMemory,
        progress: ModelProgress,
    ) -> None:
        """Serve models of `source`, loaded by `loader`, with `engine`; the parts are those that requests use."""
        self.ranks: Ranks | None = None
        """The machines that compute a model together; None: this one computes alone."""
        self._engine = engine
        self._source = source
        self._loader = loader
        self._use = use
        self._names = names
        self._memory = memory
        self._progress = progress
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()
        """Changes that are made; the event loop alone would not keep them."""

    @property
    def is_changing(self) -> bool:
        """Whether a model is being loaded, unloaded or swapped."""
        return self._changing.locked()

    # Showing.

    async def current(self) -> ModelFacts | None:
        """Return the current model's facts, or None."""
        return next((one for one in await self.list() if one.current), None)

    async def info(self, model: str) -> ModelFacts:
        """Return one model's facts."""
        source_name = self._names.source_name(model)
        entry = self._source.resolve(source_name)
        there = await asyncio.to_thread(self._source.find, source_name)
        if there is not None:
            # It may be a folder of the user's own, which no list of installed models knows before it is loaded.
            self._names.note_files(there)
        found = next((one for one in await self.list() if one.id == entry.name), None)
        if found is None:
            raise ModelNotFoundError(f"model {model!r} is not installed; pull it first", param="model")
        return found

    # Changing.

    async def pull(
        self, model: str, on_progress: Callable[[PullProgress], None] | None = None
    ) -> PulledModel:
        """Fetch a model's files; returns its facts. Progress also goes to the `models` topic.

        A failure is in the daemon's status for a while only: nothing that is served, or was to be, depends on it.
        """
        return await self._pull(model, on_progress, failure_lasts=False)

    async def _pull(
        self,
        model: str,
        on_progress: Callable[[PullProgress], None] | None = None,
        *,
        failure_lasts: bool,
    ) -> PulledModel:
        loop = asyncio.get_running_loop()

        def report(progress: PullProgress) -> None:
            loop.call_soon_threadsafe(self._report_pull, model, progress, on_progress)

        try:
            installed = await asyncio.to_thread(self._source.pull, self._names.source_name(model), report)
        except SemanticError as error:
            self._progress.failed(model, error.message, lasts=failure_lasts)
            raise
        except Exception as error:
            self._progress.failed(model, str(error) or type(error).__name__, lasts=failure_lasts)
            raise ModelLoadError(f"cannot fetch model {model}: {one_sentence(str(error))}") from error
        self._names.note_files(installed)
        self._progress.pulled(model)
        return PulledModel(installed.model_id, installed.path, installed.size_bytes)

    def _report_pull(
        self, model: str, progress: PullProgress, on_progress: Callable[[PullProgress], None] | None
    ) -> None:
        share = progress.done_bytes / progress.total_bytes if progress.total_bytes else 0.0
        total = {"total_bytes": progress.total_bytes} if progress.total_bytes else {}
        self._progress.tell(model, progress.stage, share, **total)
        if on_progress is not None:
            on_progress(progress)

    async def fetch(self, model: str) -> None:
        """Fetch the files of a model that is to be loaded later, if they are not here.

        Raises:
            ModelNotFoundError: There is no such model.
            ModelTooLargeError: It does not fit on this machine, even alone.
            ModelDownloadError: Its files cannot be fetched.
        """
        await self._find(model)

    async def remove(self, model: str) -> RemovedModel:
        """Delete a model's files.

        Raises:
            ConflictError: The model is loaded, or is as soon as all machines that compute it are there.
        """
        if await self._names.administered(model) is not None:
            raise ConflictError(f"model {model} is loaded; unload it before removing its files")
        if self._awaited(model) is not None:
            raise ConflictError(
                f"model {model} is loaded as soon as all machines have joined; unload it before removing its files"
            )
        source_name = self._names.source_name(model)
        entry = self._source.resolve(source_name)
        found = await asyncio.to_thread(self._source.find, source_name)
        freed_bytes = await asyncio.to_thread(self._source.remove, source_name)
        self._names.forget_files(entry.name)
        return await asyncio.to_thread(removed_facts, entry, found, freed_bytes=freed_bytes)

    async def load(self, model: str) -> ModelInUse:
        """Load a model in addition to those already loaded; the first one becomes current.

        Where memory is short, the least recently used others leave first, but never the current one.

        Raises:
            ModelLoadError: It does not fit alongside the current one, or cannot be loaded.
            ConflictError: Another model of its name is loaded, or it is, from files that were replaced since.
        """
        return await self._to_the_end(self._load_beside(model))

    async def _load_beside(self, model: str) -> ModelInUse:
        async with self._changing:
            await self._make_room(await self._find(model))
            loaded = await self._load(model)
            if self._use.current is None:
                self._use.current = loaded.model_id
            self._progress.settled(loaded.model_id)
        return ModelInUse(loaded.model_id, loaded=True, current=loaded.model_id == self._use.current)

    async def unload(self, model: str) -> UnloadedModel:
        """Free a model's memory once its requests are answered; its agents' blocks stay on disk.

        One that is awaited, because a machine that computes it is away, is not loaded again.
        """
        return await self._to_the_end(self._unload(model))

    async def _unload(self, model: str) -> UnloadedModel:
        async with self._changing:
            awaited = self._awaited(model)
            if self.ranks is not None and awaited is not None:
                self.ranks.give_up()
            loaded = await self._names.administered(model)
            if loaded is None and awaited is not None:
                return UnloadedModel(awaited, loaded=False)
            if loaded is None:
                raise ModelNotFoundError(self._names.why_not_loaded(model), param="model")
            await self._leave(loaded)
            self._progress.settled(loaded.model_id)
        return UnloadedModel(loaded.model_id, loaded=False)

    def _awaited(self, model: str) -> ModelId | None:
        """Return the id of this model where the ranks await it, else None."""
        awaited = self.ranks.awaited if self.ranks is not None else None
        if awaited is None:
            return None
        model_id = self._names.id_of(awaited)
        return model_id if self._names.id_of(model) == model_id else None

    async def lose(self, model: LoadedModel) -> None:
        """Free the memory of a model whose machines are gone, and which they are to load again."""
        await self._to_the_end(self._lose(model))

    async def _lose(self, model: LoadedModel) -> None:
        async with self._changing:
            if self._engine.models.get(model.model_id) is model:
                await self._leave(model)
                self._progress.settled(model.model_id)
            elif self.ranks is not None:
                # Its user unloaded it meanwhile.
                self.ranks.give_up()

    async def load_for_request(self, name: str) -> None:
        """Load a model that is here under a name we know; a client names no folders and starts no downloads.

        Raises:
            ModelLoadError: It does not fit, or could not be loaded a moment ago: nothing is tried.
        """
        known = self._source.known_name(name)
        if known is None or (found := await asyncio.to_thread(self._source.find, known)) is None:
            return
        self._check_worth_a_try(found)
        await self.load(known)

    def _check_worth_a_try(self, found: InstalledModel) -> None:
        if ModelId(found.model_id) in self._engine.models:
            return
        if (reason := self._memory.why_it_never_fits(found.footprint())) is not None:
            self._progress.too_large_for_request(found, reason)
            raise ModelTooLargeError(reason, param="model")
        if (failure := self._progress.failure_of(found)) is not None:
            raise failure

    async def swap(self, model: str) -> SwappedModel:
        """Make a model the current one: alongside the old one if both fit, else as its replacement.

        One whose id is loaded from other files takes that one's place.

        Raises:
            ModelLoadError: It could not be loaded; the old one serves again, if its files are as they were.
        """
        return await self._to_the_end(self._counted_swap(model))

    async def _to_the_end(self, change: Coroutine[Any, Any, _T]) -> _T:
        """Make a change whole, also where who asked for it does not wait: half of one would leave no model."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        # Its failure is in the log, and in what the models' progress says: a task that is not awaited adds nothing.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _counted_swap(self, model: str) -> SwappedModel:
        try:
            swapped = await self._swap(model)
        except BaseException:
            self._progress.swapped("failed")
            raise
        self._progress.swapped("done")
        return swapped

    async def _swap(self, model: str) -> SwappedModel:
        async with self._changing:
            old = self._engine.models.get(self._use.current) if self._use.current else None
            target = await self._names.unchanged(model)
            if target is None:
                target = await self._bring_in(model, old)
            self._use.current = target.model_id
            if old is not None and old.model_id != target.model_id and old.model_id in self._engine.models:
                await self._leave(old)
            self._progress.settled(target.model_id)
        return SwappedModel(target.model_id, current=True, previous=old.model_id if old else None)

    async def _make_room(self, installed: InstalledModel) -> None:
        if not self._engine.models or ModelId(installed.model_id) in self._engine.models:
            return
        needed = memory_needed(installed, self._memory.device)
        while needed > self._memory.beside_bytes():
            others = [model for model in self._engine.models.values() if self._may_go(model.model_id)]
            if not others:
                raise ModelLoadError(
                    f"model {installed.model_id} needs about {at_least(needed)} and "
                    f"{at_most(max(self._memory.beside_bytes(), 0))} are free next to {self._use.current}; "
                    "swap to it instead"
                )
            await self._leave(max(others, key=lambda model: self._use.idle_s(model.model_id)))

    async def _bring_in(self, model: str, old: LoadedModel | None) -> LoadedModel:
        installed = await self._find(model, replaces=True)
        namesake = self._engine.models.get(ModelId(installed.model_id))
        if namesake is not None and self._names.recognize(namesake, installed):
            return namesake
        needed = memory_needed(installed, self._memory.device)
        if namesake is None and (old is None or needed <= self._memory.beside_bytes()):
            return await self._load(model)
        # Both do not fit, or are called the same: requests wait while the old one drains, persists and leaves.
        # Errors in its files must show while the old one is still being served.
        await self._check(installed)
        name = self._names.source_name(model)
        gone = []
        with self._use.closed():
            if namesake is not None:
                gone.append(self._names.files[namesake.model_id])
                await self._leave(namesake)
            if old is not None and old is not namesake and needed > self._memory.beside_bytes():
                gone.append(self._names.files[old.model_id])
                await self._leave(old)
            try:
                loaded = await self._load(name)
            except SemanticError as error:
                await self._bring_back(gone, old, error)
                self._progress.rest()
                raise
            self._use.current = loaded.model_id
            return loaded

    async def _bring_back(
        self, gone: list[InstalledModel], old: LoadedModel | None, error: SemanticError
    ) -> None:
        """Load again what left for a model that could not be loaded."""
        for one in gone:
            name = one.entry.source if is_path(one.entry.source) else one.model_id
            self._names.note_files(one, again=True)
            there = await self._names.look(name)
            if there is None or there.content != one.content:
                # Blocks of the one that left must not be taken for those of what lies there now; and what lies there
                # is what just failed.
                raise ModelLoadError(
                    f"{error.message}; {one.model_id} is not loaded any more, and its files in {one.path} were "
                    "replaced since it was"
                ) from error
            await self._load(name)
        if old is not None and old.model_id in self._engine.models:
            self._use.current = old.model_id

    async def _leave(self, model: LoadedModel) -> None:
        """Finish a model's requests, persist its blocks and free its memory."""
        self._progress.tell(model.model_id, "draining", 0.0)
        with self._use.leaving(model.model_id, loaded=self._engine.models):
            while not await self._removed(model):  # noqa: ASYNC110 (the engine's thread has no event loop)
                await asyncio.sleep(_DRAIN_POLL_S)
        self._use.forget(model.model_id)
        self._progress.tell(model.model_id, "unloaded", 1.0)

    async def _removed(self, model: LoadedModel) -> bool:
        if self._busy(model):
            return False
        try:
            await asyncio.wrap_future(self._engine.remove_model(model.model_id))
        except ConflictError:
            # A request that was submitted before the door closed has only now been taken in.
            return False
        return True

    def _busy(self, model: LoadedModel) -> bool:
        return self._use.is_held(model.model_id) or any(one.model is model for one in self._engine.running())

    async def expire(self, ttl_s: float | None) -> None:
        """Unload models that got no request in their time, or in `ttl_s` seconds where their entry names none.

        The current model and pinned ones stay.
        """
        for model_id in list(self._engine.models):
            limit_s = self._names.files[model_id].entry.ttl_s or ttl_s
            if (
                limit_s is not None
                and self._use.idle_s(model_id) >= limit_s
                and not self._use.is_held(model_id)
                and self._may_go(model_id)
            ):
                await self.unload(model_id)

    def _may_go(self, model_id: ModelId) -> bool:
        return model_id != self._use.current and not self._names.files[model_id].entry.pinned

    async def _find(self, model: str, *, replaces: bool = False) -> InstalledModel:
        """Return a model's files, fetched if they are not here; one that replaces another may be called like it."""
        source_name = self._names.source_name(model)
        found = await asyncio.to_thread(self._source.find, source_name)
        if found is None:
            entry = self._source.resolve(source_name)
            loaded = self._engine.models.get(ModelId(entry.name))
            if (
                loaded is not None
                and not replaces
                and not self._names.is_source(loaded.model_id, entry.source)
            ):
                raise self._names.namesake(loaded, model, entry)
            self._refuse_what_never_fits(entry.footprint())
            if self.ranks is not None and (taken := self.ranks.why_taken(entry.name)) is not None:
                raise ModelLoadError(taken, param="model")
            await self._pull(model, failure_lasts=True)
            found = await asyncio.to_thread(self._source.find, source_name)
        if found is None:
            raise ModelNotFoundError(f"model {model!r} was pulled but cannot be found", param="model")
        self._names.note_files(found)
        loaded = self._engine.models.get(ModelId(found.model_id))
        if loaded is None or loaded.fingerprint != found.fingerprint:
            self._refuse_what_never_fits(found.footprint())
        return found

    def _refuse_what_never_fits(self, model: ModelFootprint | None) -> None:
        """Raise `ModelTooLargeError` for a model that does not fit on this machine, even alone."""
        if model is not None and (reason := self._memory.why_it_never_fits(model)) is not None:
            self._progress.failed(model.name, reason)
            raise ModelTooLargeError(reason, param="model")

    async def _load(self, model: str) -> LoadedModel:
        installed = await self._find(model)
        existing = self._engine.models.get(ModelId(installed.model_id))
        if existing is not None and not self._names.recognize(existing, installed):
            raise self._names.namesake(existing, model, installed.entry)
        if existing is not None:
            return existing
        self._progress.tell(installed.model_id, "loading", 0.0)
        loop = asyncio.get_running_loop()

        def report(share: float) -> None:
            loop.call_soon_threadsafe(self._progress.tell, installed.model_id, "loading", share)

        with self._failures_noted(installed):
            steps = self._loader.load(installed, on_progress=report)
            loaded = await asyncio.wrap_future(
                self._engine.load_model(steps, weights_bytes=installed.size_bytes)
            )
        self._progress.loaded(installed)
        self._use.note_loaded(loaded.model_id)
        return loaded

    async def _check(self, installed: InstalledModel) -> None:
        """Raise what loading a model's files would, without the memory that its weights take."""
        self._progress.tell(installed.model_id, "checking", 0.0)
        with self._failures_noted(installed):
            await asyncio.wrap_future(self._engine.check_model(self._loader.check(installed)))

    @contextlib.contextmanager
    def _failures_noted(self, installed: InstalledModel) -> Iterator[None]:
        """Note why a model cannot be loaded, and raise that as a `ModelLoadError` of one sentence."""
        try:
            yield
        except DrainingError:
            # The daemon ends: nothing is wrong with the model.
            self._progress.rest()
            raise
        except SemanticError as error:
            kind = BrokenModelError if isinstance(error, BrokenModelError) else ModelLoadError
            self._progress.failed_to_load(installed, error.message, kind)
            if (short := one_sentence(error.message)) != error.message:
                raise kind(short) from error
            raise
        except Exception as error:
            self._progress.failed_to_load(installed, str(error), ModelLoadError)
            raise ModelLoadError(
                f"cannot load model {installed.model_id} from {installed.path}: {one_sentence(str(error))}"
            ) from error

    # Last, because it shadows the built-in name for all that follows in the class body.

    async def list(self) -> list[ModelFacts]:
        """Return known models: loaded, installed, and those that can be pulled."""
        return await asyncio.to_thread(
            model_facts,
            self._source,
            fetched=self._names.files,
            loaded=self._engine.models,
            loaded_at=self._use.loaded_at,
            current=self._use.current,
            device=self._memory.device,
            warnings=await self._names.warnings(),
        )
