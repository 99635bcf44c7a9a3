"""S starts the daemon as it was: its flags, and the model that it served last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from semantic_tui.app import Dashboard
from semantic_tui.starting import start_arguments
from semantic_tui.state import WatchState
from semanticd.control.address import SOCKET_NAME
from semanticd.control.results import HelloResult
from tests.fakes import control_script
from tests.fakes.control_daemon import FakeControlDaemon

Until = Callable[[Pilot[Any], Callable[[], object]], Awaitable[None]]
SETTINGS = [
    {"name": "server.port", "value": 8123, "origin": "flag --port"},
    {"name": "server.cors_origins", "value": ["https://a", "https://b"], "origin": "flag --server-cors-origins"},
    {"name": "server.log_console", "value": False, "origin": "flag --server-log-console"},
    {"name": "mlx.model_id", "value": "smollm2-135m", "origin": "flag --model"},
    {"name": "server.host", "value": "0.0.0.0", "origin": "environment SEMANTIC_HOST"},
]  # fmt: skip


def watched(model: str | None) -> WatchState:
    """Return what is known of a daemon that served a model."""
    state = WatchState()
    state.begin(HelloResult(pid=1))
    state.take_settings({"settings": SETTINGS})
    state.take_models({"models": [*control_script.models(), {"id": "mine", "start_name": "/home/user/mine"}]})
    state.take("status", {"model": "smollm2-135m"})
    state.take("status", {"model": model})
    return state


def test_a_daemon_is_started_with_the_flags_and_the_model_of_the_one_that_ended() -> None:
    flags = ["--server-port=8123", "--server-cors-origins=https://a,https://b"]
    assert start_arguments(watched("qwen3-4b"), None) == [*flags, "--model=qwen3-4b"]
    assert start_arguments(watched("mine"), None) == [*flags, "--model=/home/user/mine"]
    assert start_arguments(watched(None), None) == [*flags, "--model=smollm2-135m"], "while it ended"


def test_where_no_daemon_was_seen_or_another_one_came_nothing_is_known() -> None:
    assert start_arguments(WatchState(), None) == []
    state = watched("mine")
    state.begin(HelloResult(pid=2))
    assert start_arguments(state, None) == []


def test_a_daemon_is_started_where_the_dashboard_looks_for_it() -> None:
    socket = Path("/run/other") / SOCKET_NAME
    assert start_arguments(WatchState(), socket) == ["--paths-runtime-dir=/run/other"]


async def test_the_key_starts_the_dead_daemon_with_its_model(
    socket_path: Path, until: Until, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    answers = {**control_script.answers(), "config.show": {"settings": SETTINGS}}
    app = Dashboard(socket_path, start_command=("sh", "-c", f'echo "$@" > {given}', "start"))
    async with app.run_test() as pilot:
        async with FakeControlDaemon(socket_path, answers) as daemon:
            await until(pilot, lambda: app.state.settings and app.state.models)
            await daemon.publish("status", {**control_script.status(), "model": "qwen3-4b"})
            await until(pilot, lambda: app.state.last_model == "qwen3-4b")
        await until(pilot, lambda: not app.state.connected)
        await pilot.press("S")
        await until(pilot, given.exists)
        await until(pilot, given.read_text)
    assert given.read_text().split()[-1] == "--model=qwen3-4b"
