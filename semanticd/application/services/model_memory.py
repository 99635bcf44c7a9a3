"""ModelMemory: the memory available for another model, and which models never fit."""

from __future__ import annotations

from collections.abc import Callable

from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.ports.models import ModelSource
from semanticd.domain.memory_plan import DeviceMemory, ModelFootprint, refusal


class ModelMemory:
    """The memory that is left for models."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        source: ModelSource,
        free_bytes: Callable[[], int],
        device: DeviceMemory | None = None,
    ) -> None:
        """`free_bytes` says how many bytes are free now; `device` what all models may take (None: no limit)."""
        self._engine = engine
        self._source = source
        self._free_bytes = free_bytes
        self.device = device
        """Memory limit of all models; None: no limit."""

    def beside_bytes(self) -> int:
        """Return what another model may take without another leaving; cached blocks would make room for it."""
        free_bytes = int(self._free_bytes())
        if self.device is None:
            return free_bytes
        loaded = sum(model.weights_bytes for model in self._engine.models.values())
        planned = self.device.room_bytes - loaded
        return min(planned, free_bytes + self._engine.cached_bytes)

    def why_it_never_fits(self, model: ModelFootprint) -> str | None:
        """Return why a model does not fit on this machine, even alone; None: it does."""
        if self.device is None:
            return None
        known = [one for entry in self._source.entries() if (one := entry.footprint()) is not None]
        return refusal(self.device, model, known)
