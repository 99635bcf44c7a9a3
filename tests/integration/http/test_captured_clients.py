"""What coding agents were seen to send is understood, and answered in their shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.domain.chat import ChatPrompt
from semanticd.domain.generation import GenerationRequest
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.generator import ScriptedGenerator
from tests.fakes.http_services import make_services

CAPTURED = sorted((Path(__file__).parents[2] / "data" / "http").glob("*.jsonl"))


async def replay(path: Path) -> list[GenerationRequest]:
    """Send a capture's requests in order; return what the generator was asked."""
    generator = ScriptedGenerator()
    client = AsgiClient(create_app(make_services(generator), HttpConfig()))
    captures: list[dict[str, Any]] = [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
    ]
    for captured in captures:
        url = f"{captured['path']}?{captured['query']}"
        answer = await client.post(url, captured["body"], headers=captured["headers"])
        assert (answer.status, answer.complete) == (200, True), answer.content
    return generator.requests


@pytest.mark.parametrize("path", CAPTURED, ids=lambda path: path.stem)
async def test_a_capture_is_answered_and_its_tool_round_trip_understood(path: Path) -> None:
    requests = await replay(path)
    last = requests[-1].prompt
    assert isinstance(last, ChatPrompt)
    assert [message.role for message in last.messages][-2:] == ["assistant", "tool"]
    assert last.messages[-1].parts[0].call_id == "call_1"  # type: ignore[union-attr]
    assert len(last.tools) >= 8


@pytest.mark.parametrize("path", CAPTURED, ids=lambda path: path.stem)
async def test_every_turn_of_a_capture_extends_the_one_before_for_the_same_agent(path: Path) -> None:
    turns = [request for request in await replay(path) if request.tools_offered]
    assert len(turns) == 2
    first, second = (request.prompt for request in turns)
    assert isinstance(first, ChatPrompt)
    assert isinstance(second, ChatPrompt)
    assert second.messages[: len(first.messages)] == first.messages
    assert second.tools == first.tools
    assert second.template_options == first.template_options
    assert turns[0].agent_id == turns[1].agent_id


def test_three_programs_were_captured() -> None:
    assert [path.stem.rsplit("_", 1)[0] for path in CAPTURED] == ["claude_code", "codex", "opencode"]
