"""The chat: the user's words at once, the answer as it comes in Markdown, forks, earlier words, and what failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from semantic_tui.app import Dashboard
from semantic_tui.screens.chat import ChatScreen, Words
from semantic_tui.widgets.rows_table import RowsTable
from semantic_tui.widgets.transcript_view import TranscriptView
from tests.fakes import control_script
from tests.fakes.control_daemon import FakeControlDaemon

Until = Callable[[Pilot[Any], Callable[[], object]], Awaitable[None]]
BEFORE = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


@asynccontextmanager
async def chat(
    socket: Path, until: Until, messages: list[dict[str, str]]
) -> AsyncIterator[tuple[Dashboard, FakeControlDaemon, Pilot[Any]]]:
    """Open the chat with the agent `planner`, which has said this, and hold its answers back."""
    async with FakeControlDaemon(socket, control_script.answers()) as daemon:
        daemon.answers["agents.messages"] = {"messages": messages}
        daemon.answers["requests.prompt"] = {"messages": []}
        daemon.waits["agents.say"] = asyncio.Event()
        app = Dashboard(socket)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await until(
                pilot,
                lambda: app.state.connected and app.screen.query_one(RowsTable).current_key == "planner",
            )
            await pilot.press("i")
            await until(pilot, lambda: isinstance(app.screen, ChatScreen) and app.screen.query(Words))
            await until(pilot, lambda: app.screen.query_one(Words).has_focus)
            yield app, daemon, pilot


def conversation(app: Dashboard) -> list[str]:
    """Return the lines of the conversation, those without text and the system's left out."""
    view = app.screen.query_one(TranscriptView)
    drawn = (view.render_line(y).text[2:].rstrip() for y in range(view.size.height))
    return [line for line in drawn if line and not line.startswith("system:")]


def said(daemon: FakeControlDaemon) -> list[dict[str, Any]]:
    return [args for cmd, args in daemon.commands if cmd == "agents.say"]


async def token(daemon: FakeControlDaemon, text: str, num_tokens: int, agent: str = "planner") -> None:
    await daemon.publish(
        "tokens", {"agent": agent, "request": "say-1", "text": text, "num_tokens": num_tokens}
    )


async def test_words_are_shown_at_once_and_the_answer_is_markdown_as_it_comes(
    socket_path: Path, until: Until
) -> None:
    async with chat(socket_path, until, BEFORE) as (app, daemon, pilot):
        await until(pilot, lambda: conversation(app) == ["user", "hi", "assistant", "ho"])
        await pilot.press(*"how", "ctrl+j", *"now", "enter")
        before = ["user", "hi", "assistant", "ho", "user", "how", "now"]
        await until(pilot, lambda: conversation(app) == before)
        await until(pilot, lambda: app.screen.query_one(Words).text == "")
        await token(daemon, "Use **this", 3)
        await until(pilot, lambda: conversation(app) == [*before, "assistant, now", "Use **this"])
        await token(daemon, "** now:\n```py\nx = `1`\n", 9)
        shown = [*before, "assistant, now", "Use this now:", "```py", "x = `1`"]
        await until(pilot, lambda: conversation(app) == shown)
        answer = {"role": "assistant", "content": "Use **this** now:\n```py\nx = `1`\n```"}
        daemon.answers["agents.messages"] = {
            "messages": [*BEFORE, {"role": "user", "content": "how\nnow"}, answer]
        }
        daemon.waits["agents.say"].set()
        ended = [*before, "assistant", "Use this now:", "```py", "x = `1`", "```"]
        await until(pilot, lambda: conversation(app) == ended)
        await until(pilot, lambda: app.state.said == {})


async def test_the_same_words_again_are_another_turn(socket_path: Path, until: Until) -> None:
    async with chat(socket_path, until, BEFORE) as (app, daemon, pilot):
        await until(pilot, lambda: conversation(app) == ["user", "hi", "assistant", "ho"])
        await pilot.press("up", "enter")
        await until(pilot, lambda: conversation(app) == ["user", "hi", "assistant", "ho", "user", "hi"])
        await until(pilot, lambda: app.state.said)
        daemon.waits["agents.say"].set()
        await until(pilot, lambda: said(daemon) == [{"agent": "planner", "text": "hi"}])


async def test_a_conversation_that_a_client_keeps_goes_on_in_a_fork(socket_path: Path, until: Until) -> None:
    kept = [{"role": "transcript", "content": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nho"}]
    async with chat(socket_path, until, kept) as (app, daemon, pilot):
        daemon.answers["agents.fork"] = {"id": "planner-fork"}
        await until(pilot, lambda: "creates a fork" in str(app.screen.query_one("#chat").border_subtitle))
        await pilot.press(*"hello", "enter")
        await until(pilot, lambda: conversation(app)[-2:] == ["user", "hello"])
        await until(pilot, lambda: "planner-fork" in str(app.screen.query_one("#chat").border_title))
        daemon.waits["agents.say"].set()
        await until(pilot, lambda: said(daemon) == [{"agent": "planner-fork", "text": "hello"}])
        await until(pilot, lambda: not app.state.said)
        await pilot.press(*"again", "enter")
        await until(pilot, lambda: len(said(daemon)) == 2)
        assert sum(cmd == "agents.fork" for cmd, _ in daemon.commands) == 1


async def test_words_that_could_not_be_said_come_back(socket_path: Path, until: Until) -> None:
    async with chat(socket_path, until, BEFORE) as (app, daemon, pilot):
        daemon.failures["agents.say"] = ("overloaded", "the queue is full")
        daemon.waits["agents.say"].set()
        await pilot.press(*"hello", "enter")
        await until(
            pilot, lambda: any("the queue is full" in str(t.render()) for t in app.screen.query("Toast"))
        )
        await until(pilot, lambda: app.screen.query_one(Words).text == "hello")
        await until(pilot, lambda: conversation(app)[-1:] == ["ho"])


async def test_a_turn_waits_for_the_one_before_and_is_stopped(socket_path: Path, until: Until) -> None:
    async with chat(socket_path, until, BEFORE) as (app, daemon, pilot):
        client, answer = control_script.requests()[0], {**control_script.requests()[0], "id": "say-1"}
        await daemon.publish("requests", {"requests": [client, answer]})
        await until(pilot, lambda: "say-1" in [row.id for row in app.state.requests])
        await pilot.press(*"one", "enter", *"two", "enter")
        await until(
            pilot, lambda: any("has not finished" in str(t.render()) for t in app.screen.query("Toast"))
        )
        assert len(app.state.said) == 1
        assert app.screen.query_one(Words).text == "two"
        await pilot.press("ctrl+x")
        await until(pilot, lambda: ("requests.cancel", {"request": "say-1"}) in daemon.deeds())
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, ChatScreen))
        daemon.failures["agents.say"] = ("cancelled", "request say-1 was cancelled")
        daemon.waits["agents.say"].set()
        await until(pilot, lambda: not app.state.said)
        # What the client asked goes on, and that nothing was answered is what was wanted.
        assert ("requests.cancel", {"request": "req-1"}) not in daemon.deeds()
        await until(pilot, lambda: any("was cancelled" in str(t.render()) for t in app.screen.query("Toast")))
        assert not any("did not answer" in str(t.render()) for t in app.screen.query("Toast"))


async def test_a_clients_request_is_never_shown_as_the_answer(socket_path: Path, until: Until) -> None:
    async with chat(socket_path, until, []) as (app, daemon, pilot):
        asks = "<|im_start|>user\nWhat is left?<|im_end|>\n<|im_start|>assistant\n"
        daemon.answers["requests.prompt"] = {"messages": [{"role": "transcript", "content": asks}]}
        client = {**control_script.requests()[0], "id": "req-9"}
        await daemon.publish("requests", {"requests": [client]})
        await daemon.publish(
            "tokens", {"agent": "planner", "request": client["id"], "text": "Tests.", "num_tokens": 2}
        )
        shown = ["user", "What is left?", "assistant, now", "Tests."]
        await until(pilot, lambda: conversation(app) == shown)
        await pilot.press(*"why", "enter")
        await until(pilot, lambda: conversation(app) == ["user", "why"])
        await token(daemon, "So", 1)
        await until(pilot, lambda: conversation(app) == ["user", "why", "assistant, now", "So"])
        daemon.waits["agents.say"].set()


@pytest.mark.parametrize("earlier", [["one", "two"]])
async def test_the_arrows_bring_back_what_was_said(
    earlier: list[str], socket_path: Path, until: Until
) -> None:
    messages = [
        row
        for text in earlier
        for row in ({"role": "user", "content": text}, {"role": "assistant", "content": "a"})
    ]
    async with chat(socket_path, until, messages) as (app, _daemon, pilot):
        words = app.screen.query_one(Words)
        await pilot.press(*"now")
        await until(pilot, lambda: words.text == "now")
        shown = ["two", "one", "one", "two", "now", "now"]
        for key, text in zip(("up", "up", "up", "down", "down", "down"), shown, strict=True):
            await pilot.press(key)
            await until(pilot, lambda text=text: words.text == text)
