"""The official SDKs against a real socket, with their strict validation: the cheapest third-party check there is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.domain.errors import EngineError, PromptTooLongError, QueueFullError
from semanticd.domain.generation import ThinkingDelta
from tests.fakes.engine_rig import wait_until
from tests.fakes.generator import ScriptedGenerator, call_script
from tests.fakes.http_server import serving
from tests.fakes.http_services import make_services

HELLO: Any = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ANTHROPIC_TOOL: Any = {"name": "weather", "description": "w", "input_schema": SCHEMA}
OPENAI_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
STRICT_TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": SCHEMA, "strict": True},
}
RESPONSES_TOOL: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}
STRICT_RESPONSES_TOOL: Any = {**RESPONSES_TOOL, "strict": True}

GENERATOR = ScriptedGenerator()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = create_app(make_services(GENERATOR), HttpConfig(api_keys=("k",), ping_interval_s=0.5))
    with serving(app) as address:
        yield address


@pytest.fixture
def generator() -> ScriptedGenerator:
    GENERATOR.__init__()  # type: ignore[misc]
    return GENERATOR


@pytest.fixture
def claude(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=url, api_key="k", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
def gpt(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key="k", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_anthropic_reads_a_message(claude: anthropic.Anthropic, generator: ScriptedGenerator) -> None:
    generator.script = [
        ThinkingDelta("hm"),
        "Hello",
        *call_script("weather", {"city": "Oslo"}, call_id="toolu_1"),
    ]
    message = claude.messages.create(model="tiny", max_tokens=5, messages=HELLO, tools=[ANTHROPIC_TOOL])
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[2].input == {"city": "Oslo"}  # type: ignore[union-attr]
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (30, 12)
    again: Any = [*HELLO, {"role": "assistant", "content": message.content}]
    again.append(
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "cold"}]}
    )
    claude.messages.create(model="claude-anything", max_tokens=5, messages=again, tools=[ANTHROPIC_TOOL])
    assert [m.role for m in generator.requests[-1].prompt.messages] == ["user", "assistant", "tool"]  # type: ignore[union-attr]


def test_anthropic_streams_a_message(claude: anthropic.Anthropic, generator: ScriptedGenerator) -> None:
    generator.script = [ThinkingDelta("hm"), "Hel", "lo", *call_script("weather", {"city": "Oslo"})]
    with claude.messages.stream(model="tiny", max_tokens=5, messages=HELLO, tools=[ANTHROPIC_TOOL]) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == "Hello"
    assert message.content[0].signature  # type: ignore[union-attr]
    assert message.content[-1].input == {"city": "Oslo"}  # type: ignore[union-attr]
    assert (message.usage.output_tokens, message.stop_reason) == (7, "tool_use")


def test_anthropic_counts_and_lists(claude: anthropic.Anthropic, generator: ScriptedGenerator) -> None:
    assert claude.messages.count_tokens(model="tiny", messages=HELLO).input_tokens == 1
    assert [model.id for model in claude.models.list()] == ["tiny"]
    assert claude.models.retrieve("claude-sonnet-4").id == "tiny"
    assert claude.models.retrieve("small").id == "tiny"


def test_anthropic_raises_the_error_classes(
    claude: anthropic.Anthropic, generator: ScriptedGenerator
) -> None:
    with pytest.raises(anthropic.NotFoundError, match="tiny"):
        claude.messages.create(model="none", max_tokens=5, messages=HELLO)
    generator.refusal = PromptTooLongError(num_tokens=9000, maximum=8191)
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(model="tiny", max_tokens=5, messages=HELLO)
    assert caught.value.body["error"]["message"].startswith("prompt is too long: 9000 tokens > 8191 maximum")  # type: ignore[index]
    assert caught.value.request_id
    generator.refusal = QueueFullError("full")
    with pytest.raises(anthropic.APIStatusError) as overloaded:
        claude.messages.create(model="tiny", max_tokens=5, messages=HELLO)
    assert overloaded.value.status_code == 529
    generator.refusal = None
    generator.script = ["some", EngineError("the step failed")]
    with (
        pytest.raises(anthropic.APIStatusError, match="the step failed"),
        claude.messages.stream(model="tiny", max_tokens=5, messages=HELLO) as stream,
    ):
        stream.get_final_message()
    with pytest.raises(anthropic.AuthenticationError):
        claude.with_options(api_key="wrong").messages.create(model="tiny", max_tokens=5, messages=HELLO)


def test_anthropic_keeps_sampling_from_the_new_version_only(
    claude: anthropic.Anthropic, generator: ScriptedGenerator
) -> None:
    raw: Any = {"model": "tiny", "max_tokens": 5, "messages": HELLO, "extra_body": {"temperature": 0.5}}
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        claude.messages.create(**raw)
    claude.messages.create(**raw, extra_headers={"anthropic-version": "2023-06-01"})
    assert generator.requests[-1].sampling.temperature == 0.5


def test_openai_reads_a_chat(gpt: openai.OpenAI, generator: ScriptedGenerator) -> None:
    generator.script = ["Hello", *call_script("weather", {"city": "Oslo"})]
    chat = gpt.chat.completions.create(
        model="tiny", messages=HELLO, tools=[OPENAI_TOOL], n=2, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in chat.choices] == [0, 1]
    choice = chat.choices[0]
    assert choice.message.content == "Hello"
    call = choice.message.tool_calls[0]  # type: ignore[index]
    assert json.loads(call.function.arguments) == {"city": "Oslo"}  # type: ignore[union-attr]
    assert choice.logprobs.content[0].top_logprobs[1].logprob == -2.0  # type: ignore[union-attr,index]
    assert chat.usage.prompt_tokens_details.cached_tokens == 12  # type: ignore[union-attr]


def test_openai_streams_a_chat(gpt: openai.OpenAI, generator: ScriptedGenerator) -> None:
    generator.script = ["Hel", "lo", *call_script("weather", {"city": "Oslo"})]
    with gpt.chat.completions.stream(
        model="tiny",
        messages=HELLO,
        tools=[STRICT_TOOL],
    ) as stream:
        final = stream.get_final_completion()
    message = final.choices[0].message
    assert message.content == "Hello"
    assert message.role == "assistant"
    assert message.tool_calls[0].function.name == "weather"  # type: ignore[index]
    assert message.tool_calls[0].id == "call_1"  # type: ignore[index]


def test_openai_completes_plain_prompts(gpt: openai.OpenAI, generator: ScriptedGenerator) -> None:
    done = gpt.completions.create(model="tiny", prompt=["a", "b"], echo=True, logprobs=1, max_tokens=0)
    assert [choice.text for choice in done.choices] == ["Hello world"] * 2
    assert done.choices[0].logprobs.text_offset == [0, 5]  # type: ignore[union-attr]
    assert generator.requests[-1].echo
    # Not strictly: the original's chunks have null reasons too.
    with openai.OpenAI(base_url=str(gpt.base_url), api_key="k", max_retries=0) as relaxed:
        chunks = list(relaxed.completions.create(model="tiny", prompt="a", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello world"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_openai_responds_and_goes_on_from_what_is_stored(
    gpt: openai.OpenAI, generator: ScriptedGenerator
) -> None:
    generator.script = [ThinkingDelta("hm"), "Hello", *call_script("weather", {"city": "Oslo"})]
    first = gpt.responses.create(model="tiny", input="weather?", tools=[RESPONSES_TOOL], user="ann")
    assert first.output_text == "Hello"
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
    result: Any = [{"type": "function_call_output", "call_id": "call_1", "output": "cold"}]
    with gpt.responses.stream(
        model="tiny", input=result, previous_response_id=first.id, tools=[STRICT_RESPONSES_TOOL]
    ) as stream:
        second = stream.get_final_response()
    request = generator.requests[-1]
    assert [message.role for message in request.prompt.messages] == ["user", "assistant", "tool"]  # type: ignore[union-attr]
    assert request.agent_id == "ann"
    assert gpt.responses.retrieve(second.id).previous_response_id == first.id
    gpt.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(second.id)
    with pytest.raises(openai.BadRequestError) as caught:
        gpt.responses.create(model="tiny", input="x", previous_response_id=second.id)
    assert caught.value.code == "previous_response_not_found"
    unkept = gpt.responses.create(model="tiny", input="x", store=False)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(unkept.id)


def test_openai_streams_responses_event_by_event(gpt: openai.OpenAI, generator: ScriptedGenerator) -> None:
    generator.script = ["Hel", "lo"]
    events = list(gpt.responses.create(model="tiny", input="hi", stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_openai_lists_models_and_raises_the_error_classes(
    gpt: openai.OpenAI, generator: ScriptedGenerator
) -> None:
    assert [model.id for model in gpt.models.list()] == ["tiny"]
    assert gpt.models.retrieve("tiny").owned_by == "semanticd"
    with pytest.raises(openai.NotFoundError) as missing:
        gpt.chat.completions.create(model="none", messages=HELLO)
    assert missing.value.code == "model_not_found"
    assert missing.value.request_id
    with pytest.raises(openai.BadRequestError) as bad:
        gpt.chat.completions.create(model="tiny", messages=HELLO, temperature=3)
    assert bad.value.param == "temperature"
    generator.refusal = PromptTooLongError(num_tokens=9000, maximum=8191)
    with pytest.raises(openai.BadRequestError) as long:
        gpt.chat.completions.create(model="tiny", messages=HELLO)
    assert long.value.code == "context_length_exceeded"
    generator.refusal = None
    generator.script = ["some", EngineError("the step failed")]
    with pytest.raises(openai.APIError, match="the step failed"):
        list(gpt.chat.completions.create(model="tiny", messages=HELLO, stream=True))


def test_a_socket_that_closes_stops_the_engine(url: str, generator: ScriptedGenerator) -> None:
    generator.script = lambda _: ["Hello", asyncio.Event()]
    body = {"model": "tiny", "max_tokens": 5, "messages": HELLO, "stream": True}
    with (
        httpx.Client(base_url=url, headers={"x-api-key": "k"}, timeout=60) as client,
        client.stream("POST", "/v1/messages", json=body) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "event: message_start"
        assert generator.num_active == 1
    wait_until(lambda: generator.num_active == 0)
