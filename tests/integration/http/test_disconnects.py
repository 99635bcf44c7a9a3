"""A client that leaves stops its computation at once: in prefill and in decode, streaming or not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from tests.fakes.asgi_client import Answer, AsgiClient, until
from tests.fakes.generator import Script, ScriptedGenerator
from tests.fakes.http_services import make_services

HELLO = [{"role": "user", "content": "hello"}]

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/messages": {"model": "tiny", "max_tokens": 10, "messages": HELLO},
    "/v1/chat/completions": {"model": "tiny", "messages": HELLO},
    "/v1/completions": {"model": "tiny", "prompt": ["a", "b"]},
    "/v1/responses": {"model": "tiny", "input": "hello"},
    "/v1/agents/ann/generate": {"prompt": "hello"},
}

JSON = {"content-type": "application/json"}


async def leave_when(
    generator: ScriptedGenerator, url: str, body: dict[str, Any], *, begun: bool
) -> tuple[Answer, int]:
    """Return the answer so far, and what is still being computed once the exchange has ended."""
    client = AsgiClient(create_app(make_services(generator), HttpConfig(ping_interval_s=0.001)))
    leave = asyncio.Event()
    answer = Answer()
    raw = json.dumps(body).encode()
    exchange = asyncio.ensure_future(client.send("POST", url, raw, headers=JSON, leave=leave, answer=answer))
    await until(lambda: bool(answer.chunks) if begun else bool(generator.streams))
    assert generator.num_active > 0
    leave.set()
    await asyncio.wait_for(exchange, 60)
    return answer, generator.num_active


@pytest.mark.parametrize("url", ROUTES)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_leaving_cancels_the_generation(url: str, stream: bool, phase: str) -> None:
    never = asyncio.Event()
    script: Script = [never] if phase == "prefill" else ["Hello", never]
    generator = ScriptedGenerator(script)
    body = {**ROUTES[url], "stream": stream}
    answer, num_active = await leave_when(generator, url, body, begun=stream)
    assert num_active == 0
    assert generator.streams
    assert all(one.closed for one in generator.streams)
    assert not answer.complete


async def test_leaving_while_the_body_is_on_its_way_asks_nothing_of_the_generator() -> None:
    generator = ScriptedGenerator()
    client = AsgiClient(create_app(make_services(generator), HttpConfig()))
    leave = asyncio.Event()
    exchange = asyncio.ensure_future(
        client.send("POST", "/v1/messages", b'{"model": "ti', headers=JSON, stall=True, leave=leave)
    )
    await asyncio.sleep(0)
    leave.set()
    await asyncio.wait_for(exchange, 60)
    assert generator.requests == []


async def test_a_server_that_stops_cancels_the_exchange_itself() -> None:
    generator = ScriptedGenerator(["Hello", asyncio.Event()])
    client = AsgiClient(create_app(make_services(generator), HttpConfig()))
    exchange = asyncio.ensure_future(client.post("/v1/messages", ROUTES["/v1/messages"]))
    await until(lambda: bool(generator.streams))
    exchange.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange
    assert generator.num_active == 0


async def test_an_answer_that_is_complete_closes_its_generation_too() -> None:
    generator = ScriptedGenerator()
    client = AsgiClient(create_app(make_services(generator), HttpConfig()))
    for stream in (True, False):
        answer = await client.post("/v1/messages", {**ROUTES["/v1/messages"], "stream": stream})
        assert answer.complete
    assert [one.closed for one in generator.streams] == [True, True]
