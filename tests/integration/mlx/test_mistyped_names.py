"""A model's name that was mistyped is answered with 404 and the nearest name, in every dialect and every lookup."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon

TYPED, MEANT = "tiny-codr-7b", "tiny-coder-7b"
HELLO = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/responses/input_tokens": {"input": "hello"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 4},
    "/v1/messages/count_tokens": {"messages": HELLO},
    "/v1/embeddings": {"input": "hello"},
    "/v1/tokenize?path=/v1/messages": {"messages": HELLO},
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [1]},
    "/api/chat": {"messages": HELLO},
    "/api/generate": {"prompt": "hello"},
    "/api/show": {},
}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[WholeDaemon]:
    async with WholeDaemon(tmp_path, model=write_tiny_model(tmp_path / MEANT)) as made:
        yield made


async def test_the_nearest_name_is_said_in_every_dialect(daemon: WholeDaemon) -> None:
    for path, body in BODIES.items():
        for stream in (False, True) if "tok" not in path and "embed" not in path else (False,):
            sent = {"model": TYPED, **body, **({"stream": True} if stream else {})}
            answer = await daemon.client.post(path, sent)
            assert answer.status == 404, (path, answer.content)
            assert f"did you mean '{MEANT}'?" in answer.content.decode(), (path, answer.content)
            sent["model"] = "nothing-like-it"
            answer = await daemon.client.post(path, sent)
            assert answer.status == 404, (path, answer.content)
            assert b"did you mean" not in answer.content


async def test_an_agent_of_a_model_that_is_not_there_is_refused_with_the_nearest_name(
    daemon: WholeDaemon,
) -> None:
    made = await daemon.client.post("/v1/agents", {"id": "a", "model": TYPED})
    assert made.status in (400, 404), made.content
    assert f"did you mean '{MEANT}'?" in made.content.decode()


async def test_it_is_said_where_a_model_is_looked_up_and_of_the_registrys_models_too(
    daemon: WholeDaemon,
) -> None:
    answer = await daemon.client.get(f"/v1/models/{TYPED}")
    assert (answer.status, f"did you mean '{MEANT}'?" in answer.content.decode()) == (404, True)
    answer = await daemon.chat("hello", agent="a", model="smollm2-135n")
    assert (answer.status, b"did you mean 'smollm2-135m'?" in answer.content) == (404, True)
    answer = await daemon.chat("hello", agent="a", model="smollm2-135m")
    assert (answer.status, b"did you mean" in answer.content) == (404, False)
