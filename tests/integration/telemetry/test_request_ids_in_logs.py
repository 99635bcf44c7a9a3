"""Every log line of a request carries its id: at the HTTP edge, in the use case and on the engine's thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.logs import LOG_FILE, LogOptions, Logs
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon


@pytest.fixture(params=["json", "console"])
def form(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def logs(tmp_path: Path, form: str) -> Iterator[Logs]:
    opened = Logs(LogOptions(format=form, folder=tmp_path / "logs", console=False))
    yield opened
    opened.close()


async def answer_and_fail(daemon: WholeDaemon) -> None:
    """Answer one request, and let another one's decoding break, while a third comes to an unknown route."""
    assert (await daemon.chat("hi", agent="a", headers={"x-request-id": "req-good"})).status == 200
    runner: Any = next(iter(daemon.parts.engine.models.values())).runner
    decode = runner.decode

    def broken() -> Any:
        raise RuntimeError("the GPU is gone")

    runner.decode = broken
    assert (await daemon.chat("hi", agent="b", headers={"x-request-id": "req-bad"})).status == 500
    runner.decode = decode
    assert (await daemon.client.get("/nothing", headers={"x-request-id": "req-lost"})).status == 404


async def test_lines_of_a_request_carry_its_id_in_either_form(tmp_path: Path, logs: Logs, form: str) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    async with WholeDaemon(tmp_path, model=model, log=logs.get()) as daemon:
        await answer_and_fail(daemon)
    logs.close()
    lines = (tmp_path / "logs" / LOG_FILE).read_text(encoding="utf-8").splitlines()
    events: dict[str, set[str]] = {}
    for request_id in ("req-good", "req-bad", "req-lost"):
        of_it = [line for line in lines if request_id in line]
        events[request_id] = {event(line, form) for line in of_it}
        if form == "json":
            assert all(json.loads(line)["request_id"] == request_id for line in of_it)
    assert {"http_request", "prompt_cache"} <= events["req-good"]
    assert {"http_request", "sequence_failed"} <= events["req-bad"]
    assert events["req-lost"] == {"http_request"}
    about_requests = {"http_request", "prompt_cache", "sequence_failed", "http_request_failed"}
    for line in lines:
        if event(line, form) in about_requests:
            assert "req-" in line, f"a request's line without its id: {line}"


def event(line: str, form: str) -> str:
    """Return a line's constant message."""
    if form == "json":
        found: str = json.loads(line)["event"]
        return found
    # 2026-01-01T00:00:00Z [info     ] the_event     [logger] name=value …
    return line.split("]", 1)[1].split()[0]


async def test_what_other_libraries_log_below_a_request_carries_its_id_too(
    tmp_path: Path, logs: Logs
) -> None:
    import logging

    from semanticd.adapters.logs import log_context

    with log_context(request_id="req-deep"):
        await asyncio.to_thread(logging.getLogger("somebody.else").warning, "odd: %s", "thing")
    logging.getLogger("somebody.else").warning("outside")
    below, outside = (line for line in logs.recent() if line["logger"] == "somebody.else")
    assert below["fields"].get("request_id") == "req-deep", below
    assert "request_id" not in outside["fields"]
