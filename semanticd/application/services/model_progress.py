"""ModelProgress: the progress of model changes, the last failure, and the models that are not retried for a while.

All of it is published on the topic `models`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from semanticd.application.ports.models import InstalledModel
from semanticd.application.ports.telemetry import Telemetry
from semanticd.application.services.model_facts import one_sentence
from semanticd.domain.errors import ModelLoadError
from semanticd.domain.ids import ModelFingerprint

_TRY_AGAIN_S = 60.0
"""Seconds after a failed load before a request that names the model triggers another attempt."""

FETCH_FAILURE_SHOWN_S = 600.0
"""Seconds for which a failed download is shown as the last error: no model that serves, or was to, depends on it."""
_LEAVING = ("draining", "unloaded")
_LOADING = ("checking", "loading")


@dataclass(frozen=True, slots=True)
class _Failure:
    """Reason not to load a model for a request, and the clock time until which it applies."""

    kind: type[ModelLoadError]
    reason: str
    until: float


class ModelProgress:
    """The reported progress of changes; asyncio thread."""

    def __init__(self, telemetry: Telemetry) -> None:
        """Publish on this bus, and log and count here."""
        self._clock = telemetry.clock
        self._bus = telemetry.bus
        self._log = telemetry.log
        self._metrics = telemetry.metrics
        self._failures: dict[tuple[ModelFingerprint, str], _Failure] = {}
        self._told_too_large: set[ModelFingerprint] = set()
        self._last_error: str | None = None
        self._error_until = math.inf
        self.stage = "idle"
        self._loading: str | None = None
        self.share = 0.0
        """Completed share of the stage, 0 to 1."""

    @property
    def last_error(self) -> str | None:
        """Reason of the last change's failure, in one sentence; None after a successful one; see `failed`."""
        return self._last_error if self._clock.monotonic() < self._error_until else None

    def tell(self, model_id: str, stage: str, share: float, **more: object) -> None:
        """Publish how far a model's stage is."""
        self.stage, self.share = stage, share
        if stage in _LOADING:
            self._loading = model_id
        elif model_id == self._loading:
            self._loading = None
        at = self._clock.wall()
        self._bus.publish("models", {"model": model_id, "stage": stage, "progress": share, "at": at, **more})

    @property
    def coming(self) -> str | None:
        """The message, while no model serves, about one that is loading; None where the last one is leaving."""
        if self.stage in _LEAVING:
            return None
        return f"the model is still {'loading' if self.stage == 'idle' else self.stage} ({self.share:.0%})"

    @property
    def is_loading(self) -> bool:
        """Whether the engine's thread is reading a model's files in slices; another model may be downloading."""
        return self._loading is not None

    def rest(self) -> None:
        """Note that no change is in progress."""
        self.stage = "idle"

    def pulled(self, model: str) -> None:
        """Report that a model's files are here."""
        self.tell(model, "pulled", 1.0)
        self.stage, self._last_error = "idle", None

    def settled(self, model_id: str) -> None:
        """Report that a change is done."""
        self.tell(model_id, "ready", 1.0)
        # Earlier failures no longer count once a model serves.
        self.stage, self._last_error = "idle", None

    def swapped(self, outcome: str) -> None:
        """Count a swap that was done or failed."""
        self._metrics.count("model_swaps_total", outcome=outcome)

    def failed(self, model_id: str, reason: str, *, lasts: bool = True) -> None:
        """Report a failed change; one that `lasts` is the last error until a change is done, others for a while."""
        sentence = one_sentence(reason)
        self._last_error = sentence if model_id in sentence else f"{model_id}: {sentence}"
        self._error_until = math.inf if lasts else self._clock.monotonic() + FETCH_FAILURE_SHOWN_S
        self.tell(model_id, "failed", 0.0, reason=reason)
        self._log.error("model_load_failed", model=model_id, reason=reason)
        self.stage = "idle"

    def failed_to_load(self, model: InstalledModel, reason: str, kind: type[ModelLoadError]) -> None:
        """Report that a model could not be loaded; broken files are not read again for each client's request."""
        until = self._clock.monotonic() + _TRY_AGAIN_S
        self._failures[model.content] = _Failure(kind, one_sentence(reason), until)
        self.failed(model.model_id, reason)

    def loaded(self, model: InstalledModel) -> None:
        """Log what advice of a model's files is not taken, and forget that it could not be loaded."""
        if model.ignored_advice:
            self._log.warning(
                "model_defaults_ignored",
                model=model.model_id,
                file=f"{model.path}/generation_config.json",
                reason=f"out of range: {', '.join(model.ignored_advice)}",
            )
        self._failures.pop(model.content, None)

    def too_large_for_request(self, model: InstalledModel, reason: str) -> None:
        """Log, once for each model, that one that a request named does not fit."""
        if model.fingerprint not in self._told_too_large:
            self._told_too_large.add(model.fingerprint)
            self._log.warning("model_on_demand_refused", model=model.model_id, reason=reason)

    def failure_of(self, model: InstalledModel) -> ModelLoadError | None:
        """Return why a model is not tried again for a request; None: it may be."""
        failure = self._failures.get(model.content)
        if failure is None or self._clock.monotonic() >= failure.until:
            return None
        return failure.kind(failure.reason, param="model")
