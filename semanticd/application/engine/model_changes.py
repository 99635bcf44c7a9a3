"""ModelChanges: models that come and go, as steps between the engine's other steps; engine thread only.

```
check    slice ─> slice ─> … ─> known to be whole                  (before anything leaves for it)
load     slice ─> slice ─> … ─> served                             (a failure at any slice: nothing has changed)
removal  no sequence runs ─> blocks written, or time is up ─> gone (the last step cannot fail)
```
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.memory_guard import MemoryGuard
from semanticd.application.engine.running_sequence import Running
from semanticd.application.ports.inference import LoadedModel
from semanticd.application.ports.telemetry import Clock, Log
from semanticd.domain.errors import ConflictError, DrainingError, ModelNotFoundError
from semanticd.domain.ids import BlockHash, ModelId

LEAVING_WRITES_S = 30.0
"""Seconds that unloading a model waits for its blocks' writes, in total: a swap must not wait minutes for a slow disk.
Blocks that are not written by then are lost and computed again."""

LoadSteps = Generator[None, None, LoadedModel]
"""See `ModelLoader.load`."""

CheckSteps = Generator[None, None, None]
"""See `ModelLoader.check`."""


@dataclass(slots=True)
class _Load:
    steps: LoadSteps
    loaded: Future[LoadedModel]


@dataclass(slots=True)
class _Check:
    steps: CheckSteps
    checked: Future[None]


@dataclass(slots=True)
class _Removal:
    model: LoadedModel
    removed: list[Future[None]]
    """A future for each caller that asked for it."""
    began_at: float
    unwritten: list[BlockHash]
    """Blocks that the disk has not taken, those that it takes first at the end."""


class ModelChanges:
    """Loads and removes the models that the engine serves."""

    def __init__(
        self,
        *,
        models: dict[ModelId, LoadedModel],
        running: Running,
        store: AgentCacheStore,
        guard: MemoryGuard,
        clock: Clock,
        log: Log,
    ) -> None:
        """Change `models` in place; a model with `running` sequences stays. `guard` is notified of loaded models."""
        self._models = models
        self._running = running
        self._store = store
        self._guard = guard
        self._clock = clock
        self._log = log
        self._loads: list[_Load] = []
        self._checks: list[_Check] = []
        self._removals: list[_Removal] = []

    @property
    def is_loading(self) -> bool:
        """Whether a model is being loaded or its files are being inspected."""
        return bool(self._loads or self._checks)

    @property
    def is_removing(self) -> bool:
        """Whether a model is being removed."""
        return bool(self._removals)

    def is_leaving(self, model: LoadedModel) -> bool:
        """Return whether this model is being removed."""
        return any(removal.model is model for removal in self._removals)

    def begin_load(self, steps: LoadSteps, loaded: Future[LoadedModel], *, weights_bytes: int = 0) -> None:
        """Load a model, whose weights take about this number of bytes; the future gets it once it is served."""
        self._guard.expect(weights_bytes)
        self._loads.append(_Load(steps, loaded))

    def begin_check(self, steps: CheckSteps, checked: Future[None]) -> None:
        """Inspect a model's files; the future gets the result if they are complete, else their error."""
        self._checks.append(_Check(steps, checked))

    def begin_removal(self, model_id: ModelId, removed: Future[None]) -> None:
        """Stop serving a model; the future gets a result when its memory is free.

        It gets a `ConflictError` while the model has running sequences, which stay what they were.
        """
        model = self._models.get(model_id)
        leaving = next((removal for removal in self._removals if removal.model is model), None)
        if leaving is not None:
            leaving.removed.append(removed)
        elif model is None:
            removed.set_exception(ModelNotFoundError(f"model {model_id!r} is not loaded", param="model"))
        elif any(one.model is model for one in self._running.values()):
            removed.set_exception(
                ConflictError(f"model {model_id} is still answering requests; drain it first")
            )
        else:
            unwritten = self._store.write_first(model.fingerprint)[::-1]
            self._removals.append(_Removal(model, [removed], self._clock.monotonic(), unwritten))

    def step(self) -> None:
        """Take every change one step further."""
        for check in list(self._checks):
            self._step_check(check)
        for load in list(self._loads):
            self._step_load(load)
        for removal in list(self._removals):
            self._step_removal(removal)

    def close(self) -> None:
        """Give up every change, because the engine ends."""
        stopped = DrainingError("the engine has stopped", retry_after_s=5.0)
        loads, self._loads = self._loads, []
        checks, self._checks = self._checks, []
        removals, self._removals = self._removals, []
        for loading in loads:
            loading.loaded.set_exception(stopped)
        for future in [check.checked for check in checks] + [f for one in removals for f in one.removed]:
            future.set_exception(stopped)
        for steps in [load.steps for load in loads] + [check.steps for check in checks]:
            try:
                steps.close()
            except Exception as error:
                self._log.error("load_not_closed", error=repr(error))

    def _step_check(self, check: _Check) -> None:
        try:
            next(check.steps)
        except StopIteration:
            self._checks.remove(check)
            check.checked.set_result(None)
        except Exception as error:
            self._checks.remove(check)
            check.checked.set_exception(error)

    def _step_load(self, load: _Load) -> None:
        try:
            next(load.steps)
        except StopIteration as finished:
            self._loads.remove(load)
            model: LoadedModel = finished.value
            self._store.register_model(model.runner)
            self._models[model.model_id] = model
            self._guard.models_changed()
            load.loaded.set_result(model)
        except Exception as error:
            self._loads.remove(load)
            self._guard.models_changed()
            load.loaded.set_exception(error)

    def _step_removal(self, removal: _Removal) -> None:
        model = removal.model
        if not self._is_written(removal):
            if self._clock.monotonic() - removal.began_at < LEAVING_WRITES_S:
                return
            num_blocks = len(removal.unwritten)
            self._log.warning("model_left_unwritten", model=model.model_id, num_blocks=num_blocks)
        self._removals.remove(removal)
        del self._models[model.model_id]
        self._store.forget_model(model.runner)
        try:
            model.runner.release()
        except Exception as error:
            self._log.error("model_not_released", model=model.model_id, error=repr(error))
        self._guard.model_left()
        for future in removal.removed:
            future.set_result(None)

    def _is_written(self, removal: _Removal) -> bool:
        """Return whether all blocks of the leaving model are on disk; submits the others for writing."""
        fingerprint = removal.model.fingerprint
        if any(o is not removal.model and o.fingerprint == fingerprint for o in self._models.values()):
            return True
        self._store.persist()
        while removal.unwritten and not self._store.is_unwritten(removal.unwritten[-1]):
            removal.unwritten.pop()
        if not removal.unwritten:
            # An import may have brought more since.
            removal.unwritten = self._store.write_first(fingerprint)[::-1]
        return not removal.unwritten
