"""What is kept of the last requests, seconds and lines is few objects: others that came meanwhile can be given back."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from semanticd.adapters.logs import LogOptions, Logs
from semanticd.application.services.arrivals import Arrivals
from semanticd.application.services.history import SECONDS_KEPT
from semanticd.application.services.outcomes import MAX_FAILURES_KEPT, Outcomes
from semanticd.application.services.waits import MAX_REQUESTS_KEPT, Wait, Waits
from semanticd.domain.chat import TextPrompt
from semanticd.domain.generation import GenerationRequest
from semanticd.domain.ids import AgentId, RequestId
from tests.fakes.service_rig import ServiceRig
from tests.fakes.telemetry import ManualClock

FEW_OBJECTS = 500


def num_objects() -> int:
    """Return the number of small objects, containers' garbage left out."""
    gc.collect()
    return sys.getallocatedblocks()


def test_the_last_lines_of_the_log_are_few_objects(tmp_path: Path) -> None:
    logs = Logs(LogOptions(folder=tmp_path, console=False))
    try:
        before = num_objects()
        for number in range(3000):
            logs.get().info("request_finished", request=f"req-{number}", seconds=number / 7, caller="a")
        assert num_objects() - before < FEW_OBJECTS
        lines = logs.recent()
    finally:
        logs.close()
    assert [line["fields"]["request"] for line in lines] == [f"req-{number}" for number in range(1000, 3000)]
    assert (lines[-1]["event"], lines[-1]["fields"]["seconds"]) == ("request_finished", 2999 / 7)


def test_the_last_refusals_are_few_objects_and_all_of_a_minute_are_counted() -> None:
    clock = ManualClock()
    outcomes = Outcomes(clock=clock)
    before = num_objects()
    for number in range(30_000):
        if number % 500 == 0:
            clock.advance(1)
        outcomes.not_answered(
            "rate_limited", f"no {number}", kind="refused", request_id=f"r{number}", agent_id="a", status=429
        )
    assert num_objects() - before < FEW_OBJECTS
    assert outcomes.facts().num_refused_last_minute == 30_000
    clock.advance(59)
    assert outcomes.facts().num_refused_last_minute == 500
    clock.advance(1)
    assert outcomes.facts().num_refused_last_minute == 0
    assert [one.message for one in outcomes.recent()] == [
        f"no {number}" for number in range(29_999, 29_999 - MAX_FAILURES_KEPT, -1)
    ]
    assert outcomes.facts().last == outcomes.recent()[0]


async def test_the_last_samples_are_few_objects() -> None:
    async with ServiceRig() as rig:
        rig.history.sample()
        before = num_objects()
        for _ in range(SECONDS_KEPT + 95):
            rig.clock.advance(1)
            rig.history.sample()
        assert num_objects() - before < FEW_OBJECTS
        facts = rig.history.facts()
        assert (facts.first, facts.last) == (96, SECONDS_KEPT + 95)
        assert {len(values) for values in facts.series.values()} == {SECONDS_KEPT}
        assert len(rig.history.facts(after=facts.last - 3).series["queue"]) == 3
        assert rig.history.facts(after=facts.last).series["queue"] == ()


@pytest.mark.parametrize("request_id", ["r-%d", 'a "quoted"\n one %d', "\ud83d %d"])
async def test_the_waits_of_ended_requests_are_few_objects(request_id: str) -> None:
    async with ServiceRig() as rig:
        arrivals = Arrivals(clock=rig.clock, progress=rig.progress)
        waits = Waits(rig.engine_rig.scheduler, arrivals)
        before = num_objects()
        num_requests = 2 * MAX_REQUESTS_KEPT
        for number in range(num_requests):
            request = GenerationRequest(
                RequestId(request_id % number), "m", TextPrompt("hi"), agent_id=AgentId("a")
            )
            with arrivals.of([request]) as (arrival,):
                rig.clock.advance(1)
                assert waits.look([], rig.clock.monotonic()) == {request_id % number: Wait("model")}
                arrival.end()
        del request, arrival
        waits.look([], rig.clock.monotonic())
        assert num_objects() - before < FEW_OBJECTS
        known = [waits.longest(request_id % number) for number in range(num_requests)]
    assert known[: MAX_REQUESTS_KEPT - 64] == [None] * (MAX_REQUESTS_KEPT - 64)
    assert known[MAX_REQUESTS_KEPT:] == [Wait("model")] * MAX_REQUESTS_KEPT
