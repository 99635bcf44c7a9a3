"""The models' service over names in memory, for both edges: real code, no engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from semanticd.adapters.control.event_hub import EventHub
from semanticd.application.ports.models import PullProgress
from semanticd.application.services.model_facts import (
    ModelFacts,
    ModelInUse,
    PulledModel,
    RemovedModel,
    SwappedModel,
    UnloadedModel,
)
from semanticd.domain.errors import ModelNotFoundError
from semanticd.domain.ids import ModelFingerprint, ModelId


class FakeModels:
    """Known models, the first one current; a swap reports its progress to the hub and waits for `gate`."""

    def __init__(
        self,
        *names: str,
        hub: EventHub | None = None,
        aliases: tuple[str, ...] = (),
        profiles: tuple[str, ...] = (),
    ) -> None:
        """Begin with these models installed; `aliases` and `profiles` are the first one's."""
        self._names = names
        self._hub = hub
        self._aliases = aliases
        self._profiles = profiles
        self.current_id: str | None = names[0]
        self.gate = asyncio.Event()
        self.gate.set()

    def _facts(self, name: str) -> ModelFacts:
        is_first, in_use = name == self._names[0], name == self.current_id
        return ModelFacts(
            name,
            created=1_750_000_000,
            loaded=in_use,
            installed=True,
            current=in_use,
            context_length=8192,
            fingerprint=ModelFingerprint(f"f-{name}"),
            aliases=self._aliases if is_first else (),
            profiles=self._profiles if is_first else (),
        )

    def _known(self, model: str) -> ModelId:
        if model not in self._names:
            raise ModelNotFoundError(f"there is no model {model!r}", param="model")
        return ModelId(model)

    def _tell(self, model: str, stage: str, progress: float) -> None:
        if self._hub is not None:
            self._hub.publish("models", {"model": model, "stage": stage, "progress": progress})

    async def info(self, model: str) -> ModelFacts:
        """Return one."""
        return self._facts(self._known(model))

    async def current(self) -> ModelFacts | None:
        """Return the one in use."""
        return None if self.current_id is None else self._facts(self.current_id)

    async def pull(
        self, model: str, on_progress: Callable[[PullProgress], None] | None = None
    ) -> PulledModel:
        """Report two steps."""
        self._known(model)
        for progress in (0.5, 1.0):
            self._tell(model, "downloading", progress)
            if on_progress is not None:
                on_progress(PullProgress("downloading", int(1000 * progress), 1000))
        return PulledModel(model, f"/models/{model}", 1000)

    async def remove(self, model: str) -> RemovedModel:
        """Say that it was."""
        return RemovedModel(self._known(model), removed=True, freed_bytes=1000, path=f"/models/{model}")

    async def load(self, model: str) -> ModelInUse:
        """Make it current where none is."""
        self.current_id = self.current_id or self._known(model)
        return ModelInUse(self._known(model), loaded=True, current=self.current_id == model)

    async def unload(self, model: str) -> UnloadedModel:
        """Leave none in use, if it was this one."""
        self.current_id = None if self.current_id == model else self.current_id
        return UnloadedModel(self._known(model), loaded=False)

    async def swap(self, model: str) -> SwappedModel:
        """Change the current model once the gate is open."""
        self._known(model)
        self._tell(model, "loading", 0.0)
        await self.gate.wait()
        previous, self.current_id = self.current_id, model
        self._tell(model, "ready", 1.0)
        return SwappedModel(ModelId(model), current=True, previous=ModelId(previous) if previous else None)

    async def list(self) -> list[ModelFacts]:
        """Return all."""
        return [self._facts(name) for name in self._names]
