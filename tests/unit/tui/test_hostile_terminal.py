"""Hostile text on a terminal: dialogs, notices and lone surrogates too, and what a pseudo-terminal really gets."""

from __future__ import annotations

import asyncio
import itertools
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import anyio
import pytest
from textual.pilot import Pilot

from semantic_tui.app import SCREENS, Dashboard
from semantic_tui.state import WatchState
from semanticd.control.results import HelloResult, read
from semanticd.control.terminal_text import one_line
from tests.fakes import control_script, watch_states
from tests.fakes.control_daemon import FakeControlDaemon
from tests.fakes.hostile_text import ENCODABLE, HOSTILE

ROUNDS = 2
PATIENCE_S = 60
KEPT = {"stage", "last", "step_s", "timestamp", "type"}
"""Texts that decide what is shown rather than being shown, or that are no texts to the dashboard."""


def spoilt(facts: Any, texts: Iterator[str], key: str = "") -> Any:
    """Return facts with every text that is shown replaced by the next hostile one; an agent keeps its own."""
    if isinstance(facts, str):
        return facts if key in KEPT else next(texts)
    if isinstance(facts, dict):
        return {name: spoilt(value, texts, name) for name, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [spoilt(value, texts, key) for value in facts]
    return facts


def hostile_state(texts: Iterator[str]) -> tuple[WatchState, str]:
    """Return a state in which everything is hostile, and the name of an agent with turns, messages and a stream."""
    state = WatchState(connection="connected", last_heard_at=watch_states.NOW, reason=next(texts))
    agents = spoilt(control_script.agents(), texts)
    state.take("agents", {"agents": agents})
    name = state.agents[0].id
    requests = spoilt(control_script.requests(), texts)
    requests[0]["agent"] = agents[0]["id"]
    state.take("requests", {"requests": requests})
    state.begin(read(HelloResult, spoilt({"version": "1", "server": "x"}, texts)))
    state.take("status", spoilt(control_script.status(3), texts))
    state.take_failures({"failures": spoilt(control_script.failures(), texts)})
    for line in control_script.log_lines():
        state.take("log", spoilt(line, texts))
    for _ in range(20):
        state.take("token", {"agent": agents[0]["id"], "request": requests[0]["id"], "text": next(texts)})
    state.take_models({"models": spoilt(control_script.models(), texts)})
    for stage in ("failed", "loading", "pulled"):
        state.take("model", spoilt(control_script.change(stage, 0.4, reason="x"), texts))
    state.take_doctor(spoilt(control_script.doctor(), texts))
    facts, messages = control_script.show("planner"), control_script.messages()
    state.take_details(name, spoilt(facts, texts), spoilt(messages, texts))
    state.take_blocks({"blocks": control_script.blocks()})
    return state, name


def shown(app: Dashboard) -> list[str]:
    """Return the texts of the screen's picture; raises when it is not XML."""
    picture = ET.fromstring(app.export_screenshot())
    return [(element.text or "").strip("\n") for element in picture.iter("{http://www.w3.org/2000/svg}text")]


async def drawn(pilot: Pilot[Any]) -> None:
    app = pilot.app
    assert isinstance(app, Dashboard)
    before = app.num_draws
    app.changed()
    with anyio.fail_after(PATIENCE_S):
        while app.num_draws == before:
            await pilot.pause(0.02)
    await pilot.pause()


@pytest.mark.parametrize(("turn", "size"), zip(range(ROUNDS), itertools.cycle([(80, 24), (200, 60)])))
async def test_every_screen_stays_a_valid_picture_without_controls(turn: int, size: tuple[int, int]) -> None:
    texts = itertools.islice(itertools.cycle(HOSTILE), turn * len(HOSTILE) // ROUNDS, None)
    state, agent = hostile_state(texts)
    app = Dashboard(state=state, clock=lambda: watch_states.NOW)
    app.animation_level = "none"
    seen: list[str] = []
    async with app.run_test(size=size) as pilot:
        app.toggle_watched(agent)
        for at in range(len(SCREENS)):
            await pilot.press(str(at + 1))
            await drawn(pilot)
            seen += shown(app)
        await pilot.press("1", "d")
        await pilot.pause()
        seen += shown(app)
        await pilot.press("escape")
        app.notify(next(texts), title=next(texts), markup=False)
        state.connection, state.reason = "lost", next(texts)
        await drawn(pilot)
        seen += shown(app)
    assert [text for text in seen if one_line(text) != text] == []
    assert any(r"\x1b" in text for text in seen), "the hostile text is not there"


SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]P_^X][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")


async def at_rest(sent: bytearray) -> None:
    """Wait until a screen was sent whole: something, and then nothing for a while."""
    before = last = len(sent)
    num_quiet = 0
    while num_quiet < 10 or (last == before and num_quiet < 40):
        await asyncio.sleep(0.02)
        num_quiet = num_quiet + 1 if len(sent) == last else 0
        last = len(sent)


async def sent_to_a_terminal(socket: Path, answers: dict[str, Any]) -> str:
    """Run the dashboard on a pseudo-terminal, go through its screens, quit, and return all that it sent."""
    async with FakeControlDaemon(socket, answers) as daemon:
        ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        environ = {**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1", "COLORTERM": "truecolor"}
        process = subprocess.Popen(  # noqa: ASYNC220 (it starts at once)
            [sys.executable, "-m", "semantic_tui", "--socket", str(socket)],
            stdin=theirs, stdout=theirs, stderr=theirs, env=environ,
        )  # fmt: skip
        os.close(theirs)
        sent = bytearray()

        def read() -> None:
            try:
                sent.extend(os.read(ours, 65536))
            except OSError:
                loop.remove_reader(ours)

        loop = asyncio.get_running_loop()
        loop.add_reader(ours, read)
        try:
            with anyio.fail_after(PATIENCE_S):
                while not any(cmd == "status" for cmd, _ in daemon.commands):  # noqa: ASYNC110 (a list of commands)
                    await asyncio.sleep(0.05)
                while "doctor" not in {cmd for cmd, _ in daemon.commands}:
                    # Keys reach the screen that is there; all six have been drawn once the doctor was asked.
                    for key in b"123456":
                        os.write(ours, bytes([key]))
                        await at_rest(sent)
                os.write(ours, b"q")
                while process.poll() is None:  # noqa: ASYNC110 (the process sends no event)
                    await asyncio.sleep(0.05)
        finally:
            process.kill()
            process.wait()
            loop.remove_reader(ours)
            os.close(ours)
        return sent.decode()


def kinds(sent: str) -> set[str]:
    """Return the kinds of sequences in a terminal's input: what begins and what ends each, without its numbers."""
    return {re.sub(r"[0-9;:]+", "", sequence[:3] + sequence[-1]) for sequence in SEQUENCE.findall(sent)}


async def test_the_terminal_gets_no_sequence_and_no_control_of_the_daemons(socket_path: Path) -> None:
    plain = await sent_to_a_terminal(socket_path, control_script.answers())
    texts = itertools.cycle(ENCODABLE)
    hostile = await sent_to_a_terminal(socket_path, spoilt(control_script.answers(), texts))
    assert r"\x1b" in hostile
    assert kinds(hostile) <= kinds(plain)
    text = SEQUENCE.sub("", hostile)
    assert {character for character in text if one_line(character) != character} <= set("\n\r\t")
    assert "owned" not in "".join(found for found in SEQUENCE.findall(hostile) if found[1] in "]P_^X")
