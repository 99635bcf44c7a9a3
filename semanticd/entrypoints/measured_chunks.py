"""Gives a model that is loaded the chunk with which this machine reads prompts best, if a self-test has measured it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace

from semanticd.adapters.machine_record import MachineRecord
from semanticd.application.ports.inference import LoadedModel, ModelLoader
from semanticd.application.ports.models import InstalledModel
from semanticd.application.ports.telemetry import Log


class MeasuringLoader:
    """A loader of models that uses the machine's record of each."""

    def __init__(
        self, loader: ModelLoader, *, log: Log, record: Callable[[], MachineRecord] = MachineRecord
    ) -> None:
        """Load with `loader`; the record is read again for each model, because a self-test may have run since."""
        self._loader = loader
        self._log = log
        self._record = record

    def load(
        self, installed: InstalledModel, *, on_progress: Callable[[float], None]
    ) -> Generator[None, None, LoadedModel]:
        """Load a model; see `ModelLoader`."""
        loaded = yield from self._loader.load(installed, on_progress=on_progress)
        spec = loaded.runner.spec
        best = self._record().best_chunk(fingerprint=spec.fingerprint, computed_by=spec.compute_revision)
        if best is None:
            return loaded
        self._log.info("measured_chunk_used", model=loaded.model_id, num_tokens=best)
        return replace(loaded, best_chunk=best)

    def check(self, installed: InstalledModel) -> Generator[None, None, None]:
        """Read a model's files; see `ModelLoader`."""
        return self._loader.check(installed)
