"""Which models are there and which is in use: pull, load, unload and swap without a failed request.

While a change needs the place of the present model, new requests wait here (their clients get pings); requests that
were admitted before finish on the model they were admitted to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.ports.inference import LoadedModel, ModelLoader
from semanticd.application.ports.models import InstalledModel, ModelEntry, ModelSource, PullProgress
from semanticd.application.ports.telemetry import Telemetry
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
from semanticd.domain.errors import (
    NO_MODEL_LOADED,
    BrokenModelError,
    ConflictError,
    ModelLoadError,
    ModelNotFoundError,
    ModelTooLargeError,
    OverloadedError,
    SemanticError,
)
from semanticd.domain.ids import ModelFingerprint, ModelId
from semanticd.domain.memory_plan import DeviceMemory, ModelFootprint, refusal
from semanticd.domain.model_name import is_gguf, is_path

_DRAIN_POLL_S = 0.02
_DEFAULT = "default"
_TRY_AGAIN_S = 60.0
"""How long a model that could not be loaded is not tried again because a request names it."""


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why a model is not loaded for a request, until when on the clock."""

    kind: type[ModelLoadError]
    reason: str
    until: float


class ModelsService:
    """The models' use cases; asyncio thread."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        source: ModelSource,
        loader: ModelLoader,
        memory_bytes: Callable[[], int],
        telemetry: Telemetry,
        load_on_demand: bool = False,
        device: DeviceMemory | None = None,
    ) -> None:
        """`memory_bytes` says how many bytes are free now; `device` what all models may take (None: no limit)."""
        self._engine = engine
        self._source = source
        self._loader = loader
        self._memory_bytes = memory_bytes
        self._clock = telemetry.clock
        self._bus = telemetry.bus
        self._log = telemetry.log
        self._metrics = telemetry.metrics
        self._load_on_demand = load_on_demand
        self._device = device
        self._current: ModelId | None = None
        self._installed: dict[ModelId, InstalledModel] = {}
        self._loaded_at: dict[ModelId, float] = {}
        self._used_at: dict[ModelId, float] = {}
        self._leases: Counter[ModelId] = Counter()
        self._leaving: set[ModelId] = set()
        self._refused: dict[tuple[ModelFingerprint, str], _Refused] = {}
        """Models that could not be loaded, for requests that name them."""
        self._told_too_large: set[ModelFingerprint] = set()
        self._changing = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self.last_error: str | None = None
        self.stage = "idle"
        self.progress = 0.0

    # Routing.

    @contextlib.asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[LoadedModel]:
        """Hold the loaded model that answers to a name (`""`: the current one) until its work is submitted.

        A model that is leased stays; one that is about to leave is not leased any more.

        Raises:
            ModelNotFoundError: Nothing loaded answers to it.
            OverloadedError: The first model is still loading.
        """
        model = await self._route(name)
        self._leases[model.model_id] += 1
        self._used_at[model.model_id] = self._clock.monotonic()
        try:
            yield model
        finally:
            self._leases[model.model_id] -= 1

    async def _route(self, name: str) -> LoadedModel:
        await self._open.wait()
        profile = self._source.profile(name)
        model = self._named(name)
        if model is None and self._load_on_demand:
            model = await self._on_demand(name)
        if model is None and not self._engine.models and self._changing.locked():
            raise OverloadedError(f"the model is still {self.stage} ({self.progress:.0%})", retry_after_s=2.0)
        if model is None and not self._engine.models:
            raise ModelNotFoundError(NO_MODEL_LOADED, param="model")
        if model is None:
            there = ", ".join(sorted(self._engine.models))
            raise ModelNotFoundError(
                f"model {name[:80]!r} is not loaded; loaded: {there}. Ask for `default`, which is {self._current}, or "
                "load another with `semanticd models load NAME`",
                param="model",
            )
        if profile is None:
            return model
        return replace(model, defaults=profile.defaults.or_else(model.defaults))

    async def _on_demand(self, name: str) -> LoadedModel | None:
        """Load a model that is here under a name we know; a client names no folders and starts no downloads."""
        known = self._source.known_name(name)
        if known is None or (found := await asyncio.to_thread(self._source.find, known)) is None:
            return None
        self._check_refused(found)
        await self.load(known)
        return self._named(name)

    def _check_refused(self, found: InstalledModel) -> None:
        """Raise what a client is told of a model that cannot be loaded: nothing is tried, and it is logged once."""
        if ModelId(found.model_id) in self._engine.models:
            return
        if (reason := self._why_it_never_fits(found.footprint())) is not None:
            if found.fingerprint not in self._told_too_large:
                self._told_too_large.add(found.fingerprint)
                self._log.warning("model_on_demand_refused", model=found.model_id, reason=reason)
            raise ModelTooLargeError(reason, param="model")
        refused = self._refused.get(found.content)
        if refused is not None and self._clock.monotonic() < refused.until:
            raise refused.kind(refused.reason, param="model")

    def _serving(self) -> dict[ModelId, LoadedModel]:
        return {key: model for key, model in self._engine.models.items() if key not in self._leaving}

    def _named(self, name: str) -> LoadedModel | None:
        """Return the loaded model that a client's name stands for; no file is looked at."""
        models = self._serving()
        if not name:
            return models.get(self._current) if self._current else None
        if (profile := self._source.profile(name)) is not None:
            name = profile.model
        found = models.get(ModelId(name))
        if found is None and (known := self._source.known_name(name)) is not None:
            found = models.get(ModelId(known)) or models.get(ModelId(known.removeprefix("hf:")))
        if found is not None:
            return found
        # One that an administrator loaded from a folder answers to that folder's path too, as it was written.
        paths = ((key, self._installed.get(key)) for key in models)
        return next(
            (models[key] for key, there in paths if there and name in (there.path, there.entry.source)), None
        )

    async def _by_name(self, name: str) -> LoadedModel | None:
        """Return the loaded model that an administrator's name stands for, which may be a path.

        A path of another model that is called like a loaded one does not stand for that; one of a copy does.
        """
        found = self._named(name)
        if found is not None or not name or (entry := self._resolved(name)) is None:
            return found
        loaded = self._serving().get(ModelId(entry.name))
        if loaded is None or self._is_source(loaded.model_id, entry.source):
            return loaded
        there = await self._look(name)
        return loaded if there is not None and there.fingerprint == loaded.fingerprint else None

    async def _unchanged(self, name: str) -> LoadedModel | None:
        """Return the loaded model that a name stands for, unless its files were replaced by another's since."""
        loaded = await self._by_name(name)
        if loaded is None or (entry := self._resolved(name)) is None:
            return loaded
        there = await self._look(name)
        if there is not None:
            return loaded if there.content == loaded.content else None
        # What was fetched may be gone; a file of the user's that is not known is another one than was loaded.
        return None if is_gguf(entry.source) and is_path(entry.source) else loaded

    def _resolved(self, name: str) -> ModelEntry | None:
        try:
            return self._source.resolve(self._source_name(name))
        except SemanticError:
            return None

    async def _look(self, name: str) -> InstalledModel | None:
        """Return the model whose files lie where a name says now; None where there are none that can be read."""
        try:
            return await asyncio.to_thread(self._source.find, self._source_name(name))
        except (SemanticError, OSError):
            return None

    def _is_source(self, model_id: ModelId, source: str) -> bool:
        """Whether a loaded model came from there."""
        there = self._installed.get(model_id)
        return there is not None and _whole_path(there.entry.source) == _whole_path(source)

    def _note(self, found: InstalledModel) -> None:
        """Remember where a model's files lie; of a loaded one, where those lie that it was loaded from."""
        model_id = ModelId(found.model_id)
        if model_id not in self._engine.models or model_id not in self._installed:
            self._installed[model_id] = found

    def _namesake(self, loaded: LoadedModel, name: str, entry: ModelEntry) -> ConflictError:
        """Return what is wrong with loading a model beside another one of the same id."""
        unload = f"first (`semanticd models unload {loaded.model_id}`)"
        swap = f"`semanticd models swap {name}`"
        if self._is_source(loaded.model_id, entry.source):
            return ConflictError(
                f"model {loaded.model_id} is loaded, from files that were replaced since; unload it {unload}, "
                f"or swap to the new ones ({swap})"
            )
        return ConflictError(
            f"model {loaded.model_id} is loaded from {self._installed[loaded.model_id].entry.source}, and "
            f"{entry.source} is another model of this name; unload the loaded one {unload}, swap to the other "
            f"({swap}), or rename it"
        )

    def _source_name(self, name: str) -> str:
        """Return the name by which the source finds a model: of a listed one from a folder of the user's, its path.

        `default` is the current one, as in requests, unless a model or a profile is called so.
        """
        if name == _DEFAULT and self._current is not None and self._source.known_name(name) is None:
            name = self._current
        there = self._installed.get(ModelId(name))
        return name if there is None or self._source.known_name(name) else there.entry.source

    @property
    def current_id(self) -> ModelId | None:
        """The model that answers requests for the default."""
        return self._current

    # Showing.

    @property
    def free_memory_bytes(self) -> int:
        """Memory that is free on this machine."""
        return int(self._memory_bytes())

    def _room_beside_bytes(self) -> int:
        """Return what another model may take without another leaving; cached blocks would make room for it."""
        if self._device is None:
            return self.free_memory_bytes
        loaded = sum(model.weights_bytes for model in self._engine.models.values())
        planned = self._device.room_bytes - loaded
        return min(planned, self.free_memory_bytes + self._engine.cached_bytes)

    async def current(self) -> ModelFacts | None:
        """Return the current model's facts, or None."""
        return next((one for one in await self.list() if one.current), None)

    async def info(self, model: str) -> ModelFacts:
        """Return one model's facts."""
        source_name = self._source_name(model)
        entry = self._source.resolve(source_name)
        there = await asyncio.to_thread(self._source.find, source_name)
        if there is not None:
            # It may be a folder of the user's own, which no list of installed models knows before it is loaded.
            self._note(there)
        found = next((one for one in await self.list() if one.id == entry.name), None)
        if found is None:
            raise ModelNotFoundError(f"model {model!r} is not here; pull it first", param="model")
        return found

    # Changing.

    async def pull(
        self, model: str, on_progress: Callable[[PullProgress], None] | None = None
    ) -> PulledModel:
        """Fetch a model's files; returns its facts. Progress also goes to the `models` topic."""
        loop = asyncio.get_running_loop()

        def report(progress: PullProgress) -> None:
            loop.call_soon_threadsafe(self._report_pull, model, progress, on_progress)

        try:
            installed = await asyncio.to_thread(self._source.pull, self._source_name(model), report)
        except SemanticError as error:
            self._failed(model, error.message)
            raise
        except Exception as error:
            self._failed(model, str(error) or type(error).__name__)
            raise ModelLoadError(f"cannot fetch model {model}: {one_sentence(str(error))}") from error
        self._note(installed)
        self._tell(model, "pulled", 1.0)
        self.stage, self.last_error = "idle", None
        return PulledModel(installed.model_id, installed.path, installed.size_bytes)

    def _report_pull(
        self, model: str, progress: PullProgress, on_progress: Callable[[PullProgress], None] | None
    ) -> None:
        share = progress.done_bytes / progress.total_bytes if progress.total_bytes else 0.0
        total = {"total_bytes": progress.total_bytes} if progress.total_bytes else {}
        self._tell(model, progress.stage, share, **total)
        if on_progress is not None:
            on_progress(progress)

    async def remove(self, model: str) -> RemovedModel:
        """Delete a model's files; raises `ConflictError` while it is loaded."""
        if await self._by_name(model) is not None:
            raise ConflictError(f"model {model} is loaded; unload it before removing its files")
        source_name = self._source_name(model)
        entry = self._source.resolve(source_name)
        found = await asyncio.to_thread(self._source.find, source_name)
        freed_bytes = await asyncio.to_thread(self._source.remove, source_name)
        if ModelId(entry.name) not in self._engine.models:
            self._installed.pop(ModelId(entry.name), None)
        return await asyncio.to_thread(removed_facts, entry, found, freed_bytes=freed_bytes)

    async def load(self, model: str) -> ModelInUse:
        """Load a model in addition to those already loaded; the first one becomes current.

        Where memory is short, the least recently used others leave first, but never the current one.

        Raises:
            ModelLoadError: It does not fit beside the current one, or cannot be loaded.
            ConflictError: Another model of its name is loaded, or it is, from files that were replaced since.
        """
        async with self._changing:
            await self._make_room(await self._find(model))
            loaded = await self._load(model)
            if self._current is None:
                self._current = loaded.model_id
            self._settled(loaded.model_id)
        return ModelInUse(loaded.model_id, loaded=True, current=loaded.model_id == self._current)

    async def unload(self, model: str) -> UnloadedModel:
        """Free a model's memory once its requests are answered; its agents' blocks stay on disk."""
        async with self._changing:
            loaded = await self._by_name(model)
            if loaded is None:
                raise ModelNotFoundError(self._why_not_loaded(model), param="model")
            await self._leave(loaded)
            self._settled(loaded.model_id)
        return UnloadedModel(loaded.model_id, loaded=False)

    def _why_not_loaded(self, name: str) -> str:
        entry = self._resolved(name)
        there = self._installed.get(ModelId(entry.name)) if entry is not None else None
        if there is None or ModelId(there.model_id) not in self._engine.models:
            return f"model {name[:80]!r} is not loaded"
        return (
            f"model {name!r} is not loaded; {there.model_id} is, from {there.entry.source}: unload it by that name "
            f"(`semanticd models unload {there.model_id}`)"
        )

    async def swap(self, model: str) -> SwappedModel:
        """Make a model the current one: beside the old where both fit, else in its place.

        One whose id is loaded from other files takes that one's place.

        Raises:
            ModelLoadError: It could not be loaded; the old one serves again, if its files are as they were.
        """
        try:
            swapped = await self._swap(model)
        except BaseException:
            self._metrics.count("model_swaps_total", outcome="failed")
            raise
        self._metrics.count("model_swaps_total", outcome="done")
        return swapped

    async def _swap(self, model: str) -> SwappedModel:
        async with self._changing:
            old = self._engine.models.get(self._current) if self._current else None
            target = await self._unchanged(model)
            if target is None:
                target = await self._bring_in(model, old)
            self._current = target.model_id
            if old is not None and old.model_id != target.model_id and old.model_id in self._engine.models:
                await self._leave(old)
            self._settled(target.model_id)
        return SwappedModel(target.model_id, current=True, previous=old.model_id if old else None)

    async def _make_room(self, installed: InstalledModel) -> None:
        if not self._engine.models or ModelId(installed.model_id) in self._engine.models:
            return
        needed = memory_needed(installed)
        while needed > self._room_beside_bytes():
            others = [model for model in self._engine.models.values() if self._may_go(model.model_id)]
            if not others:
                raise ModelLoadError(
                    f"model {installed.model_id} needs about {needed / 2**30:.1f} GiB and "
                    f"{max(self._room_beside_bytes(), 0) / 2**30:.1f} GiB are free next to {self._current}; "
                    "swap to it instead"
                )
            await self._leave(min(others, key=lambda model: self._used_at.get(model.model_id, 0.0)))

    async def _bring_in(self, model: str, old: LoadedModel | None) -> LoadedModel:
        installed = await self._find(model, replaces=True)
        namesake = self._engine.models.get(ModelId(installed.model_id))
        if namesake is not None and namesake.content == installed.content:
            return namesake
        needed = memory_needed(installed)
        if namesake is None and (old is None or needed <= self._room_beside_bytes()):
            return await self._load(model)
        # Both do not fit, or are called the same: requests wait while the old one drains, persists and leaves.
        name = self._source_name(model)
        gone = []
        self._open.clear()
        try:
            if namesake is not None:
                gone.append(self._installed[namesake.model_id])
                await self._leave(namesake)
            if old is not None and old is not namesake and needed > self._room_beside_bytes():
                gone.append(self._installed[old.model_id])
                await self._leave(old)
            try:
                loaded = await self._load(name)
            except SemanticError as error:
                await self._bring_back(gone, old, error)
                self.stage = "idle"
                raise
            self._current = loaded.model_id
            return loaded
        finally:
            self._open.set()

    async def _bring_back(
        self, gone: list[InstalledModel], old: LoadedModel | None, error: SemanticError
    ) -> None:
        """Load again what left for a model that could not be loaded."""
        for one in gone:
            name = one.entry.source if is_path(one.entry.source) else one.model_id
            self._installed[ModelId(one.model_id)] = one
            there = await self._look(name)
            if there is None or there.fingerprint != one.fingerprint:
                # Blocks of the one that left must not be taken for those of what lies there now.
                raise ModelLoadError(
                    f"{error.message}; {one.model_id} is not loaded any more, and its files in {one.path} were "
                    "replaced since it was"
                ) from error
            await self._load(name)
        if old is not None and old.model_id in self._engine.models:
            self._current = old.model_id

    async def _leave(self, model: LoadedModel) -> None:
        """Let a model answer what it was asked, persist its blocks and free its memory."""
        self._tell(model.model_id, "draining", 0.0)
        self._leaving.add(model.model_id)
        if self._current == model.model_id:
            self._current = next((m for m in self._engine.models if m not in self._leaving), None)
        try:
            while not await self._removed(model):  # noqa: ASYNC110 (the engine's thread has no event loop)
                await asyncio.sleep(_DRAIN_POLL_S)
        finally:
            self._leaving.discard(model.model_id)
        self._loaded_at.pop(model.model_id, None)
        self._used_at.pop(model.model_id, None)
        self._tell(model.model_id, "unloaded", 1.0)

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
        return bool(self._leases[model.model_id]) or any(one.model is model for one in self._engine.running())

    async def expire(self, ttl_s: float | None) -> None:
        """Unload models that nobody asked for in their time, or in `ttl_s` seconds where their entry names none.

        The current model and pinned ones stay.
        """
        now = self._clock.monotonic()
        for model_id in list(self._engine.models):
            limit_s = self._installed[model_id].entry.ttl_s or ttl_s
            idle_s = now - self._used_at.get(model_id, now)
            if (
                limit_s is not None
                and idle_s >= limit_s
                and not self._leases[model_id]
                and self._may_go(model_id)
            ):
                await self.unload(model_id)

    def _may_go(self, model_id: ModelId) -> bool:
        return model_id != self._current and not self._installed[model_id].entry.pinned

    async def _find(self, model: str, *, replaces: bool = False) -> InstalledModel:
        """Return a model's files, fetched if they are not here; one that replaces another may be called like it."""
        source_name = self._source_name(model)
        found = await asyncio.to_thread(self._source.find, source_name)
        if found is None:
            entry = self._source.resolve(source_name)
            loaded = self._engine.models.get(ModelId(entry.name))
            if loaded is not None and not replaces and not self._is_source(loaded.model_id, entry.source):
                raise self._namesake(loaded, model, entry)
            self._refuse_what_never_fits(entry.footprint())
            await self.pull(model)
            found = await asyncio.to_thread(self._source.find, source_name)
        if found is None:
            raise ModelNotFoundError(f"model {model!r} was pulled but cannot be found", param="model")
        self._note(found)
        loaded = self._engine.models.get(ModelId(found.model_id))
        if loaded is None or loaded.fingerprint != found.fingerprint:
            self._refuse_what_never_fits(found.footprint())
        return found

    def _refuse_what_never_fits(self, model: ModelFootprint | None) -> None:
        """Raise `ModelTooLargeError` for a model that does not fit on this machine, even alone."""
        if model is not None and (reason := self._why_it_never_fits(model)) is not None:
            self._failed(model.name, reason)
            raise ModelTooLargeError(reason, param="model")

    def _why_it_never_fits(self, model: ModelFootprint) -> str | None:
        if self._device is None:
            return None
        known = [one for entry in self._source.entries() if (one := entry.footprint()) is not None]
        return refusal(self._device, model, known)

    async def _load(self, model: str) -> LoadedModel:
        installed = await self._find(model)
        existing = self._engine.models.get(ModelId(installed.model_id))
        if existing is not None and existing.content != installed.content:
            raise self._namesake(existing, model, installed.entry)
        if existing is not None:
            return existing
        self._tell(installed.model_id, "loading", 0.0)
        loop = asyncio.get_running_loop()

        def report(share: float) -> None:
            loop.call_soon_threadsafe(self._tell, installed.model_id, "loading", share)

        try:
            steps = self._loader.load(installed, on_progress=report)
            loaded = await asyncio.wrap_future(
                self._engine.load_model(steps, weights_bytes=installed.size_bytes)
            )
        except SemanticError as error:
            kind = BrokenModelError if isinstance(error, BrokenModelError) else ModelLoadError
            self._failed_to_load(installed, error.message, kind)
            if (short := one_sentence(error.message)) != error.message:
                raise kind(short) from error
            raise
        except Exception as error:
            self._failed_to_load(installed, str(error), ModelLoadError)
            raise ModelLoadError(
                f"cannot load model {installed.model_id} from {installed.path}: {one_sentence(str(error))}"
            ) from error
        if installed.ignored_advice:
            self._log.warning(
                "model_defaults_ignored",
                model=installed.model_id,
                file=f"{installed.path}/generation_config.json",
                reason=f"out of range: {', '.join(installed.ignored_advice)}",
            )
        self._refused.pop(installed.content, None)
        self._loaded_at[loaded.model_id] = self._clock.wall()
        self._used_at[loaded.model_id] = self._clock.monotonic()
        return loaded

    def _failed_to_load(self, model: InstalledModel, reason: str, kind: type[ModelLoadError]) -> None:
        # Files that were broken a moment ago are not read again for each client that names them.
        until = self._clock.monotonic() + _TRY_AGAIN_S
        self._refused[model.content] = _Refused(kind, one_sentence(reason), until)
        self._failed(model.model_id, reason)

    def _failed(self, model_id: str, reason: str) -> None:
        sentence = one_sentence(reason)
        self.last_error = sentence if model_id in sentence else f"{model_id}: {sentence}"
        self._tell(model_id, "failed", 0.0, reason=reason)
        self._log.error("model_load_failed", model=model_id, reason=reason)
        self.stage = "idle"

    def _settled(self, model_id: str) -> None:
        self._tell(model_id, "ready", 1.0)
        # What failed before is over once a model serves.
        self.stage, self.last_error = "idle", None

    def _tell(self, model_id: str, stage: str, progress: float, **more: object) -> None:
        self.stage, self.progress = stage, progress
        self._bus.publish("models", {"model": model_id, "stage": stage, "progress": progress, **more})

    # Last, because it shadows the built-in name for all that follows in the class body.

    async def list(self) -> list[ModelFacts]:
        """Return known models: loaded, installed, and those that can be pulled."""
        return await asyncio.to_thread(
            model_facts,
            self._source,
            fetched=self._installed,
            loaded=self._engine.models,
            loaded_at=self._loaded_at,
            current=self._current,
        )


def _whole_path(source: str) -> str:
    return str(Path(source).expanduser().absolute()) if is_path(source) else source
