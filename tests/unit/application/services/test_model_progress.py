"""What is reported about model changes, and which failures are not retried for each request."""

from __future__ import annotations

from dataclasses import replace

from semanticd.application.ports.models import InstalledModel, ModelEntry
from semanticd.application.ports.telemetry import Telemetry
from semanticd.application.services.model_progress import ModelProgress
from semanticd.domain.errors import BrokenModelError
from semanticd.domain.ids import ModelFingerprint
from tests.fakes.telemetry import ManualClock, RecordingBus, RecordingLog, RecordingMetrics

MODEL = InstalledModel(
    model_id="one",
    path="/models/one",
    fingerprint=ModelFingerprint("ab" * 32),
    context_length=8,
    size_bytes=1,
    entry=ModelEntry("one", "/models/one"),
)


class Rig:
    """Progress whose telemetry is recorded."""

    def __init__(self) -> None:
        self.clock, self.log, self.bus = ManualClock(), RecordingLog(), RecordingBus()
        self.progress = ModelProgress(Telemetry(self.clock, RecordingMetrics(), self.log, self.bus))


def test_a_failed_load_is_retried_after_a_minute() -> None:
    rig = Rig()
    progress = rig.progress
    assert progress.failure_of(MODEL) is None
    progress.failed_to_load(MODEL, "it is cut off", BrokenModelError)
    failure = progress.failure_of(MODEL)
    assert isinstance(failure, BrokenModelError)
    assert (failure.message, failure.param) == ("it is cut off", "model")
    assert progress.failure_of(replace(MODEL, settings_digest="cd" * 32)) is None, "its files were replaced"
    rig.clock.advance(60)
    assert progress.failure_of(MODEL) is None
    progress.failed_to_load(MODEL, "it is cut off", BrokenModelError)
    progress.loaded(MODEL)
    assert progress.failure_of(MODEL) is None


def test_a_failure_is_told_until_a_change_is_done() -> None:
    rig = Rig()
    progress = rig.progress
    progress.tell("one", "loading", 0.5)
    assert (progress.stage, progress.share) == ("loading", 0.5)
    progress.failed("one", "no room\nand more")
    assert (progress.stage, progress.last_error) == ("idle", "one: no room … (`semanticd logs` has the rest)")
    progress.settled("two")
    assert (progress.stage, progress.last_error) == ("idle", None)
    assert [(event["model"], event["stage"]) for event in rig.bus.on("models")] == [
        ("one", "loading"),
        ("one", "failed"),
        ("two", "ready"),
    ]


def test_a_model_that_requests_name_and_that_does_not_fit_is_logged_once() -> None:
    rig = Rig()
    for _ in range(3):
        rig.progress.too_large_for_request(MODEL, "it needs 9 GB")
    assert rig.log.events("warning") == ["model_on_demand_refused"]
