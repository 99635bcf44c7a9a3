"""JSON inside of a text, nested as deep as one likes: answered or refused in every dialect, never a server's failure.

The scripted generator writes each prompt through a real tokenizer's template, as the engine's queue does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.mlx.model.weights import load_tokenizer
from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer
from semanticd.domain.chat import ChatPrompt, Prompt
from semanticd.domain.generation import GenerationRequest
from semanticd.domain.limits import LIMITS
from tests.fakes.agents_service import FakeAgents
from tests.fakes.asgi_client import Answer, AsgiClient
from tests.fakes.generator import ScriptedGenerator
from tests.fakes.http_services import make_services
from tests.fakes.tiny_folder import write_tiny_model

DEPTHS = (1, 2, 60, 63, 64, 65, 100, 300, 400, *range(450, 1000, 25), 1000, 1500, 2000)
ASKED = {"role": "user", "content": "hi"}


def nested(depth: int) -> str:
    """Return the JSON text of an object that is `depth` levels deep."""
    return '{"a":' + "[" * (depth - 1) + "1" + "]" * (depth - 1) + "}" if depth > 1 else '{"a":1}'


def chat(text: str) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": text}}
    result = {"role": "tool", "tool_call_id": "c1", "content": "cold"}
    answered = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"model": "tiny", "messages": [ASKED, answered, result, ASKED]}


def function_call(text: str) -> dict[str, Any]:
    old = {"role": "assistant", "content": "", "function_call": {"name": "look", "arguments": text}}
    return {"model": "tiny", "messages": [ASKED, old, ASKED]}


def responses(text: str) -> dict[str, Any]:
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": text}
    result = {"type": "function_call_output", "call_id": "c1", "output": "cold"}
    return {"model": "tiny", "input": [ASKED, call, result, ASKED]}


def messages(text: str) -> dict[str, Any]:
    call = {"type": "tool_use", "id": "c1", "name": "look", "input": text}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "cold"}
    turns = [ASKED, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    return {"model": "tiny", "max_tokens": 5, "messages": turns}


def counted(text: str) -> dict[str, Any]:
    return {name: value for name, value in messages(text).items() if name != "max_tokens"}


def ollama(text: str) -> dict[str, Any]:
    call = {"function": {"name": "look", "arguments": text}}
    turns = [ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}, ASKED]
    return {"model": "tiny", "stream": False, "messages": turns}


def agents(text: str) -> dict[str, Any]:
    call = {"id": "c1", "name": "look", "arguments": text}
    result = {"role": "tool", "tool_call_id": "c1", "content": "cold"}
    return {"messages": [ASKED, {"role": "assistant", "tool_calls": [call]}, result]}


def guided(text: str) -> dict[str, Any]:
    return {"model": "tiny", "messages": [ASKED], "guided_json": text}


def structured(text: str) -> dict[str, Any]:
    return {"model": "tiny", "messages": [ASKED], "structured_outputs": {"json": text}}


DIALECTS: tuple[tuple[str, Callable[[str], dict[str, Any]]], ...] = (
    ("/v1/chat/completions", chat),
    ("/v1/chat/completions", function_call),
    ("/v1/tokenize", chat),
    ("/v1/responses", responses),
    ("/v1/responses/input_tokens", responses),
    ("/v1/messages", messages),
    ("/v1/messages/count_tokens", counted),
    ("/api/chat", ollama),
    ("/v1/agents/ann/generate", agents),
)
SCHEMAS = (("/v1/chat/completions", guided), ("/v1/chat/completions", structured))


@dataclass
class Writing(ScriptedGenerator):
    """Writes each prompt as text before it answers."""

    tokenizer: MlxTokenizer | None = None

    def _write(self, prompt: Prompt) -> None:
        assert self.tokenizer is not None
        if isinstance(prompt, ChatPrompt):
            self.tokenizer.render(prompt)
            self.tokenizer.output_parser(prompt)

    async def open(self, request: GenerationRequest) -> Any:
        self._write(request.prompt)
        return await super().open(request)

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        self._write(prompt)
        return await super().count_tokens(model, prompt)

    async def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...]:
        self._write(prompt)
        return tuple(await super().tokenize(model, prompt))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> MlxTokenizer:
    folder: Path = write_tiny_model(tmp_path_factory.mktemp("nested"))
    return MlxTokenizer(load_tokenizer(folder))


@pytest.fixture
def client(tokenizer: MlxTokenizer) -> AsgiClient:
    services = make_services(Writing(tokenizer=tokenizer), agents=FakeAgents("ann"))
    return AsgiClient(create_app(services, HttpConfig()), headers={"host": "localhost"})


async def answers(client: AsgiClient, path: str, body: Callable[[str], dict[str, Any]]) -> dict[int, Answer]:
    return {depth: await client.post(path, body(nested(depth))) for depth in DEPTHS}


@pytest.mark.parametrize(("path", "body"), DIALECTS)
async def test_arguments_as_text_are_answered_at_every_depth(
    client: AsgiClient, path: str, body: Callable[[str], dict[str, Any]]
) -> None:
    found = await answers(client, path, body)
    assert {depth: answer.status for depth, answer in found.items() if answer.status != 200} == {}


@pytest.mark.parametrize(("path", "body"), SCHEMAS)
async def test_a_schema_as_text_is_refused_where_a_body_would_be(
    client: AsgiClient, path: str, body: Callable[[str], dict[str, Any]]
) -> None:
    found = await answers(client, path, body)
    accepted = {depth for depth, answer in found.items() if answer.status == 200}
    assert accepted == {depth for depth in DEPTHS if depth <= LIMITS.nesting}
    assert {answer.status for answer in found.values()} == {200, 400}
    assert "its JSON text" in found[500].json["error"]["message"]


async def test_what_ends_pythons_stack_anyhow_is_a_refusal_and_no_failure(tokenizer: MlxTokenizer) -> None:
    generator = ScriptedGenerator(refusal=RecursionError("maximum recursion depth exceeded"))
    client = AsgiClient(create_app(make_services(generator), HttpConfig()), headers={"host": "localhost"})
    answer = await client.post("/v1/messages", messages("{}"))
    assert answer.status == 400
    assert answer.json["error"]["type"] == "invalid_request_error"
