"""Every answer of `/v1/responses` and every event of its streams, held against what Open Responses requires.

The cases of its compliance test are among them. Where we differ is listed in docs/integrations.md.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.domain.errors import EngineError
from semanticd.domain.generation import (
    Finished,
    FinishReason,
    ThinkingDelta,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallStarted,
)
from tests.fakes.asgi_client import Answer, AsgiClient
from tests.fakes.generator import USAGE, Script, ScriptedGenerator, call_script
from tests.fakes.http_services import make_services
from tests.fakes.open_responses import EVENTS, event_faults, faults

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "name": "weather", "description": "Tells the weather.", "parameters": SCHEMA}
CALL = tuple(call_script("weather", {"city": "Oslo"}))
CUT = Finished(FinishReason.LENGTH, USAGE)
FORM = {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}
SAID = [
    {"type": "message", "role": "user", "content": "I am Ann."},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello, Ann."}]},
    {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "rain"},
    {"type": "message", "role": "user", "content": "Who am I?"},
]
CASES: dict[str, tuple[dict[str, Any], Script]] = {
    "a text": (
        {"input": [{"type": "message", "role": "user", "content": "Say three words."}]},
        ["Hel", "lo"],
    ),
    "a system text": (
        {
            "input": [
                {"type": "message", "role": "system", "content": "Talk like a sailor."},
                {"type": "message", "role": "user", "content": "Say hello."},
            ]
        },
        ["Ahoy"],
    ),
    "several turns": ({"input": SAID, "tools": [TOOL]}, ["Ann"]),
    "a call": ({"tools": [TOOL]}, CALL),
    "text and two calls": (
        {"tools": [TOOL]},
        ["Let me see.", *CALL, *call_script("weather", {}, index=1, call_id="c2")],
    ),
    "a call that was cut": ({"tools": [TOOL]}, [*CALL[:2], CUT]),
    "a call that broke": (
        {"tools": [TOOL]},
        [ToolCallStarted(0, "c1", "weather"), ToolCallDelta(0, '{"ci'), ToolCallBroken(0, '{"ci'), "Oslo"],
    ),
    "an answer that was cut": ({"max_output_tokens": 16}, ["Once upon", CUT]),
    "no answer": ({}, []),
    "a form": ({"text": {"format": FORM, "verbosity": "low"}}, ['{"city": "Oslo"}']),
    "any object": ({"text": {"format": {"type": "json_object"}}}, ["{}"]),
    "log probabilities": ({"top_logprobs": 2, "include": ["message.output_text.logprobs"]}, ["Hel", "lo"]),
    "a named tool": ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}}, CALL),
    "allowed tools": (
        {
            "tools": [TOOL, {**TOOL, "name": "other"}],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "weather"}],
            },
        },
        CALL,
    ),
    "a summary of thinking": (
        {"reasoning": {"effort": "low", "summary": "auto"}},
        [ThinkingDelta("hm"), "Yes"],
    ),
    "sealed thinking": (
        {
            "reasoning": {"effort": "high", "summary": "detailed"},
            "include": ["reasoning.encrypted_content"],
            "store": False,
        },
        [ThinkingDelta("hm"), "Yes"],
    ),
    "all that a request may say": (
        {
            "instructions": "Be brief.",
            "temperature": 0.5,
            "top_p": 0.9,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
            "parallel_tool_calls": False,
            "max_tool_calls": 3,
            "truncation": "auto",
            "service_tier": "flex",
            "metadata": {"a": "b"},
            "safety_identifier": "me",
            "prompt_cache_key": "mine",
            "store": True,
        },
        ["Yes"],
    ),
    "all that it may say, as null": (
        dict.fromkeys(
            [
                *(
                    "instructions",
                    "temperature",
                    "top_p",
                    "tools",
                    "tool_choice",
                    "metadata",
                    "reasoning",
                    "text",
                ),
                *(
                    "max_output_tokens",
                    "max_tool_calls",
                    "top_logprobs",
                    "previous_response_id",
                    "stream_options",
                ),
            ]
        ),
        ["Yes"],
    ),
}


def client(script: Script) -> AsgiClient:
    return AsgiClient(create_app(make_services(ScriptedGenerator(script)), HttpConfig()))


def events(answer: Answer) -> list[dict[str, Any]]:
    lines = answer.content.decode().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def check_stream(seen: list[dict[str, Any]]) -> None:
    assert [fault for event in seen for fault in event_faults(event)] == []
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))


@pytest.mark.parametrize("case", CASES)
async def test_an_answer_its_stream_and_what_is_stored_have_all_that_is_required(case: str) -> None:
    fields, script = CASES[case]
    asked = client(script)
    body = {"model": "tiny", "input": "hello", **fields}
    plain = await asked.post("/v1/responses", body)
    assert plain.status == 200, plain.content
    assert faults(plain.json, "Response", "response") == []
    seen = events(await asked.post("/v1/responses", {**body, "stream": True}))
    check_stream(seen)
    last = seen[-1]
    assert last["type"] == f"response.{plain.json['status']}"
    kinds = [[item["type"] for item in response["output"]] for response in (last["response"], plain.json)]
    # A broken call's beginning was sent before it broke; a whole answer has it as text.
    assert kinds[0] == kinds[1] or "broke" in case
    if fields.get("store") is not False:
        kept = (await asked.get(f"/v1/responses/{plain.json['id']}")).json
        assert faults(kept, "Response", "response") == []
        items = (await asked.get(f"/v1/responses/{plain.json['id']}/input_items")).json
        assert faults(items["data"], "[Item]", "input") == []


async def test_a_stream_that_fails_ends_with_a_failed_response_of_that_shape() -> None:
    seen = events(
        await client(["Once", EngineError("the step failed")]).post(
            "/v1/responses", {"model": "tiny", "input": "hello", "stream": True}
        )
    )
    check_stream(seen)
    assert (seen[-1]["type"], seen[-1]["response"]["status"]) == ("response.failed", "failed")


async def test_a_refusal_has_the_payload_of_an_error() -> None:
    answer = await client([]).post("/v1/responses", {"model": "tiny", "input": "a", "truncation": "banana"})
    assert answer.status == 400
    assert faults(answer.json["error"], "ErrorPayload", "error") == []


async def test_a_compacted_conversation_has_all_that_is_required() -> None:
    answer = await client(["A summary."]).post("/v1/responses/compact", {"model": "tiny", "input": SAID})
    assert answer.status == 200, answer.content
    assert faults(answer.json, "Compacted", "compacted") == []


async def test_thinking_in_a_stream_has_openais_names_where_no_summary_is_asked_for() -> None:
    # Open Responses calls these two events otherwise; the SDKs and Codex know them by these names.
    seen = events(
        await client([ThinkingDelta("hm"), "Yes"]).post(
            "/v1/responses", {"model": "tiny", "input": "hello", "stream": True}
        )
    )
    ours = {f"response.reasoning_text.{state}": f"response.reasoning.{state}" for state in ("delta", "done")}
    assert ours.keys() <= {event["type"] for event in seen}
    check_stream([{**event, "type": ours.get(event["type"], event["type"])} for event in seen])


def test_what_is_missing_or_of_another_type_is_found() -> None:
    message = {"type": "message", "id": "m", "status": "completed", "role": "assistant", "content": []}
    assert faults(message, "Item") == []
    assert faults({**message, "status": "done"}, "Item", "m") == ["m.status: 'done' is not 'in_progress'"]
    assert faults({**message, "content": [{"type": "output_text", "text": "a"}]}, "Item", "m") == [
        "m.content[0].annotations: missing"
    ]
    assert faults({key: value for key, value in message.items() if key != "id"}, "Item", "m") == [
        "m.id: missing"
    ]
    assert faults(True, "int", "n") == ["n: True is no int"]
    assert event_faults({"type": "response.made_up"}) == ["response.made_up: no event of Open Responses"]
    assert event_faults(
        {"type": "response.refusal.done", "item_id": "a", "output_index": 0, "refusal": ""}
    ) == [
        "response.refusal.done: sequence_number is missing",
        "response.refusal.done: content_index is missing",
    ]
    assert len(EVENTS) == 24
