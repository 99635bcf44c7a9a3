"""Streams as bytes: framing, order of events, and characters that arrive whole."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.domain.errors import EngineError, QueueFullError
from semanticd.domain.generation import Finished, FinishReason, ThinkingDelta
from tests.fakes.asgi_client import Answer, AsgiClient, until
from tests.fakes.generator import USAGE, Script, ScriptedGenerator, call_script
from tests.fakes.http_services import make_services

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"name": "weather", "input_schema": {"type": "object"}}

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/messages": {
        "model": "tiny",
        "max_tokens": USAGE.completion_tokens,
        "messages": HELLO,
        "tools": [TOOL],
    },
    "/v1/chat/completions": {"model": "tiny", "messages": HELLO, "stream_options": {"include_usage": True}},
    "/v1/completions": {"model": "tiny", "prompt": "hello"},
    "/v1/responses": {"model": "tiny", "input": "hello"},
    "/v1/agents/ann/generate": {"prompt": "hello"},
}

NAMED = ("/v1/messages", "/v1/responses", "/v1/agents/ann/generate")

FRAME = re.compile(rb"(?:event: (?P<name>[a-z_.]+)\n)?data: (?P<data>[^\n]+)\n\n|: ping\n\n")

WORDS = ["Grüße, ", "\N{GRINNING FACE}", "日本", "\n\n", "end\u2028"]


async def stream(url: str, script: Script, **config: Any) -> Answer:
    client = AsgiClient(create_app(make_services(ScriptedGenerator(script)), HttpConfig(**config)))
    return await client.post(url, {**ROUTES[url], "stream": True})


def frames(content: bytes) -> list[tuple[str | None, Any]]:
    """Take the stream apart byte by byte; fails at the first byte that belongs to no frame."""
    found: list[tuple[str | None, Any]] = []
    position = 0
    while position < len(content):
        match = FRAME.match(content, position)
        assert match, content[position : position + 80]
        position = match.end()
        if match["data"] is None:
            continue
        name = match["name"].decode() if match["name"] else None
        found.append((name, "[DONE]" if match["data"] == b"[DONE]" else json.loads(match["data"])))
    return found


def text_of(url: str, found: list[tuple[str | None, Any]]) -> str:
    pieces: list[str] = []
    for name, data in found:
        if url == "/v1/messages" and name == "content_block_delta":
            pieces.append(data["delta"].get("text", ""))
        elif url == "/v1/chat/completions" and data != "[DONE]" and data.get("choices"):
            pieces.append(data["choices"][0]["delta"].get("content") or "")
        elif url == "/v1/completions" and data != "[DONE]" and data.get("choices"):
            pieces.append(data["choices"][0]["text"])
        elif url == "/v1/responses" and name == "response.output_text.delta":
            pieces.append(data["delta"])
        elif url == "/v1/agents/ann/generate" and name == "text":
            pieces.append(data["text"])
    return "".join(pieces)


@pytest.mark.parametrize("url", ROUTES)
async def test_every_byte_belongs_to_a_frame_and_characters_arrive_whole(url: str) -> None:
    answer = await stream(url, WORDS)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-semantic-cache"] == "hot=8 warm=4 computed=30 tier=warm"
    for chunk in answer.chunks:
        chunk.decode("utf-8")
    found = frames(answer.content)
    assert text_of(url, found) == "".join(WORDS)
    assert len(answer.content.decode().splitlines()) == answer.content.count(b"\n")
    assert all((name is not None) == (url in NAMED) for name, _ in found)


@pytest.mark.parametrize("url", ROUTES)
async def test_a_failure_after_the_first_byte_is_told_as_an_event(url: str) -> None:
    answer = await stream(url, ["some", EngineError("the step failed")])
    assert answer.status == 200
    assert answer.complete
    found = frames(answer.content)
    assert text_of(url, found) == "some"
    assert "the step failed" in json.dumps([data for _, data in found[-2:]])
    name, data = found[-1]
    if url == "/v1/messages":
        assert (name, data["type"], data["error"]["type"]) == ("error", "error", "api_error")
    elif url == "/v1/responses":
        assert (name, data["response"]["status"]) == ("response.failed", "failed")
        # One last word: a client that ends at an `error` would leave the stream before this.
        assert "error" not in {name for name, _ in found}
    elif url.startswith("/v1/agents"):
        assert name == "error"
    else:
        assert data == "[DONE]"
        assert found[-2][1]["error"]["message"] == "the step failed"


@pytest.mark.parametrize("url", ROUTES)
async def test_a_failure_before_the_first_event_is_a_status(url: str) -> None:
    answer = await stream(url, [QueueFullError("too many wait", retry_after_s=3)])
    assert answer.status == (529 if url == "/v1/messages" else 503)
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("url", ROUTES)
async def test_a_long_prefill_is_bridged_by_pings(url: str) -> None:
    release = asyncio.Event()
    generator = ScriptedGenerator([release, "late"])
    app = create_app(make_services(generator), HttpConfig(ping_interval_s=0.001))
    answer = Answer()
    client = AsgiClient(app)
    sending = asyncio.ensure_future(client.post(url, {**ROUTES[url], "stream": True}, answer=answer))
    await until(lambda: len(answer.chunks) >= 3)
    release.set()
    await sending
    content = answer.content
    ping = b'event: ping\ndata: {"type":"ping"}\n\n' if url == "/v1/messages" else b": ping\n\n"
    assert content.startswith(ping * 3)
    assert text_of(url, frames(content)) == "late"


async def test_anthropic_blocks_open_fill_and_close_in_order() -> None:
    script = [
        ThinkingDelta("hm"),
        "Let me ",
        "see",
        *call_script("weather", {"city": "Oslo"}, call_id="toolu_1"),
    ]
    found = frames((await stream("/v1/messages", script)).content)
    names = [name for name, _ in found]
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    blocks = [data["content_block"]["type"] for name, data in found if name == "content_block_start"]
    assert blocks == ["thinking", "text", "tool_use"]
    opened: int | None = None
    for name, data in found[1:-2]:
        if name == "content_block_start":
            assert opened is None
            opened = data["index"]
        assert data["index"] == opened
        if name == "content_block_stop":
            opened = None
    deltas = [data["delta"] for name, data in found if name == "content_block_delta"]
    assert [delta["type"] for delta in deltas[:2]] == ["thinking_delta", "signature_delta"]
    arguments = "".join(delta["partial_json"] for delta in deltas if delta["type"] == "input_json_delta")
    assert json.loads(arguments) == {"city": "Oslo"}
    delta = found[-2][1]
    assert delta["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert delta["usage"]["input_tokens"] + delta["usage"]["cache_read_input_tokens"] == 42
    assert delta["usage"]["output_tokens"] == 7


async def test_anthropic_counts_what_a_client_asked_to_keep_apart_so_that_the_three_counts_add_up() -> None:
    client = AsgiClient(create_app(make_services(ScriptedGenerator()), HttpConfig()))
    body = {**ROUTES["/v1/messages"], "cache_control": {"type": "ephemeral"}}
    usage = (await client.post("/v1/messages", body)).json["usage"]
    assert usage["cache_creation_input_tokens"] == 30
    assert usage["cache_read_input_tokens"] == 12
    assert usage["input_tokens"] == 0
    assert usage["cache_creation"] == {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 0}


async def test_anthropic_counts_the_same_at_the_start_of_a_stream_as_at_its_end() -> None:
    client = AsgiClient(create_app(make_services(ScriptedGenerator()), HttpConfig()))
    body = {**ROUTES["/v1/messages"], "cache_control": {"type": "ephemeral", "ttl": "1h"}, "stream": True}
    found = frames((await client.post("/v1/messages", body)).content)
    first, last = found[0][1]["message"]["usage"], found[-2][1]["usage"]
    # Clients take some counts from the one and some from the other.
    no_output = {"output_tokens": 0, "output_tokens_details": {"thinking_tokens": 0}}
    assert {**first, **no_output} == {**last, **no_output}
    assert last["cache_creation"]["ephemeral_1h_input_tokens"] == last["cache_creation_input_tokens"] == 30


async def test_an_anthropic_call_without_arguments_is_an_empty_object() -> None:
    found = frames((await stream("/v1/messages", call_script("weather", {})[:1])).content)
    pieces = [data["delta"]["partial_json"] for name, data in found if name == "content_block_delta"]
    assert pieces == ["{}"]


async def test_openai_chat_says_role_id_and_name_once_and_usage_last() -> None:
    script = ["Hi", *call_script("weather", {"city": "Oslo"})]
    found = [data for _, data in frames((await stream("/v1/chat/completions", script)).content)]
    assert found[-1] == "[DONE]"
    chunks = found[:-1]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert [delta["role"] for delta in deltas if "role" in delta] == ["assistant"]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert [call["id"] for call in calls if "id" in call] == ["call_1"]
    assert [call["function"]["name"] for call in calls if "name" in call["function"]] == ["weather"]
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"city": "Oslo"}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] == 12
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_openai_chat_begins_with_choice_zero_whichever_comes_first() -> None:
    generator = ScriptedGenerator(["a"])
    client = AsgiClient(create_app(make_services(generator), HttpConfig()))
    body = {**ROUTES["/v1/chat/completions"], "n": 3, "stream": True}
    chunks = [data for _, data in frames((await client.post("/v1/chat/completions", body)).content)][:-1]
    assert [chunk["choices"][0]["index"] for chunk in chunks[:3]] == [0, 1, 2]
    assert chunks[-1]["usage"]["completion_tokens"] == 21


async def test_responses_are_numbered_and_every_item_that_is_added_is_done() -> None:
    script = [ThinkingDelta("hm"), "Hi", *call_script("weather", {"city": "Oslo"})]
    found = [data for _, data in frames((await stream("/v1/responses", script)).content)]
    assert [data["sequence_number"] for data in found] == list(range(len(found)))
    kinds = [data["type"] for data in found]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    added = [data["item"]["id"] for data in found if data["type"] == "response.output_item.added"]
    done = [data["item"] for data in found if data["type"] == "response.output_item.done"]
    assert added == [item["id"] for item in done]
    assert [item["type"] for item in done] == ["reasoning", "message", "function_call"]
    assert found[-1]["response"]["output"] == done
    assert found[-1]["response"]["usage"]["input_tokens_details"] == {
        "cached_tokens": 12,
        "cache_write_tokens": 30,
    }


@pytest.mark.parametrize(
    ("reason", "anthropic", "openai"),
    [
        (FinishReason.STOP, "end_turn", "stop"),
        (FinishReason.LENGTH, "max_tokens", "length"),
        (FinishReason.STOP_SEQUENCE, "stop_sequence", "stop"),
        (FinishReason.TOOL_CALLS, "tool_use", "tool_calls"),
    ],
)
async def test_finish_reasons_are_the_dialects_words(
    reason: FinishReason, anthropic: str, openai: str
) -> None:
    stop = "END" if reason is FinishReason.STOP_SEQUENCE else None
    script: Script = ["Hi", Finished(reason, USAGE, stop)]
    delta = frames((await stream("/v1/messages", script)).content)[-2][1]["delta"]
    assert delta == {"stop_reason": anthropic, "stop_sequence": stop}
    chunk = frames((await stream("/v1/chat/completions", script)).content)[-3][1]
    assert chunk["choices"][0]["finish_reason"] == openai
    response = frames((await stream("/v1/responses", script)).content)[-1][1]["response"]
    cut = reason is FinishReason.LENGTH
    assert response["status"] == ("incomplete" if cut else "completed")
    assert response["incomplete_details"] == ({"reason": "max_output_tokens"} if cut else None)
