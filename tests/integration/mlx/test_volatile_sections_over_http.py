"""With `move_volatile`, text about the moment or the folder follows the tools: a new session reuses all text before it.

Through the whole daemon, in every dialect, on models that keep every position and on those whose layers cannot be cut.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.config import Settings
from tests.fakes.tiny_families import FAMILIES, THINKING_TEMPLATE, write_tiny_family
from tests.fakes.whole_daemon import WholeDaemon

CLOSE = 16
RULES = "You are an agent. " + "Look before you leap, and say what you did. " * 12
INTRODUCTION = "Here is useful information about the environment you are running in:"
SCHEMA = {"type": "object", "properties": {"line": {"type": "string"}}}
DESCRIPTION = "Runs a line in the shell. " * 12


def environment(folder: str, day: int) -> str:
    return f"<env>\n  Working directory: /home/a/{folder}\n  Today's date: Sun Nov {day} 2026\n</env>\n"


def system(folder: str, day: int = 29) -> str:
    return f"{RULES}\n{INTRODUCTION}\n{environment(folder, day)}Help."


def chat(text: str, *turns: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    tool = {"name": "shell", "description": DESCRIPTION, "parameters": SCHEMA}
    messages = [{"role": "system", "content": text}, *turns]
    return "/v1/chat/completions", {"messages": messages, "tools": [{"type": "function", "function": tool}]}


def anthropic(text: str, *turns: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    blocks = [
        {"type": "text", "text": "x-anthropic-billing-header: cch=1a2b;"},
        {"type": "text", "text": text},
    ]
    tool = {"name": "shell", "description": DESCRIPTION, "input_schema": SCHEMA}
    return "/v1/messages", {"system": blocks, "messages": [*turns], "tools": [tool]}


def responses(text: str, *turns: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    tool = {"type": "function", "name": "shell", "description": DESCRIPTION, "parameters": SCHEMA}
    return "/v1/responses", {"instructions": text, "input": [*turns], "tools": [tool], "store": False}


def ollama(text: str, *turns: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    _, body = chat(text, *turns)
    return "/api/chat", {**body, "stream": False}


DIALECTS = {"chat": chat, "anthropic": anthropic, "responses": responses, "ollama": ollama}
HELLO = {"role": "user", "content": "hello there"}


class Reply:
    """What the header says a prompt cost."""

    def __init__(self, header: str) -> None:
        found = dict(word.split("=", 1) for word in header.split())
        self.cached = int(found["hot"]) + int(found["warm"])
        self.prompt = self.cached + int(found["computed"])
        self.changed = found.get("canonicalized", "").split(",")


async def ask(daemon: WholeDaemon, path: str, body: dict[str, Any], *, agent: str) -> Reply:
    limits: dict[str, dict[str, Any]] = {
        "/v1/responses": {"max_output_tokens": 16},
        "/api/chat": {"options": {"num_predict": 8}},
    }
    sent = {"model": "default", **body, **limits.get(path, {"max_tokens": 8})}
    answer = await daemon.client.post(path, sent, headers={"x-session-id": agent})
    assert answer.status == 200, answer.content
    return Reply(answer.headers["x-semantic-cache"])


def moving(home: Path, model: Path, *, move: bool = True) -> WholeDaemon:
    settings = Settings()
    return WholeDaemon(
        home, model=model, settings=replace(settings, mlx=replace(settings.mlx, move_volatile=move))
    )


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_tiny_family(tmp_path / "model", "llama", template=THINKING_TEMPLATE)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_session_in_another_folder_reuses_system_text_and_tools(
    plain: Path, tmp_path: Path, dialect: str
) -> None:
    made = DIALECTS[dialect]
    async with moving(tmp_path, plain) as daemon:
        first = await ask(daemon, *made(system("one"), HELLO), agent="a")
        other = await ask(daemon, *made(system("two", 30), HELLO), agent="b")
    # Tokens of this model are about a character each, and so are those of what the user message begins with.
    behind = len(environment("two", 30)) + len(INTRODUCTION) + len("hello there") + 60
    assert other.cached >= first.prompt - behind
    assert first.changed[-1] == other.changed[-1] == "volatile_sections"
    assert ("volatile_header" in first.changed) == (dialect == "anthropic")
    assert any(
        event == "prompt_cache" and "volatile_sections" in fields["canonicalized"]
        for _, event, fields in daemon.log.lines
    )


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_by_default_nothing_is_moved(plain: Path, tmp_path: Path, dialect: str) -> None:
    made = DIALECTS[dialect]
    async with moving(tmp_path, plain, move=False) as daemon:
        first = await ask(daemon, *made(system("one"), HELLO), agent="a")
        other = await ask(daemon, *made(system("two", 30), HELLO), agent="b")
    assert "volatile_sections" not in first.changed
    assert other.cached < first.prompt // 2


def _param(family: str) -> Any:
    fast = family in ("llama", "gemma3_text", "qwen3_next")
    return pytest.param(family, marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize("family", [_param(family) for family in sorted(FAMILIES)])
async def test_moved_sections_are_preceded_by_a_snapshot(tmp_path: Path, family: str) -> None:
    model = write_tiny_family(tmp_path / "model", family, template=THINKING_TEMPLATE)
    turns = (HELLO, {"role": "assistant", "content": "so it was"}, {"role": "user", "content": "and then?"})
    async with moving(tmp_path, model) as daemon:
        first = await ask(daemon, *chat(system("one"), HELLO), agent="a")
        second = await ask(daemon, *chat(system("one"), *turns), agent="a")
        other = await ask(daemon, *chat(system("two", 30), HELLO), agent="b")
        head = await ask(daemon, *chat(f"{RULES}\nHelp.", {"role": "user", "content": "?"}), agent="c")
    async with moving(tmp_path, model) as daemon:
        # First the one that lies on disk alone: of a prompt whose half is in RAM, a slow machine computes the rest.
        third = await ask(daemon, *chat(system("one"), *turns), agent="a")
        fourth = await ask(daemon, *chat(system("three", 30), HELLO), agent="d")
    opening = 15
    assert second.cached >= first.prompt - opening - CLOSE, "it stays where it is as the conversation grows"
    assert third.cached >= second.prompt - opening - CLOSE
    for new in (other, fourth):
        assert new.cached >= head.prompt - opening - 2 * CLOSE


@pytest.mark.parametrize("move", [False, True])
async def test_tokens_are_counted_as_they_are_computed(plain: Path, tmp_path: Path, move: bool) -> None:
    path, body = anthropic(system("one"), HELLO)
    async with moving(tmp_path, plain, move=move) as daemon:
        reply = await ask(daemon, path, body, agent="a")
        counted = await daemon.client.post("/v1/messages/count_tokens", {"model": "default", **body})
        chatted = await daemon.client.post("/v1/tokenize?path=/v1/messages", {"model": "default", **body})
        texts = [
            await daemon.client.post("/tokenize", {"model": "default", **chat(system(folder), HELLO)[1]})
            for folder in ("one", "two")
        ]
    assert counted.json["input_tokens"] == reply.prompt
    assert len(chatted.json["tokens"]) == reply.prompt
    one, two = (answer.json["tokens"] for answer in texts)
    common = next(at for at, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1])
    assert (common > len(one) * 3 // 4) == move
