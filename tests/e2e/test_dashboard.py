"""The dashboard with a real daemon and a real model: it shows what clients get, and its keys work."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from semantic_tui.app import Dashboard
from semantic_tui.screens.agent import AgentScreen, Tile
from semantic_tui.screens.dialogs import ConfirmDialog
from semantic_tui.widgets.rows_table import RowsTable
from semanticd.adapters.process import running_pid
from semanticd.control.client import ControlClient
from tests.fakes.tiny_folder import write_tiny_model

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(600)
PATIENCE_S = 60.0


async def until(pilot: Pilot[Any], condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while not condition():
        assert loop.time() < deadline, "the condition never came true"
        await pilot.pause(0.05)


def stage_of(app: Dashboard, model: str) -> str:
    """Return how far a change of this model is; empty while the dashboard knows of none."""
    change = app.state.changes.get(model)
    return change.progress.stage if change is not None else ""


def environment(home: Path, model: Path) -> dict[str, str]:
    """Return the environment of a daemon whose folders are all in `home`."""
    return {
        "PATH": os.environ["PATH"],
        "SEMANTIC_AGENT_DISK_RESERVE_GB": "0",
        "HOME": str(home),
        "PYTHONPATH": str(REPOSITORY),
        "SEMANTIC_RUNTIME_DIR": str(home / "run"),
        "SEMANTIC_LOG_DIR": str(home / "logs"),
        "SEMANTIC_MODELS_DIR": str(home / "models"),
        "SEMANTIC_MLX_MODEL_ID": str(model),
        "SEMANTIC_MLX_CACHE_BUDGET_MB": "64",
        "SEMANTIC_SERVER_PORT": "0",
    }


@pytest.fixture
def daemon(short_tmp_path: Path) -> Iterator[tuple[Path, list[Path]]]:
    """A daemon's socket, and two models of which it has loaded the first."""
    home = short_tmp_path
    models = [
        write_tiny_model(home / name, seed=seed, ends=False) for seed, name in enumerate(("one", "two"))
    ]
    environ = environment(home, models[0])
    command = [sys.executable, "-m", "semanticd", "start"]
    ran = subprocess.run(command, cwd=home, env=environ, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    socket = home / "run" / "semanticd.sock"
    yield socket, models
    pid = running_pid(socket.with_name("semanticd.pid"))
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


async def streamed(address: str, words: str, *, agent: str) -> str:
    """Ask over HTTP; returns the text of the stream as the client got it."""
    body = {
        "model": "default", "messages": [{"role": "user", "content": words}], "max_tokens": 48, "temperature": 0,
        "stream": True,
    }  # fmt: skip
    text = ""
    async with (
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
        client.stream(
            "POST", f"{address}/v1/chat/completions", json=body, headers={"X-Session-ID": agent}
        ) as response,
    ):
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content") or ""
    return text


async def test_a_stream_a_swap_and_a_new_start_from_the_screen(
    daemon: tuple[Path, list[Path]],
) -> None:
    socket, models = daemon
    set_up = [f"{name}={value}" for name, value in environment(socket.parents[1], models[0]).items()]
    start = ("env", "-i", *set_up, sys.executable, "-m", "semanticd", "start")

    app = Dashboard(socket, start_command=start)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.state.connected and app.state.status.address)
        address = app.state.status.address
        await streamed(address, "tell me of the sea", agent="ada")
        await until(pilot, lambda: app.screen.query_one(RowsTable).current_key == "ada")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, AgentScreen) and app.screen.query(Tile))
        got = await streamed(address, "tell me of the water", agent="ada")
        assert got.strip()
        await until(pilot, lambda: getattr(app.state.streams.get("ada"), "text", "") == got)
        tile = app.screen.query_one(Tile).query_one(Static)
        await until(pilot, lambda: str(tile.content) == got)
        # The turn that has just ended is there without a key being pressed.
        await until(pilot, lambda: app.screen.query_one("#turns", RowsTable).row_count == 2)

        await pilot.press("3")
        with ControlClient.connect(socket) as client:
            client.call("models.pull", model=str(models[1]), reply_within_s=PATIENCE_S)
        await until(pilot, lambda: [row.id for row in app.state.models][:2] == ["one", "two"])
        table = app.screen.query_one(RowsTable)
        await until(pilot, lambda: "two" in table.rows)
        await pilot.press("down")
        await until(pilot, lambda: table.current_key == "two")
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog))
        await pilot.press("y")
        await until(pilot, lambda: app.state.status.model == "two")
        await until(pilot, lambda: stage_of(app, "two") == "ready")
        assert await streamed(address, "tell me of the sea", agent="bob") != ""
        await until(pilot, lambda: getattr(app.state.agent("bob"), "model", "") == "two")

        pid = running_pid(socket.with_name("semanticd.pid"))
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(pilot, lambda: app.state.connection == "absent")
        await pilot.press("S")
        await until(pilot, lambda: app.state.connected and app.state.daemon.pid != pid)
        # Its environment names the first model.
        await until(pilot, lambda: app.state.status.model == "two")
