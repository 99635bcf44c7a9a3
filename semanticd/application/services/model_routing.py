"""ModelRouting: the model that answers a request, by the name that the request gives."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.ports.inference import LoadedModel
from semanticd.application.ports.models import ModelSource
from semanticd.application.services.model_names import ModelNames
from semanticd.application.services.model_progress import ModelProgress
from semanticd.application.services.model_use import ModelUse
from semanticd.application.services.models import ModelsService
from semanticd.domain.errors import NO_MODEL_LOADED, ModelNotFoundError, OverloadedError
from semanticd.domain.model_name import did_you_mean


class ModelRouting:
    """Gives requests their models; asyncio thread."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        models: ModelsService,
        source: ModelSource,
        names: ModelNames,
        use: ModelUse,
        progress: ModelProgress,
        load_on_demand: bool = False,
    ) -> None:
        """With `load_on_demand`, `models` loads an installed model that a request names."""
        self.why_away: Callable[[], str | None] = lambda: None
        """Says why the model that is to be served is not there, where it comes by itself."""
        self._engine = engine
        self._models = models
        self._source = source
        self._names = names
        self._use = use
        self._progress = progress
        self._load_on_demand = load_on_demand

    @contextlib.asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[LoadedModel]:
        """Hold the loaded model that answers to a name (`""`: the current one) until its work is submitted.

        A model that is leased stays; one that is about to leave is not leased any more.

        Raises:
            ModelNotFoundError: Nothing loaded answers to it.
            OverloadedError: The first model is still loading, or comes back by itself.
        """
        model = await self._route(name)
        with self._use.held(model.model_id):
            yield model

    async def _route(self, name: str) -> LoadedModel:
        await self._use.wait_until_open()
        profile = self._source.profile(name)
        model = self._names.loaded(name)
        if model is None and self._load_on_demand and self.why_away() is None:
            await self._models.load_for_request(name)
            model = self._names.loaded(name)
        if model is None:
            raise self._not_loaded(name)
        if profile is None:
            return model
        return replace(model, defaults=profile.defaults.or_else(model.defaults))

    def _not_loaded(self, name: str) -> ModelNotFoundError | OverloadedError:
        # One that is leaving answers no further request, whatever it still answers.
        there = sorted(self._names.serving())
        if not there and self._models.is_changing and (coming := self._progress.coming) is not None:
            return OverloadedError(coming, retry_after_s=2.0)
        if not there and (away := self.why_away()) is not None:
            return OverloadedError(f"{away}; try again soon", retry_after_s=5.0)
        if not there:
            return ModelNotFoundError(NO_MODEL_LOADED, param="model")
        return ModelNotFoundError(
            f"model {name[:80]!r} is not loaded{self._nearest(name)}; loaded: {', '.join(there)}. Ask for `default`, "
            f"which is {self._use.current or there[0]}, or load another with `semanticd models load NAME`",
            param="model",
        )

    def _nearest(self, name: str) -> str:
        """Return what a name may stand for that was mistyped, first among those that would be answered."""
        loaded = self._names.serving()
        entries = self._source.entries()
        names = [(one.name, (*one.aliases, *self._source.profiles_of(one.name))) for one in entries]
        answered = [other for known, others in names if known in loaded for other in others]
        others = [one for known, others in names if known not in loaded for one in (known, *others)]
        return did_you_mean(name, [*loaded, *answered], others)
