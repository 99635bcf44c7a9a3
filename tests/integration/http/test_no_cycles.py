"""What a request took goes with its answer: nothing of it waits for the next search for cycles.

Python looks through all objects only when a quarter more of them have come. Until then a cycle keeps a request's
prompt, answer and form: some 40 KiB each, 12 MiB after 2,000 hostile connections.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.asgi_client import Answer, until
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon

MESSAGES = [{"role": "user", "content": "hello"}]
CHAT: dict[str, Any] = {"model": "default", "messages": MESSAGES, "max_tokens": 4}
FORM = {
    "type": "json_schema",
    "json_schema": {"name": "f", "schema": {"type": "object", "properties": {"a": {"type": "boolean"}}}},
}
NO_FORM = {"type": "json_schema", "json_schema": {"name": "f", "schema": {"type": "nothing"}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
RELAXED = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"a": {"oneOf": [{"enum": ["b", "c"]}, {"enum": ["c", "d"]}]}},
        },
    },
}
"""Two alternatives that overlap: no grammar tells one of them."""
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "another name of the model": ("/v1/chat/completions", {**CHAT, "model": "gpt-4o"}),
    "no such model": ("/v1/chat/completions", {**CHAT, "model": "nowhere"}),
    "an answer": ("/v1/chat/completions", CHAT),
    "several answers": ("/v1/chat/completions", {**CHAT, "n": 2}),
    "a stream": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "a form": ("/v1/chat/completions", {**CHAT, "response_format": FORM, "max_tokens": 30}),
    "a form that is refused": ("/v1/chat/completions", {**CHAT, "response_format": NO_FORM}),
    "tools": ("/v1/chat/completions", {**CHAT, "tools": [TOOL], "tool_choice": "required", "max_tokens": 30}),
    "relaxed tools": (
        "/v1/chat/completions",
        {**CHAT, "tools": [RELAXED], "tool_choice": "required", "max_tokens": 30},
    ),
    "a completion": ("/v1/completions", {"model": "default", "prompt": "hello", "max_tokens": 4}),
    "messages": ("/v1/messages", CHAT),
    "streamed messages": ("/v1/messages", {**CHAT, "stream": True}),
    "a response": ("/v1/responses", {"model": "default", "input": "hello", "max_output_tokens": 16}),
    "a streamed response": (
        "/v1/responses",
        {"model": "default", "input": "hello", "max_output_tokens": 16, "stream": True},
    ),
    "Ollama's chat": ("/api/chat", {"model": "default", "messages": MESSAGES, "options": {"num_predict": 4}}),
    "a count": ("/v1/messages/count_tokens", CHAT),
    "too long": ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "x " * 3000}]}),
}

NUM_EACH = 3
REFUSED = {"no such model": 404, "a form that is refused": 400, "too long": 400}


@contextmanager
def no_search() -> Iterator[None]:
    """Inside, garbage in cycles stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def ours_in_cycles() -> Counter[str]:
    """Return the types of this program's objects that only the search for cycles frees, and how many there are."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        kinds = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    return Counter({kind: count for kind, count in kinds.items() if kind.startswith("semanticd.")})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("cycles") / "tiny", context=2048)


async def test_nothing_of_a_request_waits_for_the_search_for_cycles(tmp_path: Path, model: Path) -> None:
    left: dict[str, Counter[str]] = {}
    async with WholeDaemon(tmp_path, model=model) as daemon:
        for url, body in ASKED.values():
            await daemon.client.post(url, body)  # the first time modules and tables are made
        for what, (url, body) in ASKED.items():
            with no_search():
                for _ in range(NUM_EACH):
                    answer = await daemon.client.post(url, body)
                    assert answer.status == REFUSED.get(what, 200), (what, answer.content)
                await until(lambda: daemon.parts.engine.num_unanswered == 0)
                left[what] = ours_in_cycles()
    assert {what: found for what, found in left.items() if found} == {}


async def test_nothing_of_an_answer_that_is_left_waits_for_it(tmp_path: Path, model: Path) -> None:
    async with WholeDaemon(tmp_path, model=model) as daemon:
        for _ in range(2):
            with no_search():
                for number in range(NUM_EACH):
                    leave, answer = asyncio.Event(), Answer()
                    more = {"stream": True, "logit_bias": {str(token): -100 for token in range(256, 512)}}
                    asking = asyncio.ensure_future(
                        daemon.chat(
                            "hello", agent=f"a{number}", max_tokens=900, leave=leave, answer=answer, **more
                        )
                    )
                    await until(lambda answer=answer: len(answer.chunks) > 3)
                    leave.set()
                    await asking
                    del asking
                await until(lambda: daemon.parts.engine.num_unanswered == 0)
                left = ours_in_cycles()
    assert left == {}
