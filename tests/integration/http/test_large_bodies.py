"""What a client makes large is read, translated and looked through outside of the event loop."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import tracemalloc
from typing import Any

import pytest

from semanticd.adapters.http.core import body as bodies
from semanticd.domain.limits import LIMITS
from tests.fakes.asgi_client import Answer, AsgiClient
from tests.integration.http.test_fuzz import make_app

MESSAGE = {"role": "user", "content": "hi"}
PAD = {"filler": "x" * 300_000}
"""Makes every body a large one, so that only the number of parts differs."""


def calls(number: int) -> list[dict[str, Any]]:
    return [
        {"id": f"c{i}", "type": "function", "function": {"name": "t", "arguments": "{}"}}
        for i in range(number)
    ]


def properties(number: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(number)}}


def chat(number: int, **fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {"model": "tiny", "messages": [MESSAGE], **fields}


def text(number: int, kind: str = "text") -> list[dict[str, str]]:
    return [{"type": kind, "text": "x"}] * number


BODIES = {
    "parts of a message": lambda n: chat(n, messages=[{"role": "user", "content": text(n)}]),
    "messages": lambda n: chat(n, messages=[MESSAGE] * n),
    "tool calls": lambda n: chat(
        n, messages=[MESSAGE, {"role": "assistant", "content": None, "tool_calls": calls(n)}]
    ),
    "properties of a tool": lambda n: chat(
        n, tools=[{"type": "function", "function": {"name": "t", "parameters": properties(n)}}]
    ),
    "biases": lambda n: chat(n, logit_bias={str(i): 1 for i in range(n)}),
    "stop strings": lambda n: chat(n, stop=[f"s{i}" for i in range(n)]),
    "metadata": lambda n: chat(n, metadata={str(i): "x" for i in range(n)}),
    "system blocks": lambda n: (
        "/v1/messages",
        {"model": "tiny", "max_tokens": 5, "messages": [MESSAGE], "system": text(n)},
    ),
    "input parts": lambda n: (
        "/v1/responses",
        {"model": "tiny", "store": False, "input": [{"role": "user", "content": text(n, "input_text")}]},
    ),
    "prompt ids": lambda n: ("/v1/completions", {"model": "tiny", "prompt": [5] * n}),
    "Ollama's messages": lambda n: (
        "/api/chat",
        {"model": "tiny", "stream": False, "messages": [MESSAGE] * n},
    ),
    "Ollama's calls and results": lambda n: (
        "/api/chat",
        {
            "model": "tiny",
            "stream": False,
            "messages": [
                MESSAGE,
                {"role": "assistant", "tool_calls": [{"function": {"name": f"t{i}"}} for i in range(n)]},
                *({"role": "tool", "tool_name": f"t{n - i - 1}", "content": "x"} for i in range(n)),
            ],
        },
    ),
    "turns of an agent": lambda n: ("/v1/agents/ann/generate", {"messages": [MESSAGE] * n, "max_tokens": 5}),
}


async def calls_on_the_loop(client: AsgiClient, url: str, body: dict[str, Any]) -> int:
    """Return how many functions this thread called to answer a request."""
    return (await answered(client, url, json.dumps({**body, **PAD}).encode()))[0]


async def answered(client: AsgiClient, url: str, raw: bytes) -> tuple[int, Answer]:
    """Return how many functions this thread called to answer a request, and the answer."""
    number = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal number
        number += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        answer = await client.post(url, raw)
    finally:
        sys.setprofile(None)
    assert answer.status in (200, 400), answer.content
    return number, answer


@pytest.mark.parametrize("name", BODIES)
async def test_the_event_loop_does_no_more_for_a_body_of_more_parts(name: str) -> None:
    client = AsgiClient(make_app()[0])
    await client.post("/v1/agents", b'{"id": "ann"}')
    make = BODIES[name]
    await calls_on_the_loop(client, *make(300))  # imports, threads
    few, many = [await calls_on_the_loop(client, *make(number)) for number in (300, 9_000)]
    assert many - few < 1_000, (few, many)


@pytest.mark.parametrize("store", [False, True])
@pytest.mark.parametrize("streams", [False, True])
async def test_nor_for_a_small_body_that_goes_on_from_a_longer_stored_conversation(
    store: bool, streams: bool
) -> None:
    client = AsgiClient(make_app()[0])
    counted = []
    for number in (300, 300, 9_000):
        body = {"model": "tiny", "input": [MESSAGE] * number}
        _, first = await answered(client, "/v1/responses", json.dumps({**body, **PAD}).encode())
        reference = {"type": "item_reference", "id": first.json["output"][0]["id"]}
        fields = {"previous_response_id": first.json["id"], "store": store, "stream": streams}
        raw = json.dumps({"model": "tiny", "input": [MESSAGE, reference], **fields}).encode()
        counted.append((await answered(client, "/v1/responses", raw))[0])
    _, few, many = counted
    assert many - few < 1_000, (few, many)


async def test_nor_for_more_items_that_are_stored() -> None:
    client = AsgiClient(make_app()[0])
    bodies = [{"model": "tiny", "input": [MESSAGE] * number} for number in (300, 300, 9_000)]
    _, few, many = [await calls_on_the_loop(client, "/v1/responses", body) for body in bodies]
    assert many - few < 1_000, (few, many)


def many_values(number: int) -> bytes:
    return json.dumps({"model": "tiny", "messages": [MESSAGE], "more": [1] * number}).encode()


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (json.dumps({"model": "tiny", "messages": [MESSAGE]}).encode(), "here"),
        (many_values(bodies.MANY_VALUES), "elsewhere"),
        (json.dumps({"model": "tiny", "messages": [MESSAGE], **PAD}).encode(), "elsewhere"),
        (many_values(100_000), "one after another"),
    ],
    ids=["small", "many values", "large", "very many values"],
)
async def test_the_event_loop_parses_no_large_body(
    monkeypatch: pytest.MonkeyPatch, raw: bytes, where: str
) -> None:
    threads: list[threading.Thread] = []
    parse = bodies.parse_json

    def noted(*given: Any, **more: Any) -> Any:
        threads.append(threading.current_thread())
        return parse(*given, **more)

    monkeypatch.setattr(bodies, "parse_json", noted)
    answer = await AsgiClient(make_app()[0]).post("/v1/chat/completions", raw)
    assert answer.status == 200, answer.content
    (thread,) = threads
    found = "here" if thread is threading.current_thread() else "elsewhere"
    assert ("one after another" if thread.name.startswith("heavy-body") else found) == where


@pytest.mark.parametrize(
    ("url", "shape"),
    [
        ("/v1/chat/completions", "openai"),
        ("/v1/messages", "anthropic"),
        ("/api/chat", "ollama"),
        ("/v1/agents/ann/generate", "openai"),
    ],
)
@pytest.mark.parametrize("value", ["1", "{}", "[]", '"x"', '{"a":1}'])
async def test_a_body_of_too_many_values_is_refused_unread(
    monkeypatch: pytest.MonkeyPatch, url: str, shape: str, value: str
) -> None:
    monkeypatch.setattr(bodies, "parse_json", None)  # any call fails
    raw = f'{{"model": "tiny", "x": [{",".join([value] * LIMITS.json_values)}]}}'.encode()
    answer = await AsgiClient(make_app()[0]).post(url, raw)
    assert answer.status == 400
    error = answer.json["error"]
    text = error if shape == "ollama" else error["message"]
    assert f"more than {LIMITS.json_values} JSON values" in text
    assert (answer.json.get("type") == "error") == (shape == "anthropic")


FILLER = b'{"model":"tiny","filler":"' + b"x" * 2_000_000 + b'"'
REFUSED = {
    "too many values": FILLER + b',"x":[' + b"1," * LIMITS.json_values + b"1]}",
    "cut off": FILLER,
    "a key twice": FILLER + b',"model":"tiny"}',
    "a wrong type": FILLER + b',"messages":5}',
    "invalid UTF-8": FILLER + b',"x":"\xff"}',
    "nested": FILLER + b',"x":' + b"[" * 70 + b"]" * 70 + b"}",
}


@pytest.mark.parametrize("url", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
async def test_nothing_of_a_refused_body_waits_for_the_next_search_for_cycles(url: str) -> None:
    client = AsgiClient(make_app()[0])
    await client.post(url, b"{}")
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for name, raw in REFUSED.items():
            before, _ = tracemalloc.get_traced_memory()
            assert (await client.post(url, raw)).status == 400, name
            await asyncio.sleep(0.01)  # what the loop itself holds of its last step
            after, _ = tracemalloc.get_traced_memory()
            assert after - before < len(raw) // 2, name
    finally:
        tracemalloc.stop()
        gc.enable()
