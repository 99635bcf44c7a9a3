"""Every action: the command that reaches the daemon, and its failure on the screen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from semantic_tui.app import Dashboard
from semantic_tui.screens.agent import Tile
from semantic_tui.screens.dialogs import ConfirmDialog, WordDialog
from semantic_tui.transcript import entries
from semantic_tui.widgets.rows_table import RowsTable
from semantic_tui.widgets.top_line import complaint
from tests.fakes import control_script
from tests.fakes.control_daemon import FakeControlDaemon

Until = Callable[[Pilot[Any], Callable[[], object]], Awaitable[None]]
Deed = tuple[str, dict[str, Any]]


def notices(app: Dashboard) -> list[str]:
    """Return what the notifications on the screen say."""
    return [str(toast.render()) for toast in app.screen.query("Toast")]


@asynccontextmanager
async def dashboard(
    socket: Path, until: Until
) -> AsyncIterator[tuple[Dashboard, FakeControlDaemon, Pilot[Any]]]:
    """Run a dashboard that is connected to a daemon and shows its agents."""
    async with FakeControlDaemon(socket, control_script.answers()) as daemon:
        app = Dashboard(socket)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await until(pilot, lambda: app.state.connected and app.screen.query_one(RowsTable).row_count > 0)
            yield app, daemon, pilot


AGENT_DEEDS: list[tuple[list[str], Deed]] = [
    (["p"], ("agents.pin", {"agent": "planner"})),
    (["down", "down", "p"], ("agents.unpin", {"agent": "reviewer"})),
    (["e"], ("agents.evict", {"agent": "planner"})),
    (["d", "y"], ("agents.delete", {"agent": "planner"})),
    (["f", "c", "2", "enter"], ("agents.fork", {"agent": "planner", "new_id": "c2"})),
    (["w", "enter"], ("agents.rewind", {"agent": "planner", "turns": 1})),
    (["c"], ("requests.cancel", {"request": "req-1"})),
    (["3", "down", "w", "y"], ("models.swap", {"model": "qwen3-4b"})),
    (["3", "down", "l", "y"], ("models.load", {"model": "qwen3-4b"})),
    (["3", "u", "y"], ("models.unload", {"model": "smollm2-135m"})),
    (["3", "p", "enter"], ("models.pull", {"model": "smollm2-135m"})),
    (["4", "down", "c"], ("requests.cancel", {"request": "req-2"})),
    (["6"], ("doctor", {"generate": False})),
    (["6", "g"], ("doctor", {"generate": True})),
]


async def press(app: Dashboard, pilot: Pilot[Any], keys: list[str], until: Until) -> None:
    """Press keys as a person does, who waits for a dialog or a screen to come."""
    for key, following in zip(keys, [*keys[1:], ""], strict=True):
        before = app.screen
        await pilot.press(key)
        if key in ("3", "4", "6"):
            await until(pilot, lambda before=before: app.screen is not before)
            if key != "6":
                await until(pilot, lambda: app.screen.query_one(RowsTable).row_count)
        elif following and key in set("dfwlup"):
            await until(pilot, lambda: is_answerable(app))


def is_answerable(app: Dashboard) -> bool:
    """Whether a dialog is there and takes the next key."""
    if isinstance(app.screen, WordDialog):
        return any(field.has_focus for field in app.screen.query(Input))
    return isinstance(app.screen, ConfirmDialog)


@pytest.mark.parametrize(
    ("keys", "deed"), AGENT_DEEDS, ids=[deed[0] + "-" + "".join(k) for k, deed in AGENT_DEEDS]
)
async def test_a_key_sends_its_command_and_a_failure_is_shown(
    keys: list[str], deed: Deed, socket_path: Path, until: Until
) -> None:
    async with dashboard(socket_path, until) as (app, daemon, pilot):
        daemon.failures[deed[0]] = ("conflict", "the daemon says no, and why")
        await press(app, pilot, keys, until)
        await until(pilot, lambda: deed in daemon.deeds())
        await until(pilot, lambda: any("the daemon says no, and why" in told for told in notices(app)))


async def test_export_sends_the_path_and_its_success_is_told(socket_path: Path, until: Until) -> None:
    async with dashboard(socket_path, until) as (app, daemon, pilot):
        await pilot.press("x")
        await until(pilot, lambda: is_answerable(app))
        app.screen.query_one(Input).value = "/somewhere/planner.agent"
        await pilot.press("enter")
        wanted = ("agents.export", {"agent": "planner", "path": "/somewhere/planner.agent"})
        await until(pilot, lambda: wanted in daemon.deeds())
        await until(pilot, lambda: any("planner was exported" in told for told in notices(app)))


async def test_no_means_no(socket_path: Path, until: Until) -> None:
    async with dashboard(socket_path, until) as (app, daemon, pilot):
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog))
        await pilot.press("n")
        await until(pilot, lambda: not isinstance(app.screen, ConfirmDialog))
        assert daemon.deeds() == []


async def test_streams_of_two_agents_run_side_by_side(socket_path: Path, until: Until) -> None:
    async with dashboard(socket_path, until) as (app, daemon, pilot):
        await pilot.press("space", "down", "enter")
        await until(pilot, lambda: len(app.screen.query(Tile)) == 2)
        for at in range(50):
            for agent in ("planner", "coder"):
                data = {"agent": agent, "request": "r", "text": f"{agent}{at} ", "num_tokens": at + 1}
                await daemon.publish("tokens", data)
        await until(pilot, lambda: app.state.num_token_events == 100)
        assert app.state.streams["coder"].text == "".join(f"coder{at} " for at in range(50))


async def test_a_restarted_daemon_is_found_again_and_between_data_is_stale(
    socket_path: Path, until: Until
) -> None:
    async with dashboard(socket_path, until) as (app, daemon, pilot):
        await daemon.stop()
        await until(pilot, lambda: app.state.stale and app.screen.has_class("stale"))
        assert app.screen.query_one(RowsTable).row_count == 8
        async with FakeControlDaemon(socket_path, control_script.answers()):
            await until(pilot, lambda: app.state.connected and not app.screen.has_class("stale"))


async def test_another_protocol_is_explained(socket_path: Path, until: Until) -> None:
    async with FakeControlDaemon(socket_path) as daemon:
        daemon.failures["hello"] = ("unsupported_version", "protocol version 1 is not spoken here")
        app = Dashboard(socket_path)
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.state.connection == "mismatch")
            assert "restart the daemon after upgrading" in app.state.reason


async def test_a_socket_that_others_may_replace_is_not_talked_to_and_that_is_said(
    socket_path: Path, until: Until
) -> None:
    async with FakeControlDaemon(socket_path) as daemon:
        socket_path.parent.chmod(0o777)
        app = Dashboard(socket_path)
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.state.connection == "untrusted")
            assert "others may replace" in complaint(app.state, 0.0)
        assert daemon.commands == []


async def test_the_daemon_is_started_from_the_dashboard_and_a_failed_start_is_shown(
    socket_path: Path, until: Until
) -> None:
    app = Dashboard(socket_path, start_command=("sh", "-c", "echo no model fits; exit 1"))
    async with app.run_test(notifications=True) as pilot:
        await until(pilot, lambda: app.state.connection == "absent")
        await pilot.press("S")
        await until(pilot, lambda: any("no model fits" in told for told in notices(app)))


async def test_typing_a_filter_leaves_the_agents_that_match(socket_path: Path, until: Until) -> None:
    async with dashboard(socket_path, until) as (app, _, pilot):
        await pilot.press("slash")
        await until(pilot, lambda: app.screen.query_one("#filter", Input).has_focus)
        await pilot.press(*"cold")
        await until(pilot, lambda: app.screen.query_one(RowsTable).row_count == 1)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen.query_one(RowsTable).row_count == 8)


async def test_an_agent_that_is_deleted_while_it_is_open_is_shown_as_gone(
    socket_path: Path, until: Until
) -> None:
    """Whoever deleted it: what is deleted is not shown, neither its stream nor its conversation."""
    async with dashboard(socket_path, until) as (app, daemon, pilot):
        app.open_agent("planner")
        await daemon.publish(
            "tokens", {"agent": "planner", "request": "req-1", "text": "a secret", "num_tokens": 2}
        )
        await until(pilot, lambda: "planner" in app.state.details and bool(app.screen.query(Tile)))
        await until(pilot, lambda: "a secret" in str(app.screen.query_one(Tile).query_one(Static).render()))
        daemon.failures["agents.show"] = ("agent_not_found", "no agent has the id 'planner'")
        await daemon.publish("requests", {"requests": []})
        rows = [row for row in control_script.agents() if row["id"] != "planner"]
        await daemon.publish("agents", {"agents": rows, "num_agents": len(rows)})

        async def goes_on() -> None:
            # As a daemon's states do: a question so soon after the one before waits for the next.
            while True:
                await daemon.publish("status", control_script.status())
                await asyncio.sleep(0.2)

        states = asyncio.create_task(goes_on())
        await until(pilot, lambda: "gone" in str(app.screen.query_one(Tile).border_subtitle))
        states.cancel()
        await until(
            pilot, lambda: "was deleted" in str(app.screen.query_one(Tile).query_one(Static).render())
        )
        assert entries(app.state, "planner") == []


async def test_what_is_asked_can_be_read_in_a_terminal_of_five_lines(socket_path: Path, until: Until) -> None:
    async with dashboard(socket_path, until) as (app, _, pilot):
        await pilot.resize_terminal(30, 5)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog) and app.screen.query("Label"))
        dialog = app.screen
        heading = dialog.query_one("Label")
        dialog.query_one(".dialog").scroll_home(animate=False)
        await until(pilot, lambda: heading.region.height > 0 and 0 <= heading.region.y < 5)
        await pilot.resize_terminal(120, 40)
        await pilot.press("n")
        await until(pilot, lambda: app.screen is not dialog)
