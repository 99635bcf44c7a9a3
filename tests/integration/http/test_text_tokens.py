"""`/tokenize` and `/detokenize`, as clients of vLLM and of llama.cpp's server send them."""

from __future__ import annotations

from typing import Any

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.application.generation.text_tokens import ReadText, TextToRead
from semanticd.domain.chat import ChatPrompt, Message
from semanticd.domain.errors import QueueFullError
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.generator import ScriptedGenerator
from tests.fakes.http_services import make_services

HELLO = [{"role": "user", "content": "hello there"}]


def edge(**config: Any) -> tuple[AsgiClient, ScriptedGenerator]:
    generator = ScriptedGenerator()
    return AsgiClient(create_app(make_services(generator), HttpConfig(**config))), generator


async def test_a_prompt_is_tokenized_as_vllm_does() -> None:
    client, generator = edge()
    answer = await client.post("/tokenize", {"model": "tiny", "prompt": "a b c"})
    assert answer.json == {"count": 3, "max_model_len": 8192, "tokens": [0, 1, 2], "token_strs": None}
    (read,) = generator.read
    assert (read.source, read.add_special, read.parse_special) == ("a b c", True, True)
    body = {"prompt": "a b", "add_special_tokens": False, "return_token_strs": True}
    assert (await client.post("/tokenize", body)).json["token_strs"] == ["a", "b"]
    assert generator.read[-1].add_special is False


async def test_a_content_is_tokenized_as_llama_cpps_server_does() -> None:
    client, generator = edge()
    assert (await client.post("/tokenize", {"content": "a b"})).json["tokens"] == [0, 1]
    assert (generator.read[-1].add_special, generator.read[-1].parse_special) == (False, True)
    body = {"content": "a b", "add_special": True, "parse_special": False, "with_pieces": True}
    answer = await client.post("/tokenize", body)
    assert answer.json["tokens"] == [{"id": 0, "piece": "a"}, {"id": 1, "piece": "b"}]
    assert (generator.read[-1].add_special, generator.read[-1].parse_special) == (True, False)


@pytest.mark.parametrize(
    ("more", "begins", "continues"),
    [
        ({}, True, False),
        ({"add_generation_prompt": False}, False, False),
        ({"add_generation_prompt": False, "continue_final_message": True}, True, True),
    ],
)
async def test_a_conversation_is_tokenized_with_its_tools(
    more: dict[str, bool], begins: bool, continues: bool
) -> None:
    client, generator = edge()
    tools = [{"type": "function", "function": {"name": "weather"}}]
    answer = await client.post("/tokenize", {"model": "tiny", "messages": HELLO, "tools": tools, **more})
    assert answer.json["count"] == 2
    (read,) = generator.read
    assert isinstance(read.source, ChatPrompt)
    assert read.source.messages == (Message.of("user", "hello there"),)
    assert [tool.name for tool in read.source.tools] == ["weather"]
    assert (read.add_generation_prompt, read.source.continues) == (begins, continues)


async def test_ids_become_text_under_both_names() -> None:
    client, _ = edge()
    answer = await client.post("/detokenize", {"model": "tiny", "tokens": [3, 1]})
    assert answer.json == {"prompt": "word3 word1", "content": "word3 word1"}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/tokenize", {}, 400, "one of prompt, content and messages"),
        ("/tokenize", {"prompt": "a", "content": "a"}, 400, "one of prompt, content and messages"),
        ("/tokenize", {"prompt": ["a"]}, 400, "prompt"),
        ("/tokenize", {"messages": []}, 400, "messages"),
        ("/tokenize", {"messages": HELLO * 3}, 400, "at most 2 messages"),
        ("/tokenize", {"model": "nothing", "prompt": "a"}, 404, "nothing"),
        ("/detokenize", {"tokens": ["a"]}, 400, "tokens.0"),
        ("/detokenize", {"model": "nothing", "tokens": [1]}, 404, "nothing"),
    ],
)
async def test_what_cannot_be_read_is_refused(path: str, body: Any, status: int, said: str) -> None:
    client, _ = edge(max_messages=2)
    answer = await client.post(path, body)
    assert answer.status == status
    assert said in answer.json["error"]["message"]


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_both_need_a_key_and_count_as_requests(path: str) -> None:
    client, _ = edge(api_keys=("k",), rate_limit_global=1)
    body = {"prompt": "a"} if path == "/tokenize" else {"tokens": [1]}
    assert (await client.post(path, body)).status == 401
    statuses = [(await client.post(path, body, headers={"x-api-key": "k"})).status for _ in range(8)]
    assert statuses[0] == 200
    assert statuses[-1] == 429


class FullGenerator(ScriptedGenerator):
    """Has no place left."""

    async def encode(self, model: str, text: TextToRead) -> ReadText:
        raise QueueFullError("full")


async def test_a_full_queue_is_said() -> None:
    client = AsgiClient(create_app(make_services(FullGenerator()), HttpConfig()))
    assert (await client.post("/tokenize", {"prompt": "a"})).status == 503
