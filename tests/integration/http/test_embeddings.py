"""Vectors by the official clients of OpenAI and Ollama over a real socket, and what is refused."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import openai
import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.application.generation.embedding import EmbeddingRequest
from semanticd.domain.errors import QueueFullError
from semanticd.domain.limits import LIMITS
from tests.fakes.generator import ScriptedGenerator
from tests.fakes.http_server import serving
from tests.fakes.http_services import make_services

GENERATOR = ScriptedGenerator()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(create_app(make_services(GENERATOR), HttpConfig())) as address:
        yield address


@pytest.fixture(autouse=True)
def generator() -> ScriptedGenerator:
    GENERATOR.__init__()  # type: ignore[misc]
    return GENERATOR


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def other(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(host=url) as made:
        yield made


def asked(generator: ScriptedGenerator) -> EmbeddingRequest:
    return generator.embedded[-1]


def test_openais_client_reads_vectors_in_both_encodings(
    client: openai.OpenAI, generator: ScriptedGenerator
) -> None:
    # Without an encoding of its own the client asks for base64, and turns it into numbers.
    for encoding in (openai.omit, "float"):
        made = client.embeddings.create(model="tiny", input=["a", "bcd"], encoding_format=encoding)  # type: ignore[arg-type]
        assert [one.embedding[:2] for one in made.data] == [[1.0, 0.0], [3.0, 0.0]]
        assert [one.index for one in made.data] == [0, 1]
        assert (made.model, made.usage.prompt_tokens, made.usage.total_tokens) == ("tiny", 4, 4)
    assert asked(generator).truncate is False
    raw = client.embeddings.create(model="tiny", input="abc", dimensions=2, encoding_format="base64")
    assert struct.unpack("<2f", base64.b64decode(str(raw.data[0].embedding))) == (3.0, 0.0)


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("abc", ("abc",)),
        (["abc", ""], ("abc", "")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["a", [1]], ("a", (1,))),
    ],
)
def test_texts_and_token_ids_are_taken_alone_and_in_lists(
    url: str, generator: ScriptedGenerator, given: Any, texts: tuple[Any, ...]
) -> None:
    answer = httpx.post(f"{url}/v1/embeddings", json={"model": "tiny", "input": given}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert asked(generator).texts == texts


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "a"}, "model"),
        ({"model": "tiny"}, "input"),
        ({"model": "tiny", "input": []}, "input"),
        ({"model": "tiny", "input": {"a": 1}}, "input"),
        ({"model": "tiny", "input": [True]}, "input.0"),
        ({"model": "tiny", "input": ["a", 1]}, "input.1"),
        ({"model": "tiny", "input": [1, "a"]}, "input"),
        ({"model": "tiny", "input": [[1, "a"]]}, "input.0"),
        ({"model": "tiny", "input": "a", "dimensions": 0}, "dimensions"),
        ({"model": "tiny", "input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"model": "tiny", "input": ["a"] * (LIMITS.embedding_inputs + 1)}, "input"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_with_its_field(url: str, body: Any, param: str) -> None:
    answer = httpx.post(f"{url}/v1/embeddings", json=body, timeout=60)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_a_model_that_is_not_there_and_a_full_queue_have_their_status(
    client: openai.OpenAI, generator: ScriptedGenerator
) -> None:
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="nothing", input="a")
    generator.refusal = QueueFullError("full")
    with pytest.raises(openai.InternalServerError) as refused:
        client.embeddings.create(model="tiny", input="a")
    assert refused.value.status_code == 503


def test_ollamas_client_reads_vectors(other: ollama.Client, generator: ScriptedGenerator) -> None:
    made = other.embed("tiny", input=["a", "bcd"])
    assert [list(one)[:2] for one in made.embeddings] == [[1.0, 0.0], [3.0, 0.0]]
    assert (made.model, made.prompt_eval_count) == ("tiny", 4)
    assert asked(generator).truncate is True
    whole = other.embed("tiny:latest", input="abc", truncate=False, dimensions=3)
    assert [len(one) for one in whole.embeddings] == [3]
    assert asked(generator).truncate is False
    assert list(other.embeddings("tiny", prompt="abc").embedding)[:1] == [3.0]


def test_ollamas_client_asks_for_the_model_alone_by_an_empty_text(
    other: ollama.Client, generator: ScriptedGenerator
) -> None:
    assert other.embed("tiny", input="").embeddings == []
    assert other.embed("tiny", input=[]).embeddings == []
    assert list(other.embeddings("tiny", prompt="").embedding) == []
    assert generator.embedded == []
    for ask in (lambda: other.embed("nothing", input=""), lambda: other.embed("nothing", input="a")):
        with pytest.raises(ollama.ResponseError, match="nothing") as refused:
            ask()
        assert refused.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="at most"):
        other.embed("tiny", input=["a"] * (LIMITS.embedding_inputs + 1))


def test_a_large_answer_is_the_same(client: openai.OpenAI) -> None:
    made = client.embeddings.create(
        model="tiny", input=["a", "bb"], dimensions=20_000, encoding_format="float"
    )
    assert [len(one.embedding) for one in made.data] == [20_000, 20_000]
    assert made.data[1].embedding[0] == 2.0
