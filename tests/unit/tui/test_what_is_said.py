"""What the dashboard says where nothing is to be seen: an empty filter, a start that takes its time, no tile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Awaitable, Callable
from fcntl import ioctl
from pathlib import Path
from typing import Any

import anyio
import pytest
from rich.cells import cell_len
from textual.pilot import Pilot
from textual.widgets import Input

from semantic_tui.agent_facts import blocks_text
from semantic_tui.app import Dashboard
from semantic_tui.model_facts import changes_text
from semantic_tui.plain import time_of_day
from semantic_tui.screens.agent import AgentScreen, Tile
from semantic_tui.widgets.rows_table import RowsTable
from semantic_tui.widgets.shown_text import ShownText
from semantic_tui.widgets.top_line import LONG_START_S, complaint
from semanticd.control.address import SOCKET_NAME
from semanticd.control.results import AgentResult, AgentRow, SharedBlocks
from tests.fakes import watch_states
from tests.fakes.control_daemon import FakeControlDaemon

Until = Callable[[Pilot[Any], Callable[[], object]], Awaitable[None]]
PATIENCE_S = 60.0


def hint(app: Dashboard) -> str:
    """Return what the screen's hint says; empty while it is not shown."""
    shown = app.screen.query_one("#hint", ShownText)
    return str(shown.content) if shown.display else ""


async def test_the_agents_key_opens_the_agent_under_the_cursor_where_none_has_a_tile(until: Until) -> None:
    app = Dashboard(state=watch_states.busy())
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        await pilot.press("down", "down", "2")
        await until(pilot, lambda: isinstance(app.screen, AgentScreen) and app.screen.query(Tile))
        assert [tile.agent for tile in app.screen.query(Tile)] == ["reviewer"]
        assert app.chosen == "reviewer"


async def test_the_agents_screen_says_that_none_is_known(until: Until) -> None:
    app = Dashboard(state=watch_states.empty())
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, AgentScreen))
        await until(pilot, lambda: "No agents yet" in hint(app))


async def test_a_filter_that_finds_nothing_says_so_and_how_to_leave_it(until: Until) -> None:
    app = Dashboard(state=watch_states.busy())
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("slash")
        app.screen.query_one("#filter", Input).value = "nobody here"
        await until(pilot, lambda: "No agent has 'nobody here'" in hint(app))
        assert "Esc shows all" in hint(app)
        await pilot.press("escape")
        await until(pilot, lambda: not hint(app))
        assert app.screen.query_one(RowsTable).row_count > 0


async def test_a_start_is_seen_while_it_runs_with_what_it_says_last(
    socket_path: Path, until: Until, tmp_path: Path
) -> None:
    """Also one that hangs: its time goes on, and the line says what to do."""
    now = 0.0
    go_on = tmp_path / "go-on"
    script = (
        f"echo fetching; echo loading 40 percent; until [ -e {go_on} ]; do sleep 0.05; done; echo no; exit 3"
    )
    app = Dashboard(socket_path, start_command=("sh", "-c", script), clock=lambda: now)
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.state.connection == "absent")
        assert "No daemon is running" in complaint(app.state, now)
        await pilot.press("S")
        await until(pilot, lambda: "loading 40 percent" in complaint(app.state, now))
        assert "No daemon is running" not in complaint(app.state, now)
        now = 12.0
        assert "Starting the daemon at" in complaint(app.state, now)
        assert ", 12 s: loading 40 percent." in complaint(app.state, now)
        began = app.state.starting_since
        await pilot.press("S")
        await pilot.pause()
        assert app.state.starting_since == began, "a second start waits for the first"
        now = LONG_START_S + 1
        assert "`semanticd logs` shows what it does; S stops waiting" in complaint(app.state, now)
        await pilot.press("S")
        await until(pilot, lambda: app.state.starting_since == now)
        go_on.touch()
        await until(pilot, lambda: app.state.starting_since is None)
        assert "No daemon is running" in complaint(app.state, now)


def test_a_change_of_a_model_has_its_time() -> None:
    state = watch_states.empty()
    state.take("model", {"model": "small", "stage": "ready", "progress": 1.0, "at": 1_700_000_000.0})
    state.take("model", {"model": "large", "stage": "failed", "reason": "too large", "at": 1_700_000_060.0})
    state.take("model", {"model": "of an older daemon", "stage": "ready", "progress": 1.0})
    old, large, _, small = changes_text(state).plain.split("\n")
    assert old.startswith("-        of an older")
    assert large.startswith(f"{time_of_day(1_700_000_060.0)} large ")
    assert small.startswith(f"{time_of_day(1_700_000_000.0)} small ")


@pytest.mark.parametrize("width", [*range(34, 80), 114, 194])
def test_each_agent_that_shares_blocks_has_one_line(width: int) -> None:
    names = ("coder", "an-agent-with-a-name-of-more-than-a-hundred-characters-" * 2, "評審" * 20, "x")
    sharing = tuple(SharedBlocks(name, 1000 // (at + 1), 10**9) for at, name in enumerate(names))
    row = AgentRow(num_hot_blocks=1000, shared_with=names, num_shared_with=9)
    for details in (AgentResult(sharing=sharing), AgentResult()):
        lines = blocks_text(details, row, width).plain.partition("Shared with")[2].split("\n")
        assert len(lines) == 1 + len(names) + 1
        assert lines[-1] == "  and 5 more"
        assert all(cell_len(line) <= width for line in lines)


class Terminal:
    """A program on a pseudo-terminal of 80 by 24, and all that it has sent there."""

    def __init__(self, command: list[str], *, home: Path, term: str, errors: Path | None = None) -> None:
        self._ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.set_blocking(self._ours, False)
        environ = {**os.environ, "TERM": term, "PYTHONUTF8": "1", "HOME": str(home)}
        stderr = theirs if errors is None else os.open(errors, os.O_WRONLY | os.O_CREAT)
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=theirs, stdout=theirs, stderr=stderr, env=environ, start_new_session=True,
        )  # fmt: skip
        for descriptor in {theirs, stderr}:
            os.close(descriptor)
        self.sent = ""

    async def shows(self, text: str) -> None:
        """Wait until this was sent."""
        with anyio.fail_after(PATIENCE_S):
            while text not in self.sent:
                with contextlib.suppress(BlockingIOError):
                    self.sent += os.read(self._ours, 65536).decode(errors="replace")
                await asyncio.sleep(0.01)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)


async def test_the_screen_is_there_where_standard_error_goes_into_a_file(
    socket_path: Path, tmp_path: Path
) -> None:
    errors = tmp_path / "errors"
    command = ["semantic_tui", "--socket", str(socket_path)]
    terminal = Terminal(command, home=tmp_path, term="xterm-256color", errors=errors)
    with contextlib.closing(terminal):
        await terminal.shows("No daemon is running")
    assert errors.read_bytes() == b""


async def test_what_is_typed_while_an_answer_comes_is_not_written_into_it(socket_path: Path) -> None:
    """It waits, and is the beginning of the next line."""
    folder = socket_path.parent
    answers = {"status": {"model": "tiny"}, "agents.say": {"text": "one two three", "agent": "planner"}}
    async with FakeControlDaemon(folder / SOCKET_NAME, answers) as daemon:
        answered = daemon.waits["agents.say"] = asyncio.Event()

        async def says(text: str) -> None:
            said = {"agent": "planner", "request": "say-1", "text": text, "num_tokens": 1}
            await daemon.publish("tokens", said)
            await terminal.shows(text)

        command = ["semanticd", "--runtime-dir", str(folder), "chat", "planner"]
        terminal = Terminal(command, home=folder, term="dumb")
        with contextlib.closing(terminal):
            await terminal.shows("> ")
            terminal.type("count\n")
            with anyio.fail_after(PATIENCE_S):
                while ("subscribe" not in dict(daemon.commands)) or not daemon.is_asked("agents.say"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await says("one ")
            terminal.type("typed early")
            await says("two ")
            assert "typed" not in terminal.sent
            answered.set()
            await terminal.shows("three")
            assert "one two three" in terminal.sent
            await terminal.shows("typed early")
