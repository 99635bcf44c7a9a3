"""Traces of a real engine on a tiny model, as a collector would get them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.config import Settings
from semanticd.adapters.telemetry import SystemClock
from semanticd.adapters.tracing import OtelTracer, open_tracer
from semanticd.domain.errors import ConfigurationError
from tests.fakes.asgi_client import Answer, until
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon

export = pytest.importorskip("opentelemetry.sdk.trace.export", reason="the extra `otel` is not installed")
in_memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
TRACE_PARENT = f"00-{TRACE}-{CALLER}-01"
WORDS = "the cache keeps what agents said " * 12


class Collector:
    """Keeps what was exported."""

    def __init__(self) -> None:
        self.exporter = in_memory.InMemorySpanExporter()
        self.tracer = OtelTracer(export.SimpleSpanProcessor(self.exporter), version="0")

    def spans(self) -> list[Any]:
        return list(self.exporter.get_finished_spans())

    def names(self) -> list[str]:
        return sorted(span.name for span in self.spans())

    def one(self, name: str) -> Any:
        found = [span for span in self.spans() if span.name == name]
        assert len(found) == 1, self.names()
        return found[0]

    def forget(self) -> None:
        self.exporter.clear()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.tracer.close()


def small(home: Path, *, model: Path, collector: Collector | None) -> WholeDaemon:
    defaults = Settings()
    settings = replace(defaults, mlx=replace(defaults.mlx, cache_budget_mb=64, block_tokens=64))
    return WholeDaemon(home, model=model, settings=settings, tracer=collector and collector.tracer)


@pytest.mark.parametrize("is_interrupted", [False, True])
async def test_a_warm_request_is_traced_from_its_first_byte_to_the_disk(
    tmp_path: Path,
    model: Path,
    collector: Collector,
    is_interrupted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_interrupted:
        monkeypatch.setattr(SystemClock, "wall", interrupted(SystemClock.wall))
    async with small(tmp_path, model=model, collector=collector) as daemon:
        await daemon.chat(WORDS, agent="a")
        await daemon.written()
        await daemon.client.post("/v1/agents/a/evict", {})
        await until(lambda: "persist" in collector.names())
        assert "restore" not in collector.names(), "a cold request restores nothing"
        collector.forget()

        headers = {"traceparent": TRACE_PARENT, "x-request-id": "asked-by-me"}
        answer = await daemon.chat(WORDS + "and more", agent="a", headers=headers)
        await daemon.written()
        await until(lambda: "persist" in collector.names())
        check_one_trace(collector, answer)


def interrupted(wall: Callable[[SystemClock], float]) -> Callable[[SystemClock], float]:
    """Return a `wall` behind whose reading another thread gets its turn, as on a busy machine."""

    def read(clock: SystemClock) -> float:
        date = wall(clock)
        time.sleep(0.02)
        return date

    return read


def check_one_trace(collector: Collector, answer: Answer) -> None:
    names = ["decode", "persist", "prefill", "queue", "request", "restore"]
    assert collector.names() == names
    request = collector.one("request")
    assert f"{request.parent.span_id:016x}" == CALLER
    assert request.attributes["http.route"] == "/v1/chat/completions"
    assert request.attributes["http.response.status_code"] == 200
    for span in collector.spans():
        assert f"{span.context.trace_id:032x}" == TRACE
        assert span.attributes["semanticd.request_id"] == "asked-by-me"
        assert span.resource.attributes["service.name"] == "semanticd"
        if span is not request:
            assert span.parent.span_id == request.context.span_id
            assert span.start_time <= span.end_time
            assert span.start_time >= request.start_time - 5_000_000, "on one clock, to a few milliseconds"
    usage = answer.json["usage"]
    prompt = usage["prompt_tokens"]
    check_second_names(request.attributes, usage)
    restored = collector.one("restore").attributes["semanticd.tokens.restored_warm"]
    prefill = collector.one("prefill").attributes
    assert restored > 0
    reused = prefill["semanticd.tokens.reused_hot"]
    assert restored + reused + prefill["semanticd.tokens.computed"] == prompt
    assert restored + reused == usage["prompt_tokens_details"]["cached_tokens"]
    assert collector.one("decode").attributes["semanticd.tokens.output"] == usage["completion_tokens"]
    assert collector.one("decode").attributes["semanticd.finish_reason"] in ("length", "stop")
    assert collector.one("persist").attributes["semanticd.tokens.stored"] > 0
    assert collector.one("queue").attributes["semanticd.agent"] == "a"
    phases = [collector.one(name) for name in ("queue", "restore", "prefill", "decode", "persist")]
    for before, after in pairwise(phases):
        assert before.end_time <= after.start_time + 1_000_000, f"{after.name} follows {before.name}"


def check_second_names(attributes: Any, usage: Any) -> None:
    """The request's span says the same in the words of OpenTelemetry's GenAI conventions."""
    said = {name: value for name, value in attributes.items() if name.startswith("gen_ai.")}
    assert said.pop("gen_ai.response.time_to_first_chunk") > 0
    assert said.pop("gen_ai.usage.cache_creation.input_tokens") > 0
    assert said.pop("gen_ai.response.finish_reasons")[0] in ("length", "stop")
    assert said == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "semanticd",
        "gen_ai.request.model": "default",
        "gen_ai.response.model": "tiny",
        "gen_ai.response.id": "asked-by-me",
        "gen_ai.conversation.id": "a",
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.cache_read.input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.usage.reasoning.output_tokens": 0,
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_the_choices_of_a_request_are_added_up(
    tmp_path: Path, model: Path, collector: Collector, stream: bool
) -> None:
    async with small(tmp_path, model=model, collector=collector) as daemon:
        body = {
            "model": "default",
            "prompt": "hi",
            "max_tokens": 2,
            "n": 2,
            "ignore_eos": True,
            "stream": stream,
        }
        answer = await daemon.client.post("/v1/completions", body)
        assert answer.status == 200, answer.content
        await until(lambda: "request" in collector.names())
    said = collector.one("request").attributes
    assert said["gen_ai.operation.name"] == "text_completion"
    assert said["gen_ai.usage.output_tokens"] == 4
    assert said["gen_ai.response.finish_reasons"] == ("length", "length")


CHAT = {"model": "default", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
DIALECTS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "default", "prompt": "hi", "max_tokens": 2},
    "/v1/responses": {"model": "default", "input": "hi", "max_output_tokens": 2},
    "/v1/messages": CHAT,
    "/v1/agents/traced/generate": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
}


async def test_every_dialect_continues_the_callers_trace(
    tmp_path: Path, model: Path, collector: Collector
) -> None:
    async with small(tmp_path, model=model, collector=collector) as daemon:
        await daemon.client.post("/v1/agents", {"id": "traced"})
        for path, body in DIALECTS.items():
            collector.forget()
            answer = await daemon.client.post(path, body, headers={"traceparent": TRACE_PARENT})
            assert answer.status == 200, (path, answer.content)
            await daemon.written()
            await until(lambda: "persist" in collector.names())
            assert {"request", "queue", "decode"} <= set(collector.names()), path
            assert {f"{span.context.trace_id:032x}" for span in collector.spans()} == {TRACE}, path


async def test_what_the_caller_does_not_sample_is_not_traced(
    tmp_path: Path, model: Path, collector: Collector
) -> None:
    async with small(tmp_path, model=model, collector=collector) as daemon:
        not_sampled = TRACE_PARENT[:-2] + "00"
        answer = await daemon.chat("hi", agent="a", headers={"traceparent": not_sampled})
        assert answer.status == 200
        for broken in ("", "00-zz-zz-01", "nonsense\x7f" * 50):
            answer = await daemon.chat("hi", agent="b", headers={"traceparent": broken})
            assert answer.status == 200
        await daemon.written()
    traces = {f"{span.context.trace_id:032x}" for span in collector.spans()}
    assert TRACE not in traces
    assert len(traces) == 3, "a broken header begins a trace of its own"


async def test_a_request_whose_client_leaves_is_traced_as_far_as_it_came(
    tmp_path: Path, model: Path, collector: Collector
) -> None:
    async with small(tmp_path, model=model, collector=collector) as daemon:
        leave, answer = asyncio.Event(), Answer()
        options: dict[str, Any] = {"stream": True, "ignore_eos": True, "leave": leave, "answer": answer}
        asking = asyncio.create_task(daemon.chat("hi", agent="a", max_tokens=20_000, **options))
        await until(lambda: len(answer.chunks) > 2)
        leave.set()
        await asking
        await until(lambda: "decode" in collector.names())
        assert collector.one("decode").attributes["semanticd.finish_reason"] == "cancelled"
        assert "persist" not in collector.names()


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys, json\n"
        "from semanticd.adapters.tracing import open_tracer\n"
        "assert open_tracer(None, version='0') is None\n"
        "import semanticd.entrypoints.assembly, semanticd.entrypoints.http_edge\n"
        "print(json.dumps([m for m in sys.modules if m.startswith('opentelemetry')]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=115, check=True
    )
    assert json.loads(done.stdout) == []


def test_a_bad_endpoint_says_what_was_expected() -> None:
    with pytest.raises(ConfigurationError, match=r"http://127\.0\.0\.1:4318/v1/traces"):
        open_tracer("localhost:4318", version="0")


def test_without_the_extra_the_message_says_how_to_get_it() -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from semanticd.adapters.tracing import open_tracer\n"
        "open_tracer('http://127.0.0.1:4318/v1/traces', version='0')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=115)
    assert "pip install 'semanticd[otel]'" in done.stderr


def test_a_collector_that_is_away_does_not_hold_up_the_end() -> None:
    tracer = open_tracer("http://127.0.0.1:9/v1/traces", version="0")
    assert tracer is not None
    tracer.begin("request", headers={}).end(failed=False)
    tracer.close()
