"""Streams and hang-ups over a real engine: whole characters, pings while a prompt is computed, nothing for who left."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.config import Settings
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.mlx.model.runner import MlxModelRunner
from semanticd.entrypoints import http_edge
from tests.fakes.asgi_client import Answer, until
from tests.fakes.engine_rig import wait_until
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon
from tests.integration.http.test_stream_bytes import frames, text_of

TEXT = "Grüße 日本 \N{GRINNING FACE}\N{FAMILY} né"
FORM = {"type": "object", "properties": {"said": {"const": TEXT}}, "required": ["said"]}
SAID = json.dumps({"said": TEXT}, ensure_ascii=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny", ends=False)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What the model was made to compute, counted as it begins."""
    counted: Counter[str] = Counter()
    prefill, decode = MlxModelRunner.prefill, MlxModelRunner.decode

    def counted_prefill(self: MlxModelRunner, *args: Any, **more: Any) -> bool:
        counted["prefill"] += 1
        return prefill(self, *args, **more)

    def counted_decode(self: MlxModelRunner, group: int = 0) -> Any:
        counted["decode"] += 1
        return decode(self, group)

    monkeypatch.setattr(MlxModelRunner, "prefill", counted_prefill)
    monkeypatch.setattr(MlxModelRunner, "decode", counted_decode)
    return counted


def body_of(url: str, question: str, *, max_tokens: int, stream: bool) -> dict[str, Any]:
    limit = "max_output_tokens" if url == "/v1/responses" else "max_tokens"
    body: dict[str, Any] = {"model": "default", limit: max_tokens, "stream": stream}
    if url == "/v1/responses":
        return {**body, "input": question}
    if url == "/v1/completions":
        return {**body, "prompt": question}
    return {**body, "messages": [{"role": "user", "content": question}]}


FORMS: dict[str, dict[str, Any]] = {
    "/v1/messages": {"output_config": {"format": {"type": "json_schema", "schema": FORM}}},
    "/v1/chat/completions": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": FORM}}
    },
    "/v1/responses": {"text": {"format": {"type": "json_schema", "name": "f", "schema": FORM}}},
}


@pytest.mark.parametrize("url", FORMS)
async def test_characters_of_several_tokens_arrive_whole(url: str, tiny: Path, tmp_path: Path) -> None:
    async with WholeDaemon(tmp_path, model=tiny) as daemon:
        body = body_of(url, "Greet.", max_tokens=200, stream=True)
        answer = await daemon.client.post(url, {**body, **FORMS[url]})
    for chunk in answer.chunks:
        chunk.decode("utf-8")
    found = frames(answer.content)
    assert text_of(url, found) == SAID
    # The tiny vocabulary knows bytes only: what is not ASCII is two to four tokens a character, none of them text.
    assert "\ufffd" not in answer.content.decode("utf-8")


@pytest.mark.parametrize("url", ["/v1/messages", "/v1/chat/completions", "/v1/completions", "/v1/responses"])
async def test_a_long_prompt_is_bridged_by_pings(
    url: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: Counter[str]
) -> None:
    ping = b'event: ping\ndata: {"type":"ping"}\n\n' if url == "/v1/messages" else b": ping\n\n"
    answer, asked, prefill = Answer(), threading.Event(), MlxModelRunner.prefill

    def bridged_prefill(self: MlxModelRunner, *args: Any, **more: Any) -> bool:
        # However quick the machine is, each part of the prompt takes until the client has heard of the server.
        num_pings = answer.content.count(ping)
        if asked.is_set():
            wait_until(lambda: answer.content.count(ping) > num_pings, "a ping")
        return prefill(self, *args, **more)

    monkeypatch.setattr(MlxModelRunner, "prefill", bridged_prefill)
    monkeypatch.setattr(http_edge, "HttpConfig", partial(HttpConfig, ping_interval_s=0.01))
    settings = Settings()
    settings = replace(settings, mlx=replace(settings.mlx, prefill_chunk=256))
    async with WholeDaemon(tmp_path, model=tiny, settings=settings) as daemon:
        asked.set()
        body = body_of(url, "the and of to " * 200, max_tokens=2, stream=True)
        await daemon.client.post(url, body, answer=answer)
    assert answer.status == 200
    assert steps["prefill"] >= 3
    assert answer.content.count(ping) >= 3
    assert text_of(url, frames(answer.content))


@pytest.mark.parametrize("url", ["/v1/messages", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_the_engine_is_idle_within_a_step_of_a_client_that_left(
    url: str, stream: bool, phase: str, tiny: Path, tmp_path: Path, steps: Counter[str]
) -> None:
    async with WholeDaemon(tmp_path, model=tiny) as daemon:
        question = "the and of to " * 2000 if phase == "prefill" else "Hello"
        leave = asyncio.Event()
        body = body_of(url, question, max_tokens=20_000, stream=stream)
        exchange = asyncio.ensure_future(daemon.client.post(url, body, leave=leave))
        await until(lambda: steps[phase] >= 3)
        leave.set()
        await asyncio.wait_for(exchange, 60)
        # One step was under way when the client was gone, and one may have begun before the engine heard of it.
        begun = sum(steps.values())
        await until(lambda: daemon.parts.engine.num_unanswered == 0)
        assert sum(steps.values()) <= begun + 1
        assert steps["decode"] < 20_000
        # The next client is answered.
        again = await daemon.client.post(url, body_of(url, "Hi", max_tokens=2, stream=stream))
        assert again.complete
        assert again.status == 200
