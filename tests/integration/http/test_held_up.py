"""What a hostile request may do before others get their turn, on the event loop and between two tokens of a stream.

A stream that is silent for half a second is what the description rules out; how long it is silent on a clock depends on
what else the machine does, so the CPU time is looked at of what was done in the meantime: by one callback of the event
loop, and by the engine's thread from one decode step to the next. `contrib/dev/checks/door_load.py` measures silences.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.asgi_client import Answer
from tests.fakes.cpu_shares import CpuShare, callbacks_measured, decode_steps_measured
from tests.fakes.whole_daemon import WholeDaemon
from tests.integration.http.test_fuzz import (
    GOOD,
    RICH,
    is_failure,
    random_body,
    random_schema,
    write_short_model,
)

SHARE_S = 0.3
"""CPU time that one thing may take. The longest takes 0.09 (texts to embed), the others some milliseconds; with schemas
that are compiled on the engine's thread, 0.6."""
NUM_BODIES, NUM_SCHEMAS = 200, 60
CHAT: dict[str, Any] = {"model": "default", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
ITSELF = {"$ref": "#/$defs/a"}


def form(schema: Any) -> dict[str, Any]:
    """Return a request for an answer under a schema."""
    return {
        **CHAT,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    }


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"properties": {"a": value}, "type": "object"}
    return value


def member(number: int) -> dict[str, Any]:
    key = f"k{number}"
    return {"type": "object", "properties": {key: ITSELF}, "required": [key], "additionalProperties": False}


HOSTILE: dict[str, Any] = {
    "self references": form({"$defs": {"a": {"anyOf": [{"type": "string"}, *[ITSELF] * 16]}}, **ITSELF}),
    "a union": form({"$defs": {"a": {"anyOf": [{"type": "string"}, *map(member, range(30))]}}, **ITSELF}),
    "patterns": form(
        {"allOf": [{"type": "string", "pattern": f".*[a-z]{{{n}}}.*{n}"} for n in range(3, 18)]}
    ),
    "a large enum": form({"enum": [f"value {n}" for n in range(20_000)]}),
    "many properties": form(
        {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(1_999)}}
    ),
    "a large schema": form(
        {
            "type": "object",
            "properties": {
                f"o{n}": {
                    "type": "object",
                    "properties": {f"p{n}_{k}": {"type": "integer"} for k in range(20)},
                }
                for n in range(300)
            },
        }
    ),
    "long strings": form({"type": "string", "minLength": 100_000, "maxLength": 200_000}),
    "many items": form(
        {"type": "array", "items": {"type": "integer"}, "minItems": 10_000, "maxItems": 20_000}
    ),
    "deep schema": form(nested(20)),
    "9,000 tools": {**CHAT, "tools": [tool("look")] * 9_000},
    "2,048 tools": {**CHAT, "tools": [tool(f"look{n}") for n in range(2_048)]},
    "300,000 biases": {**CHAT, "logit_bias": {str(n): 1 for n in range(300_000)}},
    "1,024 biases": {**CHAT, "logit_bias": {str(n): 1 for n in range(512)}},
    "100,000 stop strings": {**CHAT, "stop": [f"stop {n}" for n in range(100_000)]},
    "64 stop strings": {**CHAT, "stop": [f"{n} " * 15 for n in range(64)]},
    "4 MB of prompt": {**CHAT, "messages": [{"role": "user", "content": "ab " * 1_400_000}]},
    "a long prompt": {**CHAT, "messages": [{"role": "user", "content": "ab " * 9_000}]},
    "10,000 messages": {**CHAT, "messages": [{"role": "user", "content": "a"}] * 10_000},
    "100,000 parts": {
        **CHAT,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 100_000}],
    },
    "a million values": {**CHAT, "x": list(range(1_000_000))},
    "320,000 values": {**CHAT, "x": [0] * 319_900},
    "many choices": {**CHAT, "n": 128},
    "long words": {**CHAT, "messages": [{"role": "user", "content": "a" * 30_000}]},
    "numbers": {**CHAT, "max_tokens": 10**18, "seed": 10**400, "temperature": 1e308},
    "escapes": {**CHAT, "messages": [{"role": "user", "content": "\0\ud83d\ude00" * 20_000}]},
}


def cases() -> Iterator[tuple[str, str, bytes]]:
    """Give a name, a path and a body for each case."""
    for name, body in HOSTILE.items():
        yield name, "/v1/chat/completions", json.dumps(body).encode()
    prompt = HOSTILE["4 MB of prompt"]["messages"]
    yield (
        "4 MB to count",
        "/v1/messages/count_tokens",
        json.dumps({"model": "default", "messages": prompt}).encode(),
    )
    yield "4 MB of words", "/tokenize", json.dumps({"model": "default", "prompt": "ab " * 1_400_000}).encode()
    yield "ids", "/detokenize", json.dumps({"model": "default", "tokens": list(range(300_000))}).encode()
    yield "texts", "/v1/embeddings", json.dumps({"model": "default", "input": ["ab " * 50] * 64}).encode()
    yield "brackets", "/v1/chat/completions", b"[" * 1_000_000
    yield "strings", "/v1/responses", b'{"model":"default","input":"' + b"\\u00e9" * 2_000_000 + b'"}'
    for number in range(NUM_SCHEMAS):
        yield (
            f"schema {number}",
            "/v1/chat/completions",
            json.dumps(form(random_schema(random.Random(f"schema {number}")))).encode(),
        )
    for number in range(NUM_BODIES):
        rng = random.Random(f"body {number}")
        url, good = rng.choice(RICH if rng.random() < 0.5 else list(GOOD.items()))
        if url == "/v1/responses/compact":
            continue  # A summary of a thousand tokens takes its time.
        yield f"body {number}", url, random_body(rng, good)


async def stream(daemon: WholeDaemon, ending: asyncio.Event) -> int:
    """Stream long answers until `ending`; returns how many pieces came."""
    # The tokens that would end it.
    bias = {str(token): -100 for token in range(256, 512)}
    pieces = 0
    while not ending.is_set():
        answer = Answer()
        await daemon.chat(
            "go on",
            agent="stream",
            max_tokens=1_900,
            logit_bias=bias,
            stream=True,
            leave=ending,
            answer=answer,
        )
        pieces += len(answer.chunks)
    return pieces


@pytest.mark.timeout(300)
async def test_no_request_takes_long_before_others_get_their_turn(tmp_path: Path) -> None:
    callbacks, steps = CpuShare(), CpuShare()
    # Its answers end by themselves: a decode step of a long answer takes no longer than one of a short answer.
    model = write_short_model(tmp_path / "tiny")
    async with WholeDaemon(tmp_path, model=model, around_loader=decode_steps_measured(steps)) as daemon:
        assert (await daemon.client.post("/v1/agents", {"id": "ann"})).status == 201
        ending = asyncio.Event()
        other = asyncio.create_task(stream(daemon, ending))
        made = list(cases())
        # What the other tests of this process left behind is no work of these requests.
        gc.collect()
        gc.freeze()
        statuses = []
        try:
            with callbacks_measured(callbacks):
                for name, url, raw in made:
                    callbacks.now = steps.now = name
                    answer = await daemon.client.post(url, raw)
                    assert not is_failure(answer), (name, answer.content[:500])
                    statuses.append(answer.status)
        finally:
            gc.unfreeze()
            ending.set()
            pieces = await other
    assert statuses.count(200) > len(made) / 10
    assert pieces > 0
    assert steps.number > len(made)  # The stream went on all the time.
    assert callbacks.longest_s < SHARE_S, callbacks
    assert steps.longest_s < SHARE_S, steps
