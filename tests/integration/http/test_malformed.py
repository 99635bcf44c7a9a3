"""Three hundred broken bodies per dialect: always a 4xx in its shape, and the server answers the next request."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from tests.fakes.agents_service import FakeAgents
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.generator import ScriptedGenerator
from tests.fakes.http_services import make_services

NUM_BODIES = 300

HELLO = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": [{"type": "text", "text": "x"}]},
]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}

GOOD: dict[str, dict[str, Any]] = {
    "/v1/messages": {
        "model": "tiny",
        "max_tokens": 10,
        "messages": HELLO,
        "tools": [{"name": "f", "input_schema": SCHEMA}],
        "stop_sequences": ["x"],
        "temperature": 0.5,
    },
    "/v1/messages/count_tokens": {"model": "tiny", "messages": HELLO, "system": "s"},
    "/v1/chat/completions": {
        "model": "tiny",
        "messages": HELLO,
        "max_tokens": 10,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
        "seed": 1,
    },
    "/v1/completions": {"model": "tiny", "prompt": ["a", "b"], "max_tokens": 1, "logprobs": 1, "echo": True},
    "/v1/responses": {
        "model": "tiny",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}],
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
        "max_output_tokens": 10,
    },
    "/v1/agents/ann/generate": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 10},
}

WRONG_VALUES: list[Any] = [[], {}, [[]], True, -1, 2**63, 1.5, "", [None], {"type": 7}, [1, "a"]]

Breaker = Callable[[random.Random, dict[str, Any]], bytes]


def truncated(rng: random.Random, body: dict[str, Any]) -> bytes:
    raw = json.dumps(body).encode()
    return raw[: rng.randrange(len(raw))]


def one_wrong_type(rng: random.Random, body: dict[str, Any]) -> bytes:
    required = {
        "model": 5,
        "messages": "x",
        "prompt": {"a": 1},
        "input": 7,
        "max_tokens": rng.choice(["5", [], {}]),
    }
    name = rng.choice([name for name in required if name in body])
    return json.dumps({**body, name: required[name]}).encode()


def deep(rng: random.Random, body: dict[str, Any]) -> bytes:
    depth = rng.choice([65, 500, 5000, 100_000])
    nested = b'{"a":' * depth + b"1" + b"}" * depth if rng.random() < 0.5 else b"[" * depth + b"]" * depth
    return json.dumps(body).encode()[:-1] + b', "extra": ' + nested + b"}"


def not_utf8(rng: random.Random, body: dict[str, Any]) -> bytes:
    bad = rng.choice([b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
    return json.dumps(body).encode()[:-1] + b', "extra": "' + bad + b'"}'


def no_number(rng: random.Random, body: dict[str, Any]) -> bytes:
    bad = rng.choice(
        [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"9" * 30, b"9" * 6000, b"01", b"0x10", b"+1"]
    )
    return json.dumps(body).encode()[:-1] + b', "temperature2": ' + bad + b"}"


def key_twice(rng: random.Random, body: dict[str, Any]) -> bytes:
    name = rng.choice(sorted(body))
    return json.dumps(body).encode()[:-1] + f', "{name}": null}}'.encode()


def no_object(rng: random.Random, body: dict[str, Any]) -> bytes:
    return rng.choice([b"[]", b"null", b'"x"', b"1", b"true", b"", b" ", b"\x00", b"{}{}", b"{},"])


def broken_escape(rng: random.Random, body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()[:-1] + b', "extra": "\\ud83"}'


def missing(rng: random.Random, body: dict[str, Any]) -> bytes:
    needed = [name for name in ("model", "messages", "prompt", "input") if name in body]
    gone = rng.choice(needed)
    return json.dumps({name: value for name, value in body.items() if name != gone}).encode()


def too_big(rng: random.Random, body: dict[str, Any]) -> bytes:
    return json.dumps({**body, "extra": "x" * rng.randrange(300_000, 400_000)}).encode()


BREAKERS: list[Breaker] = [
    truncated,
    one_wrong_type,
    deep,
    not_utf8,
    no_number,
    key_twice,
    no_object,
    broken_escape,
    missing,
    too_big,
]


def check_shape(url: str, answer: Any) -> None:
    if url.startswith("/v1/messages"):
        assert answer["type"] == "error"
        assert answer["request_id"]
        assert set(answer["error"]) == {"type", "message"}
    else:
        assert set(answer["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("url", GOOD)
async def test_broken_bodies_are_refused_in_the_dialects_shape(url: str) -> None:
    generator = ScriptedGenerator()
    agents = FakeAgents("ann")
    client = AsgiClient(
        create_app(make_services(generator, agents=agents), HttpConfig(max_body_bytes=250_000))
    )
    rng = random.Random(f"malformed {url}")
    # Without messages `generate` answers the question that is open, if one is.
    breakers = [one for one in BREAKERS if not (one is missing and url.endswith("/generate"))]
    for number in range(NUM_BODIES):
        breaker = breakers[number % len(breakers)]
        raw = breaker(rng, GOOD[url])
        answer = await client.post(url, raw)
        assert 400 <= answer.status < 500, (breaker.__name__, raw[:200], answer.content)
        check_shape(url, answer.json)
    assert generator.requests == []
    assert (await client.post(url, GOOD[url])).status == 200
    assert (await client.get("/health/ready")).status == 200


@pytest.mark.parametrize("url", GOOD)
async def test_no_value_in_any_place_makes_the_server_fail(url: str) -> None:
    client = AsgiClient(create_app(make_services(ScriptedGenerator()), HttpConfig()))
    rng = random.Random(f"mutated {url}")
    for _ in range(NUM_BODIES):
        body = json.loads(json.dumps(GOOD[url]))
        mutate(rng, body)
        answer = await client.post(url, body)
        assert answer.status < 500, (body, answer.content)
        if answer.status != 200:
            check_shape(url, answer.json)


def mutate(rng: random.Random, body: Any) -> None:
    """Replace one value somewhere inside."""
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                collect(node[key])

    collect(body)
    node, key = rng.choice(places)
    node[key] = rng.choice(WRONG_VALUES)


async def test_a_declared_length_of_64_mib_is_refused_before_a_byte_is_read() -> None:
    client = AsgiClient(create_app(make_services(), HttpConfig()))
    for url in GOOD:
        headers = {"content-type": "application/json", "content-length": str(64 * 1024 * 1024)}
        answer = await client.send("POST", url, b"", headers=headers, stall=True)
        assert answer.status == 413
        check_shape(url, answer.json)
