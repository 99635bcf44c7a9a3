"""Models on disk, for `semanticd models` while no daemon runs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from semanticd.adapters.config import Settings, load_settings
from semanticd.adapters.models.registry import ModelRegistry
from semanticd.application.ports.models import PullProgress
from semanticd.application.services.model_facts import (
    ModelFacts,
    PulledModel,
    RemovedModel,
    installed_facts,
    known_facts,
    removed_facts,
)
from semanticd.domain.memory_plan import DeviceKind, DeviceMemory, default_model, device_memory
from semanticd.domain.model_name import DEFAULT_NAME


def convert_gguf(gguf: Path, folder: Path, *, bits: int | None, on_progress: Callable[[float], None]) -> None:
    """Convert a GGUF file; MLX is imported only for this."""
    from semanticd.adapters.mlx.platform.descriptors import import_mlx_lm

    import_mlx_lm()
    from semanticd.adapters.mlx.model.gguf.convert import convert

    convert(gguf, folder, bits=bits, on_progress=on_progress)


class OfflineModels:
    """Operations on models' files without a daemon; rows look like the daemon's."""

    def __init__(
        self, registry: ModelRegistry, device: DeviceMemory, *, configured: str | None = None
    ) -> None:
        """Look at this registry; models are to be held on this device.

        `configured` is the model that a daemon is set to serve; None: the one that suits the device.
        """
        self._registry, self._device, self._configured = registry, device, configured

    def info(self, model: str) -> ModelFacts:
        """Return one model's facts.

        Raises:
            ModelNotFoundError: There is no such model.
        """
        model = self._meant(model)
        entry, found = self._registry.resolve(model), self._registry.find(model)
        return (
            known_facts(entry) if found is None else installed_facts(known_facts(entry), found, self._device)
        )

    def pull(self, model: str, show: Callable[[str, float, int], None]) -> PulledModel:
        """Fetch a model's files; `show` hears (stage, share of the bytes, all bytes)."""

        def report(progress: PullProgress) -> None:
            share = progress.done_bytes / progress.total_bytes if progress.total_bytes else 0.0
            show(progress.stage, share, progress.total_bytes)

        installed = self._registry.pull(self._meant(model), report)
        return PulledModel(installed.model_id, installed.path, installed.size_bytes)

    def _meant(self, name: str) -> str:
        """Return the name; for `default`, unless a model has it, the name of the model that a daemon would serve."""
        if name != DEFAULT_NAME or self._registry.known_name(name) is not None:
            return name
        known = [one for entry in self._registry.entries() if (one := entry.footprint()) is not None]
        return self._configured or default_model(self._device, known)

    def remove(self, model: str) -> RemovedModel:
        """Delete a model's files."""
        entry, found = self._registry.resolve(model), self._registry.find(model)
        return removed_facts(entry, found, freed_bytes=self._registry.remove(model))

    def list(self) -> list[ModelFacts]:
        """Return installed models, then those that can be pulled."""
        installed = {model.model_id for model in self._registry.installed()}
        names = [*sorted(installed), *(e.name for e in self._registry.entries() if e.name not in installed)]
        return [self.info(name) for name in names]


def open_models(settings: Settings | None = None) -> OfflineModels:
    """Return the models of these settings (None: this user's)."""
    settings = settings or load_settings().settings
    return OfflineModels(
        ModelRegistry(
            settings.paths.models_dir,
            convert_gguf=convert_gguf,
            user_models=settings.models,
            user_profiles=settings.profiles,
            gguf_bits=settings.mlx.gguf_bits,
        ),
        _device(settings),
        configured=settings.mlx.model_id,
    )


def _device(settings: Settings) -> DeviceMemory:
    """Return what computes here as far as that is seen without MLX, whose import takes a second."""
    kind: DeviceKind = "metal" if sys.platform == "darwin" else "cpu"
    if any(name.startswith("mlx-cuda") for name in _distributions()):
        kind = "cuda"
    limit = None if settings.mlx.memory_mb == "auto" else settings.mlx.memory_mb << 20
    return device_memory(kind, psutil.virtual_memory().total, limit_bytes=limit)


def _distributions() -> Iterator[str]:
    for name in ("mlx-cuda", "mlx-cuda-12", "mlx-cuda-13"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(name)
            yield name
