"""What real clients send and read, over HTTP: model names, health, the Response object, values that are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.domain.agent_name import is_agent_id
from semanticd.domain.chat import ChatPrompt, Message, TextPart, ThinkingPart
from semanticd.domain.errors import PromptTooLongError
from semanticd.domain.generation import (
    CacheMiss,
    Finished,
    FinishReason,
    GenerationRequest,
    Started,
    ThinkingDelta,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallStarted,
)
from semanticd.domain.ids import AgentId
from tests.fakes.asgi_client import Answer, AsgiClient
from tests.fakes.generator import CACHE, TINY, USAGE, Script, ScriptedGenerator, call_script
from tests.fakes.http_services import FakeHealth, make_services
from tests.fakes.service_rig import ServiceRig

HELLO = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/messages": {"max_tokens": 10, "messages": HELLO},
    "/v1/messages/count_tokens": {"messages": HELLO},
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "a"},
    "/v1/responses": {"input": "hello"},
}
CHAT_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def client(generator: ScriptedGenerator | None = None, **more: Any) -> AsgiClient:
    config = more.pop("config", HttpConfig())
    return AsgiClient(create_app(make_services(generator or ScriptedGenerator(), **more), config))


def events(answer: Answer) -> list[dict[str, Any]]:
    lines = answer.content.decode().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


@pytest.mark.parametrize("url", BODIES)
@pytest.mark.parametrize("name", ["TINY", "tiny:latest", "openai/tiny", "ollama/Tiny:latest", "small"])
async def test_a_model_answers_by_any_spelling_of_its_names(url: str, name: str) -> None:
    generator = ScriptedGenerator(models=("tiny", "small"))
    answer = await client(generator).post(url, {"model": name, **BODIES[url]})
    assert answer.status == 200, answer.content
    shown = await client().get(f"/v1/models/{name}")
    assert (shown.status, shown.json["id"]) == (200, "tiny")


@pytest.mark.parametrize("url", [url for url in BODIES if "count" not in url])
@pytest.mark.parametrize("is_cut", [True, False])
async def test_an_answer_that_the_kv_budget_cut_short_says_so(url: str, is_cut: bool) -> None:
    ended = Finished(FinishReason.LENGTH, replace(USAGE, is_cut_short=is_cut))
    answer = await client(ScriptedGenerator(["so far", ended])).post(url, {"model": "tiny", **BODIES[url]})
    assert answer.status == 200, answer.content
    assert answer.headers.get("x-semantic-adjusted") == ("answer_cut_by_kv_budget=1" if is_cut else None)


@pytest.mark.parametrize("name", ["openai/default", "haiku", "sonnet", "opus", "Claude-Sonnet-5"])
async def test_names_of_the_vendors_are_answered_by_the_current_model(name: str) -> None:
    answer = await client().post("/v1/chat/completions", {"model": name, "messages": HELLO})
    assert (answer.status, answer.json["model"]) == (200, "tiny")
    assert (await client().get(f"/v1/models/{name}")).json["id"] == "tiny"


async def test_another_name_is_refused_with_the_names_that_there_are() -> None:
    answer = await client().post("/v1/chat/completions", {"model": "nobody/here", "messages": HELLO})
    assert answer.status == 404
    assert "tiny" in answer.json["error"]["message"]


async def test_health_needs_no_key_and_says_whether_requests_are_taken() -> None:
    health = FakeHealth()
    asked = client(health=health, config=HttpConfig(api_keys=("key",)))
    assert (await asked.get("/health")).status == 200
    assert (await asked.send("HEAD", "/health")).status == 200
    health.is_ready = False
    answer = await asked.get("/health")
    assert (answer.status, answer.json["reason"]) == (503, "draining")


@pytest.mark.parametrize("script", [("Hi",), call_script("f", {"a": 1})])
async def test_a_streamed_chat_begins_without_text(script: Script) -> None:
    body = {"model": "tiny", "messages": HELLO, "tools": [CHAT_TOOL], "tool_choice": "required"}
    answer = await client(ScriptedGenerator(script)).post("/v1/chat/completions", {**body, "stream": True})
    deltas = [event["choices"][0]["delta"] for event in events(answer)]
    assert deltas[0] == {"role": "assistant", "content": None, "refusal": None}
    assert [delta["content"] for delta in deltas[1:] if "content" in delta] == (
        ["Hi"] if script == ("Hi",) else []
    )


# Open Responses, `ResponseResource`: every field is required, where null is written too.
REQUIRED = {
    "id": str,
    "object": str,
    "created_at": int,
    "completed_at": (int, type(None)),
    "status": str,
    "incomplete_details": (dict, type(None)),
    "model": str,
    "previous_response_id": (str, type(None)),
    "instructions": (str, type(None)),
    "output": list,
    "error": (dict, type(None)),
    "tools": list,
    "tool_choice": (str, dict),
    "truncation": str,
    "parallel_tool_calls": bool,
    "text": dict,
    "top_p": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "top_logprobs": int,
    "temperature": float,
    "reasoning": (dict, type(None)),
    "usage": (dict, type(None)),
    "max_output_tokens": (int, type(None)),
    "max_tool_calls": (int, type(None)),
    "store": bool,
    "background": bool,
    "service_tier": str,
    "metadata": dict,
    "safety_identifier": (str, type(None)),
    "prompt_cache_key": (str, type(None)),
}


async def test_a_response_has_every_required_field_plain_streamed_and_by_id() -> None:
    function = {"type": "function", "name": "f"}
    form = {"type": "json_schema", "name": "s", "schema": {"type": "object"}}
    body = {"model": "tiny", "input": "hello", "tools": [function], "text": {"format": form}}
    body |= {"presence_penalty": 0.5, "safety_identifier": "me"}
    asked = client()
    plain = (await asked.post("/v1/responses", body)).json
    last = events(await asked.post("/v1/responses", {**body, "stream": True}))[-1]
    by_id = (await asked.get(f"/v1/responses/{plain['id']}")).json
    assert last["type"] == "response.completed"
    for response in (plain, last["response"], by_id):
        wrong = {
            name: response.get(name, "missing")
            for name, kind in REQUIRED.items()
            if name not in response or not isinstance(response[name], kind)
        }
        assert wrong == {}
        assert response["tools"] == [{**function, "description": None, "parameters": None, "strict": False}]
        assert response["text"]["format"] == {**form, "description": None, "strict": False}
        assert (response["presence_penalty"], response["safety_identifier"]) == (0.5, "me")
    assert by_id == plain


@pytest.mark.parametrize(
    ("url", "fields", "param"),
    [
        ("/v1/responses", {"truncation": "banana"}, "truncation"),
        ("/v1/responses", {"reasoning": {"effort": "banana"}}, "reasoning.effort"),
        ("/v1/responses", {"reasoning": {"summary": "banana"}}, "reasoning.summary"),
        ("/v1/responses", {"include": ["nope"]}, "include.0"),
        ("/v1/responses", {"text": {"verbosity": "huge"}}, "text.verbosity"),
        ("/v1/chat/completions", {"reasoning_effort": "banana"}, "reasoning_effort"),
        ("/v1/responses", {"service_tier": "banana"}, "service_tier"),
        ("/v1/responses", {"prompt_cache_retention": "banana"}, "prompt_cache_retention"),
        ("/v1/chat/completions", {"prompt_cache_retention": "banana"}, "prompt_cache_retention"),
        ("/v1/chat/completions", {"verbosity": "huge"}, "verbosity"),
        ("/v1/chat/completions", {"service_tier": "banana"}, "service_tier"),
        ("/v1/messages", {"service_tier": "banana"}, "service_tier"),
        ("/v1/messages", {"output_config": {"effort": "banana"}}, "output_config.effort"),
    ],
)
async def test_a_value_that_no_sdk_knows_is_refused(url: str, fields: dict[str, Any], param: str) -> None:
    answer = await client().post(url, {"model": "tiny", **BODIES[url], **fields})
    assert answer.status == 400, answer.content
    error = answer.json["error"]
    assert error["message"].startswith(param)
    assert error.get("param", param).startswith(param)


@pytest.mark.parametrize(
    "fields",
    [
        {"truncation": "auto"},
        {"truncation": "disabled"},
        {"reasoning": {"effort": "xhigh", "summary": "auto"}},
        {"include": ["reasoning.encrypted_content", "message.output_text.logprobs"]},
        {"text": {"verbosity": "low"}},
    ],
)
async def test_values_that_the_sdks_know_are_accepted_and_echoed(fields: dict[str, Any]) -> None:
    answer = await client().post("/v1/responses", {"model": "tiny", "input": "hello", **fields})
    assert answer.status == 200, answer.content
    if "truncation" in fields:
        assert answer.json["truncation"] == fields["truncation"]
    if "text" in fields:
        assert answer.json["text"] == {"format": {"type": "text"}, **fields["text"]}


@pytest.mark.parametrize("url", ["/v1/responses", "/v1/chat/completions"])
@pytest.mark.parametrize(("retention", "seconds"), [(None, None), ("in_memory", None), ("24h", 86_400.0)])
async def test_a_prompt_is_kept_for_as_long_as_the_client_asks(
    url: str, retention: str | None, seconds: float | None
) -> None:
    generator = ScriptedGenerator()
    body = {"model": "tiny", **BODIES[url], "prompt_cache_retention": retention}
    assert (await client(generator).post(url, body)).status == 200
    assert generator.requests[-1].cache_ttl_s == seconds


EDITS = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
NO_EDITS: dict[str, Any] = {"applied_edits": []}
ECHOED = [
    # Dialect, what is sent, what stands in the answer; None: no such field.
    ("/v1/responses", {"metadata": {"a": "b"}}, {"metadata": {"a": "b"}}),
    ("/v1/responses", {"user": "ann", "safety_identifier": "me"}, {"user": "ann", "safety_identifier": "me"}),
    ("/v1/responses", {"prompt_cache_key": "mine"}, {"prompt_cache_key": "mine"}),
    ("/v1/responses", {"prompt_cache_retention": "24h"}, {"prompt_cache_retention": "24h"}),
    ("/v1/responses", {"prompt_cache_retention": "in-memory"}, {"prompt_cache_retention": "in_memory"}),
    ("/v1/responses", {"prompt_cache_retention": None}, {"prompt_cache_retention": None}),
    (
        "/v1/responses",
        {"prompt_cache_options": {"mode": "explicit", "ttl": "12h"}},
        {"prompt_cache_options": {"mode": "explicit", "ttl": "12h"}},
    ),
    (
        "/v1/responses",
        {"max_output_tokens": 9, "max_tool_calls": 2},
        {"max_output_tokens": 9, "max_tool_calls": 2},
    ),
    (
        "/v1/responses",
        {"temperature": 0.5, "top_p": 0.9, "top_logprobs": 2},
        {"temperature": 0.5, "top_p": 0.9},
    ),
    (
        "/v1/responses",
        {"parallel_tool_calls": False, "store": False},
        {"parallel_tool_calls": False, "store": False},
    ),
    (
        "/v1/responses",
        {"truncation": "auto", "instructions": "Hi"},
        {"truncation": "auto", "instructions": "Hi"},
    ),
    ("/v1/responses", {"reasoning": {"effort": "low"}}, {"reasoning": {"effort": "low", "summary": None}}),
    # The tier is the one that was used: patient ones are background work, quicker ones than the usual there are not.
    ("/v1/responses", {}, {"service_tier": "default"}),
    ("/v1/responses", {"service_tier": "auto"}, {"service_tier": "default"}),
    ("/v1/responses", {"service_tier": "flex"}, {"service_tier": "flex"}),
    ("/v1/responses", {"service_tier": "batch"}, {"service_tier": "flex"}),
    ("/v1/responses", {"service_tier": "priority"}, {"service_tier": "default"}),
    ("/v1/chat/completions", {}, {"service_tier": None, "metadata": None}),
    ("/v1/chat/completions", {"service_tier": "auto"}, {"service_tier": "default"}),
    ("/v1/chat/completions", {"service_tier": "flex"}, {"service_tier": "flex"}),
    ("/v1/chat/completions", {"service_tier": "ultrafast"}, {"service_tier": "default"}),
    ("/v1/chat/completions", {"user": "ann", "safety_identifier": "me", "store": True}, {"user": None}),
    ("/v1/messages", {}, {"context_management": None}),
    ("/v1/messages", {"context_management": EDITS}, {"context_management": NO_EDITS}),
    ("/v1/messages", {"service_tier": "auto", "metadata": {"user_id": "ann"}}, {"metadata": None}),
]


@pytest.mark.parametrize(("url", "sent", "shown"), ECHOED)
async def test_answers_repeat_what_the_vendors_answers_do_plain_streamed_and_by_id(
    url: str, sent: dict[str, Any], shown: dict[str, Any]
) -> None:
    asked = client()
    body = {"model": "tiny", **BODIES[url], **sent}
    answer = await asked.post(url, body)
    assert answer.status == 200, answer.content
    streamed = events(await asked.post(url, {**body, "stream": True}))
    told = [answer.json]
    if url == "/v1/responses":
        told += [event["response"] for event in streamed if "response" in event]
        if sent.get("store") is not False:
            told.append((await asked.get(f"/v1/responses/{answer.json['id']}")).json)
    elif url == "/v1/messages":
        told += [event["message"] for event in streamed if "message" in event]
        told += [event for event in streamed if event["type"] == "message_delta"]
        assert {one["usage"].get("service_tier") for one in told} == {"standard"}
    else:
        told += streamed
    for one in told:
        assert {name: one.get(name) for name in shown} == shown, one


async def test_a_header_that_makes_a_patient_request_urgent_shows_in_its_tier() -> None:
    for url in ("/v1/responses", "/v1/chat/completions"):
        body = {"model": "tiny", **BODIES[url], "service_tier": "flex"}
        answer = await client().post(url, body, headers={"X-Priority": "interactive"})
        assert answer.json["service_tier"] == "default"


@pytest.mark.parametrize(
    ("metadata", "shown"),
    [
        ({"a": "b"}, {"a": "b"}),
        ({}, {}),
        (None, None),
        # OpenAI refuses these; clients that send them are answered, and nothing wrong is sent back.
        ({"a": 1}, None),
        ("a", None),
        ([1], None),
        ({"a": "b" * 20_000}, None),
    ],
)
async def test_metadata_of_a_chat_is_repeated_where_it_is_what_the_sdks_know(
    metadata: Any, shown: Any
) -> None:
    answer = await client().post(
        "/v1/chat/completions", {"model": "tiny", "messages": HELLO, "metadata": metadata}
    )
    assert (answer.status, answer.json.get("metadata")) == (200, shown)


async def test_tokens_are_counted_before_and_after_context_edits() -> None:
    url = "/v1/messages/count_tokens"
    plain = (await client().post(url, {"model": "tiny", "messages": HELLO})).json
    assert "context_management" not in plain
    managed = await client().post(url, {"model": "tiny", "messages": HELLO, "context_management": EDITS})
    assert managed.json == {**plain, "context_management": {"original_input_tokens": plain["input_tokens"]}}


class Short(ScriptedGenerator):
    """Has room for 40 characters."""

    async def open(self, request: GenerationRequest) -> Any:
        assert isinstance(request.prompt, ChatPrompt)
        size = sum(len(message.text) for message in request.prompt.messages)
        if size > 40:
            self.requests.append(request)
            raise PromptTooLongError(num_tokens=size, maximum=40)
        return await ScriptedGenerator.open(self, request)


@pytest.mark.parametrize("stream", [False, True])
async def test_automatic_truncation_drops_the_oldest_turns_and_says_how_many(stream: bool) -> None:
    turns = [
        turn
        for number in range(6)
        for turn in (
            {"role": "user", "content": f"question {number}"},
            {"type": "message", "role": "assistant", "content": f"answer {number}"},
        )
    ]
    body = {"model": "tiny", "instructions": "Be brief.", "input": [*turns, *HELLO], "stream": stream}
    generator = Short()
    answer = await client(generator).post("/v1/responses", {**body, "truncation": "auto"})
    assert answer.status == 200, answer.content
    prompt = generator.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    texts = [message.text for message in prompt.messages]
    assert texts[0] == "Be brief."
    assert texts[-1] == "hello"
    assert texts[1].startswith("question")
    num_dropped = 6 - sum(text.startswith("question") for text in texts)
    assert num_dropped > 0
    assert answer.headers["x-semantic-adjusted"] == f"turns_dropped={num_dropped}"
    assert (await client(Short()).post("/v1/responses", body)).status == 400


async def test_a_newest_turn_that_is_too_long_alone_is_refused() -> None:
    body = {"model": "tiny", "input": "x" * 100, "truncation": "auto"}
    answer = await client(Short()).post("/v1/responses", body)
    assert answer.json["error"]["code"] == "context_length_exceeded"


CUT: Script = [
    ToolCallStarted(0, "c1", "f"),
    ToolCallDelta(0, '{"a": "x", "b": "the s'),
    Finished(FinishReason.LENGTH, USAGE),
]


async def test_a_call_that_was_cut_ends_with_length_and_keeps_its_raw_arguments() -> None:
    asked = client(ScriptedGenerator(CUT))
    chat = (await asked.post("/v1/chat/completions", {"model": "tiny", "messages": HELLO})).json["choices"][0]
    assert chat["finish_reason"] == "length"
    assert chat["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": "x", "b": "the s'
    response = (await asked.post("/v1/responses", {"model": "tiny", "input": "hello"})).json
    assert (response["status"], response["output"][0]["status"]) == ("incomplete", "incomplete")
    assert response["output"][0]["arguments"] == '{"a": "x", "b": "the s'
    message = (await asked.post("/v1/messages", {"model": "tiny", "max_tokens": 7, "messages": HELLO})).json
    assert message["stop_reason"] == "max_tokens"
    assert message["content"][0]["input"] == {"a": "x"}
    told = (await asked.post("/v1/agents/ann/generate", {"prompt": "hello"})).json
    assert (told["finish_reason"], told["tool_calls"][0]["arguments"]) == ("length", '{"a": "x", "b": "the s')


HALF: Script = [
    ToolCallStarted(0, "c1", "f"),
    ToolCallDelta(0, '{"a": "Par'),
    ToolCallBroken(0, '{"name": "f", "arguments": {"a": "Par'),
    Finished(FinishReason.STOP, USAGE),
]


async def test_half_a_call_is_text_and_no_tool_call() -> None:
    asked = client(ScriptedGenerator(HALF))
    text = '{"name": "f", "arguments": {"a": "Par'
    chat_body = {"model": "tiny", "messages": HELLO}
    chat = (await asked.post("/v1/chat/completions", chat_body)).json["choices"][0]
    assert (chat["finish_reason"], chat["message"]["content"]) == ("stop", text)
    assert not chat["message"].get("tool_calls")
    (item,) = (await asked.post("/v1/responses", {"model": "tiny", "input": "hello"})).json["output"]
    assert (item["type"], item["content"][0]["text"]) == ("message", text)
    message_body = {**chat_body, "max_tokens": 7}
    message = (await asked.post("/v1/messages", message_body)).json
    assert (message["stop_reason"], [part["text"] for part in message["content"]]) == ("end_turn", [text])
    told = (await asked.post("/v1/agents/ann/generate", {"prompt": "hello"})).json
    assert (told["finish_reason"], told["text"]) == ("stop", text)

    chunks = events(await asked.post("/v1/chat/completions", {**chat_body, "stream": True}))
    assert [reason for c in chunks if (reason := c["choices"][0]["finish_reason"])] == ["stop"]
    parts = events(await asked.post("/v1/messages", {**message_body, "stream": True}))
    assert [p["delta"]["stop_reason"] for p in parts if p["type"] == "message_delta"] == ["end_turn"]
    parts = events(await asked.post("/v1/responses", {"model": "tiny", "input": "hello", "stream": True}))
    assert [p["item"]["status"] for p in parts if p["type"] == "response.output_item.done"] == ["incomplete"]
    lines = (await asked.post("/api/chat", {**chat_body, "stream": True})).content.decode()
    assert "tool_calls" not in lines
    assert json.dumps(text) in lines


@pytest.mark.parametrize(
    ("url", "fields", "sampled"),
    [
        ("/v1/chat/completions", {"max_tokens": -1, "top_k": -1, "seed": -1}, (None, 0, None)),
        ("/v1/chat/completions", {"max_completion_tokens": -1}, (None, 0, None)),
        ("/v1/completions", {"max_tokens": -1, "top_k": -1, "seed": 5}, (None, 0, 5)),
        ("/v1/responses", {"max_output_tokens": -1}, (None, 0, None)),
        ("/v1/messages", {"top_k": -1}, (10, 0, None)),
        ("/v1/agents/ann/generate", {"max_tokens": -1, "top_k": -1}, (None, 0, None)),
    ],
)
async def test_minus_one_stands_for_no_limit(
    url: str, fields: dict[str, Any], sampled: tuple[int | None, ...]
) -> None:
    generator = ScriptedGenerator()
    body = {"prompt": "hello"} if "agents" in url else {"model": "tiny", **BODIES[url]}
    answer = await client(generator).post(url, {**body, **fields})
    assert answer.status == 200, answer.content
    sampling = generator.requests[0].sampling
    assert (sampling.max_tokens, sampling.top_k, sampling.seed) == sampled


async def test_a_text_that_was_cut_inside_a_character_is_taken() -> None:
    generator = ScriptedGenerator()
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "cut \\ud83d"}]}'
    assert (await client(generator).post("/v1/chat/completions", body)).status == 200
    prompt = generator.requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[0].text == "cut \N{REPLACEMENT CHARACTER}"


LOOSE: list[tuple[str, dict[str, Any], str]] = [
    (
        "/v1/chat/completions",
        {"messages": [*HELLO, {"role": "tool", "tool_call_id": "c", "content": "x"}]},
        "orphan_tool_result=1",
    ),
    (
        "/v1/messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]}
            ]
        },
        "orphan_tool_result=1",
    ),
    (
        "/v1/responses",
        {"input": [*HELLO, {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]},
        "missing_tool_result=1",
    ),
    ("/v1/chat/completions", {"messages": [*HELLO, {"role": "user", "content": ""}]}, "empty_content=1"),
    ("/v1/chat/completions", {"stop": list("abcde")}, "many_stop_strings=1"),
    ("/v1/chat/completions", {"stream_options": {}}, "stream_options_without_stream=1"),
    ("/v1/completions", {"stop": list("abcde")}, "many_stop_strings=1"),
]


@pytest.mark.parametrize(("url", "fields", "words"), LOOSE)
async def test_what_agents_send_after_a_compaction_is_answered_and_named_or_refused(
    url: str, fields: dict[str, Any], words: str
) -> None:
    body = {"model": "tiny", **BODIES[url], **fields}
    answer = await client().post(url, body)
    assert (answer.status, answer.headers["x-semantic-adjusted"]) == (200, words)
    strict = await client(config=HttpConfig(strict=True)).post(url, body)
    assert strict.status == 400, strict.content


async def test_a_sub_agent_is_an_agent_of_its_own_below_its_session() -> None:
    generator = ScriptedGenerator()
    body = {"model": "tiny", "max_tokens": 5, "messages": HELLO}
    for headers in ({}, {"x-claude-code-agent-id": "a1"}, {"x-claude-code-agent-id": "a b/" * 60}):
        given = {"x-session-id": "session", **headers}
        assert (await client(generator).post("/v1/messages", body, headers=given)).status == 200
    main, sub, odd = (str(request.agent_id) for request in generator.requests)
    assert (main, sub) == ("session", "session.a1")
    assert odd.startswith("session.user-")


@pytest.mark.parametrize(
    "headers",
    [
        {"x-session-id": "a", "x-claude-code-agent-id": "a./../x y"},
        {"x-session-id": "a", "x-claude-code-agent-id": "a." + "b" * 200},
        {"x-session-id": "a", "x-claude-code-agent-id": "a.\xe9"},
        {"x-session-id": "a", "x-claude-code-agent-id": "a\t"},
        {"x-session-affinity": "/ /", "x-claude-code-agent-id": "/ /./ /"},
        {"x-session-id": "a", "x-parent-session-id": "a./../x y"},
        {"x-session-affinity": "a./../x y", "x-parent-session-id": "a"},
        {"x-session-affinity": "a./../x y", "x-codex-parent-thread-id": "../a b"},
    ],
)
async def test_whatever_names_a_sub_agent_its_id_can_stand_in_a_path(headers: dict[str, str]) -> None:
    generator = ScriptedGenerator()
    body = {"model": "tiny", "max_tokens": 5, "messages": HELLO}
    assert (await client(generator).post("/v1/messages", body, headers=headers)).status == 200
    (request,) = generator.requests
    assert request.agent_id is not None
    assert is_agent_id(request.agent_id)


@pytest.mark.parametrize("url", ["/v1/messages", "/v1/chat/completions", "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"x-session-affinity": "ses_a"}, "ses_a"),
        ({"x-session-id": "ses_b", "x-parent-session-id": "ses_a"}, "ses_a.ses_b"),
        ({"x-session-affinity": "ses_b", "x-parent-session-id": "ses_a"}, "ses_a.ses_b"),
        ({"x-session-id": "ses_a", "x-parent-session-id": "ses_a"}, "ses_a"),
        ({"x-session-id": "ses_a.ses_b", "x-parent-session-id": "ses_a"}, "ses_a.ses_b"),
    ],
)
async def test_a_session_that_works_for_another_is_an_agent_below_it(
    url: str, headers: dict[str, str], name: str
) -> None:
    generator = ScriptedGenerator()
    body = {"model": "tiny", **BODIES[url]}
    assert (await client(generator).post(url, body, headers=headers)).status == 200
    assert generator.requests[0].agent_id == name


THOUGHT: Script = [ThinkingDelta("It "), ThinkingDelta("rains."), "Rain."]
SEALED = {"include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}, "store": False}


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_is_summarized_and_sealed_where_that_is_asked_and_comes_back(stream: bool) -> None:
    generator = ScriptedGenerator(THOUGHT)
    asked = client(generator)
    body = {"model": "tiny", "input": HELLO, **SEALED}
    answer = await asked.post("/v1/responses", {**body, "stream": stream})
    told = events(answer)
    response = told[-1]["response"] if stream else answer.json
    assert response["reasoning"]["summary"] == "auto"
    thought = response["output"][0]
    assert thought["summary"] == [{"type": "summary_text", "text": "It rains."}]
    if stream:
        names = [event["type"] for event in told if "reasoning" in event["type"]]
        assert names == [
            "response.reasoning_summary_part.added",
            "response.reasoning_summary_text.delta",
            "response.reasoning_summary_text.delta",
            "response.reasoning_summary_text.done",
            "response.reasoning_summary_part.done",
        ]
    # What an SDK sends back that keeps nothing but the sealed text.
    kept = {"type": "reasoning", "summary": [], "encrypted_content": thought["encrypted_content"]}
    await asked.post("/v1/responses", {**body, "input": [*HELLO, kept, response["output"][1], *HELLO]})
    prompt = generator.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[1] == Message("assistant", (ThinkingPart("It rains."), TextPart("Rain.")))


async def test_thinking_of_a_stored_response_goes_on_though_it_was_summarized() -> None:
    generator = ScriptedGenerator(THOUGHT)
    asked = client(generator)
    first = (
        await asked.post("/v1/responses", {"model": "tiny", "input": HELLO, "reasoning": {"summary": "auto"}})
    ).json
    again = {"model": "tiny", "input": "more", "previous_response_id": first["id"]}
    assert (await asked.post("/v1/responses", again)).status == 200
    prompt = generator.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[1].parts == (ThinkingPart("It rains."), TextPart("Rain."))


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("app://obsidian.md", True),
        ("vscode-webview://1a2b", True),
        ("http://localhost:3000", True),
        ("http://localhost.evil.example", False),
        ("http://evil.example/app://", False),
    ],
)
async def test_an_origin_may_be_allowed_by_a_pattern(origin: str, allowed: bool) -> None:
    config = HttpConfig(cors_origins=("app://*", "vscode-webview://*", "http://localhost:*"))
    answer = await client(config=config).get("/health", headers={"origin": origin})
    assert (answer.headers.get("access-control-allow-origin") == origin) is allowed


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("max_tokens", "reason"), [(7, "max_tokens"), (8, "model_context_window_exceeded"), (32_000, None)]
)
async def test_an_answer_that_filled_the_context_before_its_limit_says_so(
    max_tokens: int, reason: str | None, stream: bool
) -> None:
    asked = client(ScriptedGenerator(["Hi", Finished(FinishReason.LENGTH, USAGE)]))
    body = {"model": "tiny", "max_tokens": max_tokens, "messages": HELLO, "stream": stream}
    answer = await asked.post("/v1/messages", body)
    ended = events(answer)[-2]["delta"] if stream else answer.json
    usage = events(answer)[-2]["usage"] if stream else answer.json["usage"]
    assert ended["stop_reason"] == (reason or "model_context_window_exceeded")
    assert usage["output_tokens_details"] == {"thinking_tokens": USAGE.reasoning_tokens}


def missed(cause: str | None, agent: str = "ann") -> ScriptedGenerator:
    miss = None if cause is None else CacheMiss(8, cause)
    usage = replace(USAGE, cache=replace(CACHE, miss=miss))
    return ScriptedGenerator(
        lambda request: [
            Started(request.request_id, TINY, AgentId(agent), usage.cache),
            "Hi",
            Finished(FinishReason.STOP, usage),
        ]
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (None, None),
        ("model_changed", "model_changed"),
        ("date_changed", "system_changed"),
        ("tools_reordered", "tools_changed"),
        ("thinking_dropped", "messages_changed"),
        ("evicted", "unavailable"),
        ("a cause of a later version", "unavailable"),
    ],
)
async def test_a_message_says_why_its_prompt_left_the_cache_where_it_is_asked(
    cause: str | None, kind: str | None, stream: bool
) -> None:
    asked = client(missed(cause))
    body = {"model": "tiny", "max_tokens": 9, "messages": HELLO}
    first = (await asked.post("/v1/messages", body)).json
    assert first["diagnostics"] is None

    async def diagnosed(previous_id: str, **headers: str) -> Any:
        more = {**body, "stream": stream, "diagnostics": {"previous_message_id": previous_id}}
        answer = await asked.post("/v1/messages", more, headers=headers)
        return (events(answer)[0]["message"] if stream else answer.json)["diagnostics"]

    found = await diagnosed(first["id"])
    assert (found and found["cache_miss_reason"]["type"]) == kind
    if kind not in (None, "unavailable"):
        assert found["cache_miss_reason"]["cache_missed_input_tokens"] == CACHE.computed_tokens
    assert await diagnosed("msg_of_another_server") == {
        "cache_miss_reason": {"type": "previous_message_not_found"}
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("cause", "shown"),
    [
        (None, {"type": "cache_hit"}),
        ("evicted", {"type": "unavailable"}),
        (
            "system_changed",
            {
                "type": "cache_miss",
                "reason": "input_changed",
                "cache_missed_tokens": CACHE.computed_tokens,
                "comparison_reusable_tokens": CACHE.cached_tokens,
            },
        ),
    ],
)
async def test_a_response_says_why_its_prompt_left_the_cache_where_it_is_asked(
    cause: str | None, shown: dict[str, Any], stream: bool
) -> None:
    asked = client(missed(cause))
    plain = {"model": "tiny", "input": "hello", "user": "ann"}
    first = (await asked.post("/v1/responses", plain)).json
    assert "prompt_cache_diagnostics" not in first

    async def diagnosed(**more: Any) -> dict[str, Any]:
        options = {"comparison_response_id": first["id"]}
        body = {**plain, "stream": stream, "prompt_cache_options": options, **more}
        answer = await asked.post("/v1/responses", body)
        response: dict[str, Any] = events(answer)[-1]["response"] if stream else answer.json
        return response

    found = await diagnosed()
    assert found["prompt_cache_diagnostics"] == shown
    assert found["prompt_cache_options"]["comparison_response_id"] == first["id"]
    if shown["type"] == "cache_miss":
        other = await diagnosed(user="bob")
        assert other["prompt_cache_diagnostics"]["reason"] == "prompt_cache_key_changed"
    unknown = await diagnosed(prompt_cache_options={"comparison_response_id": "resp_no", "ttl": "12h"})
    assert unknown["prompt_cache_diagnostics"] == {"type": "comparison_response_not_found"}
    assert unknown["prompt_cache_options"]["ttl"] == "12h"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/completions", {"prompt": [[1, 2], [3]]}),
    ],
)
async def test_a_bias_of_an_id_that_is_no_token_is_refused_before_anything_is_answered(
    url: str, asked: dict[str, Any], stream: bool
) -> None:
    async with ServiceRig() as rig:
        # The fakes' services take any generator.
        edge = client(rig.generate)  # type: ignore[arg-type]
        body = {"model": "default", "max_tokens": 2, "stream": stream, **asked}
        answer = await edge.post(url, {**body, "logit_bias": {"1": 1, "100257": -100}})
        assert answer.status == 400
        assert answer.json["error"]["param"] == "logit_bias.100257"
        assert "outside the model's vocabulary" in answer.json["error"]["message"]
        assert (await edge.post(url, {**body, "logit_bias": {"1": 1}})).status == 200
