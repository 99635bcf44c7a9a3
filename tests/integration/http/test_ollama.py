"""The Ollama dialect, by its official Python client over a real socket, and by its wire where that says more."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import ollama
import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.ollama.catalogue import description
from semanticd.application.ports.models import PullProgress
from semanticd.application.services.model_facts import ModelFacts, PulledModel
from semanticd.domain.chat import ChatPrompt, Message, TextPrompt, ToolCallPart, ToolResultPart
from semanticd.domain.errors import EngineError, ModelDownloadError, PromptTooLongError, QueueFullError
from semanticd.domain.generation import Finished, FinishReason, ThinkingDelta, ToolCallDelta, ToolCallStarted
from tests.fakes.asgi_client import AsgiClient, until
from tests.fakes.generator import USAGE, ScriptedGenerator, call_script
from tests.fakes.http_server import serving
from tests.fakes.http_services import make_services
from tests.fakes.models_service import FakeModels

HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "w", "parameters": SCHEMA}}
IMAGE = "iVBORw0KGgo="

GENERATOR = ScriptedGenerator()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(
        create_app(make_services(GENERATOR), HttpConfig(ping_interval_s=0.2, version="1.2"))
    ) as address:
        yield address


@pytest.fixture
def generator() -> ScriptedGenerator:
    GENERATOR.__init__()  # type: ignore[misc]
    return GENERATOR


@pytest.fixture
def client(url: str, generator: ScriptedGenerator) -> Iterator[ollama.Client]:
    with ollama.Client(host=url) as made:
        yield made


def conversation(generator: ScriptedGenerator) -> ChatPrompt:
    prompt = generator.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt


def test_a_conversation_is_answered_whole_and_streamed(
    client: ollama.Client, generator: ScriptedGenerator
) -> None:
    generator.script = ["Hi", " there"]
    whole = client.chat("tiny", messages=HELLO)
    assert (whole.message.role, whole.message.content) == ("assistant", "Hi there")
    assert (whole.done, whole.done_reason, whole.prompt_eval_count, whole.eval_count) == (True, "stop", 42, 7)
    pieces = list(client.chat("tiny:latest", messages=HELLO, stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == "Hi there"
    assert [piece.done for piece in pieces] == [False, False, True]
    assert pieces[-1].prompt_eval_count == 42
    assert [request.model for request in generator.requests] == ["tiny", "tiny"]


def test_a_prompt_is_answered_with_its_system_text_or_raw(
    client: ollama.Client, generator: ScriptedGenerator
) -> None:
    generator.script = ["Hi"]
    assert client.generate("tiny", prompt="hello", system="Be kind.").response == "Hi"
    assert conversation(generator).messages == (Message.of("system", "Be kind."), Message.of("user", "hello"))
    assert [piece.response for piece in client.generate("tiny", prompt="hello", stream=True)] == ["Hi", ""]
    client.generate("tiny", prompt="once", raw=True)
    assert generator.requests[-1].prompt == TextPrompt("once")


def test_options_choose_how_tokens_are_chosen(client: ollama.Client, generator: ScriptedGenerator) -> None:
    client.chat("tiny", messages=HELLO, options={
        "num_predict": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 4, "min_p": 0.1, "seed": 7, "stop": ["x"],
        "repeat_penalty": 1.1, "repeat_last_n": 32, "num_ctx": 4096,
    })  # fmt: skip
    sampling = generator.requests[-1].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (5, 0.5, 0.9, 4)
    assert (sampling.min_p, sampling.seed, sampling.stop) == (0.1, 7, ("x",))
    assert (sampling.repetition_penalty, sampling.penalty_window) == (1.1, 32)
    for fits in (-2, -1, 0):
        client.chat("tiny", messages=HELLO, options={"num_predict": fits})
        assert generator.requests[-1].sampling.max_tokens is None
    penalties = {"repeat_penalty": 1.1, "presence_penalty": 1.0, "frequency_penalty": 1.0}
    client.chat("tiny", messages=HELLO, options={**penalties, "repeat_last_n": 0})
    sampling = generator.requests[-1].sampling
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1, 0, 0)


def test_a_form_is_enforced(client: ollama.Client, generator: ScriptedGenerator) -> None:
    client.chat("tiny", messages=HELLO, format="json")
    assert generator.requests[-1].constraint is not None
    assert generator.requests[-1].constraint.kind == "json_object"
    client.chat("tiny", messages=HELLO, format=SCHEMA)
    assert generator.requests[-1].constraint.kind == "json_schema"
    assert generator.requests[-1].constraint.schema == SCHEMA
    assert generator.requests[-1].constraint.param == "format"


def test_thinking_is_asked_for_and_kept_apart(client: ollama.Client, generator: ScriptedGenerator) -> None:
    generator.script = [ThinkingDelta("hm"), "So"]
    whole = client.chat("tiny", messages=HELLO, think=True)
    assert (whole.message.thinking, whole.message.content) == ("hm", "So")
    assert conversation(generator).template_options == {"enable_thinking": True}
    pieces = list(client.chat("tiny", messages=HELLO, think="high", stream=True))
    assert [piece.message.thinking for piece in pieces if piece.message.thinking] == ["hm"]
    assert conversation(generator).template_options["reasoning_effort"] == "high"


@pytest.mark.parametrize("streams", [False, True])
def test_tools_make_a_round_trip(client: ollama.Client, generator: ScriptedGenerator, streams: bool) -> None:
    generator.script = [*call_script("weather", {"city": "Oslo"}),
                        *call_script("weather", {"city": "Rome"}, call_id="call_2", index=1)]  # fmt: skip
    answer: Any = client.chat("tiny", messages=HELLO, tools=[TOOL], stream=streams)
    messages = [piece.message for piece in answer] if streams else [answer.message]
    calls = [call for message in messages for call in message.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("weather", {"city": "Oslo"}),
        ("weather", {"city": "Rome"}),
    ]
    assert [tool.name for tool in conversation(generator).tools] == ["weather"]
    generator.script = ["Rain"]
    client.chat("tiny", messages=[
        *HELLO, {"role": "assistant", "content": "", "tool_calls": [call.model_dump() for call in calls]},
        {"role": "tool", "tool_name": "weather", "content": "rain"}, {"role": "tool", "content": "sun"},
    ], tools=[TOOL])  # fmt: skip
    said = [part for message in conversation(generator).messages for part in message.parts]
    ids = [part.call_id for part in said if isinstance(part, ToolCallPart)]
    assert len(set(ids)) == 2
    results = [(part.call_id, part.content) for part in said if isinstance(part, ToolResultPart)]
    assert results == [(ids[0], "rain"), (ids[1], "sun")]


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("written", "members"),
    [
        ('{"city": "Oslo", "days": [1, 2', {"city": "Oslo"}),
        ('{"city": "Os', {}),
        ("", {}),
        ('{"city": "Oslo"}', {"city": "Oslo"}),
    ],
)
def test_of_a_call_that_is_cut_no_arguments_are_made_up(
    client: ollama.Client, generator: ScriptedGenerator, streams: bool, written: str, members: dict[str, Any]
) -> None:
    generator.script = [
        ToolCallStarted(0, "call_1", "weather"),
        ToolCallDelta(0, written),
        Finished(FinishReason.LENGTH, USAGE),
    ]
    answer: Any = client.chat("tiny", messages=HELLO, tools=[TOOL], stream=streams)
    messages = [piece.message for piece in answer] if streams else [answer.message]
    (call,) = [call for message in messages for call in message.tool_calls or []]
    assert call.function.arguments == members


def test_results_find_their_calls_by_id_then_by_name_then_by_order(
    url: str, generator: ScriptedGenerator
) -> None:
    calls = [{"id": call_id, "function": {"name": name}} for call_id, name in (
        ("a", "x"), ("b", "y"), ("c", "x"), ("d", "y"), ("b", "z"))]  # fmt: skip
    told: list[dict[str, str]] = [
        {"tool_call_id": "b", "tool_name": "x"}, {"tool_name": "y"}, {"tool_call_id": "lost", "tool_name": "x"}, {},
        {"tool_call_id": "b"}, {"tool_call_id": "b"}, {"tool_name": "y"}, {},
    ]  # fmt: skip
    results = [{"role": "tool", "content": "", **one} for one in told]
    messages = [*HELLO, {"role": "assistant", "content": "", "tool_calls": calls}, *results]
    answer = httpx.post(
        f"{url}/api/chat", json={"model": "tiny", "stream": False, "messages": messages}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    said = [part for message in conversation(generator).messages for part in message.parts]
    found = [part.call_id for part in said if isinstance(part, ToolResultPart)]
    assert found == ["b", "d", "a", "c", "b", "b", "y", "call"]


def test_the_catalogue_shows_what_answers(client: ollama.Client, url: str) -> None:
    assert [model.model for model in client.list().models] == ["tiny:latest"]
    assert [model.model for model in client.ps().models] == ["tiny:latest"]
    assert client.show("default").capabilities == ["completion", "tools"]
    assert client.show("ollama/TINY").capabilities == ["completion", "tools"], "as for a generation"
    shown = client.show("tiny:latest")
    assert shown.modelinfo is not None
    assert [value for key, value in shown.modelinfo.items() if key.endswith(".context_length")] == [8192]
    assert shown.capabilities == ["completion", "tools"]
    version = httpx.get(f"{url}/api/version", timeout=60).json()
    assert version["semanticd"] == "1.2"
    assert tuple(map(int, version["version"].split("."))) >= (0, 6, 4)


@pytest.mark.parametrize(
    ("details", "thinks"), [({}, False), ({"thinks": False}, False), ({"thinks": True}, True)]
)
def test_a_model_that_thinks_says_so(details: dict[str, Any], thinks: bool) -> None:
    shown = description(ModelFacts("m", loaded=True, details=details))
    assert shown["capabilities"] == ["completion", "tools", *(["thinking"] if thinks else [])]


def test_an_unloaded_model_has_the_date_of_its_files() -> None:
    assert description(ModelFacts("m", installed=True, modified_at=1_700_000_000.5))[
        "modified_at"
    ].startswith("2023-11-14T22:13:20")
    assert "modified_at" not in description(ModelFacts("m"))


def test_a_request_without_anything_to_answer_asks_for_the_model_alone(
    client: ollama.Client, generator: ScriptedGenerator
) -> None:
    assert client.generate("tiny").done_reason == "load"
    assert client.chat("tiny", keep_alive=-1).done_reason == "load"
    assert generator.requests == []
    with pytest.raises(ollama.ResponseError, match="nothing"):
        client.generate("nothing")


def test_what_is_not_read_is_said(url: str, generator: ScriptedGenerator) -> None:
    body = {"model": "tiny", "prompt": "x", "context": [1, 2], "keep_alive": "5m", "stream": False}
    answer = httpx.post(f"{url}/api/generate", json=body, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["x-semantic-adjusted"] == "context_ignored=1 keep_alive_ignored=1"


@pytest.mark.parametrize(
    ("ask", "status", "said"),
    [
        (lambda client: client.chat("nothing", messages=HELLO), 404, "nothing"),
        (lambda client: client.copy("tiny", "other"), 400, r"\[models.NAME\]"),
        (lambda client: client.generate("tiny", prompt="x", suffix="y"), 400, "suffix"),
        (lambda client: client.generate("tiny", prompt="x", images=[IMAGE]), 400, "text only"),
        (lambda client: client.chat("tiny", messages=HELLO, options={"temperature": -1}), 400, "temperature"),
        (lambda client: client.show("nothing"), 404, "nothing"),
    ],
)
def test_refusals_have_the_dialects_shape(client: ollama.Client, ask: Any, status: int, said: str) -> None:
    with pytest.raises(ollama.ResponseError, match=said) as refused:
        ask(client)
    assert refused.value.status_code == status


@pytest.mark.parametrize(
    ("error", "status"), [(QueueFullError("full"), 503), (PromptTooLongError(num_tokens=9, maximum=8), 400)]
)
def test_a_request_that_is_not_admitted_has_a_status(
    client: ollama.Client, generator: ScriptedGenerator, error: Exception, status: int
) -> None:
    generator.refusal = error
    with pytest.raises(ollama.ResponseError) as refused:
        list(client.chat("tiny", messages=HELLO, stream=True))
    assert refused.value.status_code == status


def test_a_stream_that_fails_ends_with_an_error_that_clients_raise(
    client: ollama.Client, generator: ScriptedGenerator
) -> None:
    generator.script = ["Hi", EngineError("the engine failed")]
    read: list[str] = []
    with pytest.raises(ollama.ResponseError, match="the engine failed"):
        read.extend(piece.message.content or "" for piece in client.chat("tiny", messages=HELLO, stream=True))


async def test_every_line_of_a_stream_is_a_document_also_after_a_silence() -> None:
    silence = asyncio.Event()
    generator = ScriptedGenerator(["Hi", silence, " there"])
    edge = AsgiClient(create_app(make_services(generator), HttpConfig(ping_interval_s=0.02)))
    asyncio.get_running_loop().call_later(0.2, silence.set)
    answer = await edge.post("/api/chat", {"model": "tiny", "messages": HELLO})
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = answer.content.decode().splitlines()
    assert lines[1].startswith("  "), "pings came"
    assert [json.loads(line)["done"] for line in lines] == [False, False, True]


def test_pulling_tells_how_far_it_is_and_deleting_is_an_operators(client: ollama.Client) -> None:
    assert client.pull("tiny").status == "success"
    assert [one.status for one in client.pull("tiny", stream=True)][-1] == "success"
    with pytest.raises(ollama.ResponseError) as refused:
        list(client.pull("nothing", stream=True))
    assert refused.value.status_code == 404
    assert client.delete("tiny").status == "success"


class SlowModels(FakeModels):
    """Fetches for as long as the test wants, and fails if it wants that."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__("tiny")
        self.go_on = asyncio.Event()
        self.outcome = "none"
        self.error = error

    async def pull(
        self, model: str, on_progress: Callable[[PullProgress], None] | None = None
    ) -> PulledModel:
        self.outcome = "fetching"
        try:
            await self.go_on.wait()
            if self.error is not None:
                raise self.error
            fetched = await super().pull(model, on_progress)
        except BaseException as error:
            self.outcome = type(error).__name__
            raise
        self.outcome = "fetched"
        return fetched


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("error", "outcome"), [(None, "fetched"), (ModelDownloadError("no disk"), "ModelDownloadError")]
)
async def test_a_client_that_hangs_up_does_not_end_a_download(
    streams: bool, error: Exception | None, outcome: str
) -> None:
    models = SlowModels(error)
    edge = AsgiClient(create_app(make_services(models=models), HttpConfig()))
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
    leave = asyncio.Event()
    body = {"model": "tiny", "stream": streams}
    exchange = asyncio.ensure_future(edge.post("/api/pull", body, leave=leave))
    await until(lambda: models.outcome == "fetching")
    leave.set()
    await asyncio.wait_for(exchange, 60)
    models.go_on.set()
    await until(lambda: models.outcome != "fetching")
    assert models.outcome == outcome
    gc.collect()
    await asyncio.sleep(0)
    assert unheard == []


def test_operators_commands_need_the_admin_key_where_there_are_keys() -> None:
    config = HttpConfig(api_keys=("k",), admin_key="a")
    with serving(create_app(make_services(), config)) as url:
        plain = {"Authorization": "Bearer k"}
        assert httpx.get(f"{url}/api/tags", timeout=60).status_code == 401
        assert httpx.get(f"{url}/api/tags", headers=plain, timeout=60).status_code == 200
        body = {"model": "tiny", "stream": False}
        assert httpx.post(f"{url}/api/pull", json=body, headers=plain, timeout=60).status_code == 401
        assert (
            httpx.post(f"{url}/api/pull", json=body, headers={"X-Admin-Key": "a"}, timeout=60).status_code
            == 200
        )


def test_the_session_header_names_the_agent_as_everywhere(url: str, generator: ScriptedGenerator) -> None:
    with ollama.Client(host=url, headers={"X-Session-ID": "kitchen"}) as client:
        client.chat("tiny", messages=HELLO)
    assert generator.requests[-1].agent_id == "kitchen"
