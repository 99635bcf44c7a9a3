"""ModelUse: which loaded model is the current one, which requests are on their way to one, and which is leaving.

A model that is held stays; one that is leaving is given to no further request. While a model must leave before the
next one is there, new requests wait (their clients get pings).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from semanticd.application.ports.telemetry import Clock
from semanticd.domain.ids import ModelId


class ModelUse:
    """The uses of the loaded models; asyncio thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._holders: Counter[ModelId] = Counter()
        self._leaving: set[ModelId] = set()
        self._loaded_at: dict[ModelId, float] = {}
        self._used_at: dict[ModelId, float] = {}
        self._open = asyncio.Event()
        self._open.set()
        self.current: ModelId | None = None
        """The model that answers requests for the default."""

    async def wait_until_open(self) -> None:
        """Wait while requests are held back."""
        await self._open.wait()

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Hold new requests back."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    @property
    def is_closed(self) -> bool:
        """Whether new requests must wait."""
        return not self._open.is_set()

    @contextlib.contextmanager
    def held(self, model_id: ModelId) -> Iterator[None]:
        """Keep a model for a request that is not submitted yet."""
        self._holders[model_id] += 1
        self._used_at[model_id] = self._clock.monotonic()
        try:
            yield
        finally:
            self._holders[model_id] -= 1

    def is_held(self, model_id: ModelId) -> bool:
        """Return whether a request is on its way to this model."""
        return bool(self._holders[model_id])

    @contextlib.contextmanager
    def leaving(self, model_id: ModelId, *, loaded: Collection[ModelId]) -> Iterator[None]:
        """Give a model to no further request; if it is the current one, another of the loaded ones becomes it."""
        self._leaving.add(model_id)
        if self.current == model_id:
            self.current = next((other for other in loaded if other not in self._leaving), None)
        try:
            yield
        finally:
            self._leaving.discard(model_id)

    def is_leaving(self, model_id: ModelId) -> bool:
        """Return whether this model accepts no further requests."""
        return model_id in self._leaving

    def note_loaded(self, model_id: ModelId) -> None:
        self._loaded_at[model_id] = self._clock.wall()
        self._used_at[model_id] = self._clock.monotonic()

    def forget(self, model_id: ModelId) -> None:
        """Forget the times of a model that left."""
        self._loaded_at.pop(model_id, None)
        self._used_at.pop(model_id, None)

    @property
    def loaded_at(self) -> Mapping[ModelId, float]:
        """Time at which each loaded model was loaded, in seconds since the epoch."""
        return self._loaded_at

    def idle_s(self, model_id: ModelId) -> float:
        """Return how long no request has named a loaded model (seconds)."""
        now = self._clock.monotonic()
        return now - self._used_at.get(model_id, now)
