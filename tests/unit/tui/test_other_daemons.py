"""A daemon that falls silent, that another one follows, or that swaps: what was true before is not shown as true."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from semantic_tui.alarms import alarms
from semantic_tui.app import SILENT_AFTER_S, Dashboard
from semantic_tui.model_facts import model_cells
from semantic_tui.screens.dialogs import TextDialog
from semantic_tui.screens.models import ModelsScreen
from semantic_tui.state import ModelChange
from semantic_tui.widgets.top_line import AlarmLine, complaint, headline
from semanticd.control.results import HelloResult, ModelProgress, ModelRow
from tests.fakes import control_script, watch_states
from tests.fakes.control_daemon import FakeControlDaemon

Until = Callable[[Pilot[Any], Callable[[], object]], Awaitable[None]]


def said(app: Dashboard) -> str:
    """Return the texts of the dialog on the screen."""
    return " ".join(str(part.content) for part in app.screen.query("Static"))  # type: ignore[attr-defined]


def test_of_another_daemon_no_block_and_no_finding_is_known() -> None:
    state = watch_states.busy()
    state.begin(HelloResult(pid=state.daemon.pid))
    assert state.blocks is not None
    assert state.doctor is not None
    state.begin(HelloResult(pid=state.daemon.pid + 1))
    assert (state.blocks, state.doctor) == (None, None)


async def test_the_doctor_that_is_seen_examines_the_daemon_that_came_and_says_when(
    socket_path: Path, until: Until
) -> None:
    first, then = ({**control_script.answers(), "hello": {"pid": pid}} for pid in (1, 2))
    app = Dashboard(socket_path, screen="doctor")
    async with app.run_test(size=(120, 40)) as pilot:
        for answers in (first, then):
            async with FakeControlDaemon(socket_path, answers) as daemon:
                await until(pilot, lambda: app.state.connected and app.state.doctor is not None)
                asked = [args for cmd, args in daemon.commands if cmd == "doctor"]
                assert asked == [{"generate": False}]
                await until(pilot, lambda: "checked" in str(app.screen.query_one("#doctor").border_subtitle))
            await until(pilot, lambda: not app.state.connected)


async def test_a_daemon_that_says_nothing_is_not_called_ready(socket_path: Path, until: Until) -> None:
    now = 1000.0
    async with FakeControlDaemon(socket_path, control_script.answers()) as daemon:
        app = Dashboard(socket_path, clock=lambda: now)
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: app.state.connected and app.state.heard)
            assert "● ready" in headline(app.state).plain
            now += SILENT_AFTER_S + 32
            await until(pilot, lambda: app.screen.has_class("stale"))
            assert "○ silent" in headline(app.state).plain
            assert "No response from the daemon for 42 s" in complaint(app.state, now)
            await daemon.publish("status", control_script.status(3))
            await until(pilot, lambda: not app.screen.has_class("stale"))
            assert "● ready" in headline(app.state).plain


async def test_while_the_old_model_drains_the_new_one_is_current(socket_path: Path, until: Until) -> None:
    async with FakeControlDaemon(socket_path, control_script.answers()) as daemon:
        app = Dashboard(socket_path, screen="models")
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: app.state.connected and app.state.models)
            await daemon.publish("models", control_script.change("loading", 1.0))
            await until(pilot, lambda: app.state.changes)
            rows = [{**row, "current": row["id"] == "qwen3-4b"} for row in control_script.models()]
            rows[1]["loaded"] = True
            daemon.answers["models.list"] = {"models": rows}
            await daemon.publish("status", {**control_script.status(1), "model": "qwen3-4b"})
            await until(pilot, lambda: any(row.current and row.id == "qwen3-4b" for row in app.state.models))
            screen = app.screen
            assert isinstance(screen, ModelsScreen)
            await until(pilot, lambda: "2 loaded" in str(screen.query_one("#models").border_title))
    change = ModelChange(ModelProgress(model="m", stage="loading", progress=1.0))
    assert model_cells(ModelRow(id="m", installed=True), change)[1][0] == "loading"
    assert model_cells(ModelRow(id="m", loaded=True, current=True), change)[1][0] == "current"
    draining = ModelChange(ModelProgress(model="m", stage="draining"))
    assert model_cells(ModelRow(id="m", loaded=True, current=True), draining)[1][0] == "draining"


async def test_a_click_lists_alarms_or_the_missing_daemon(
    until: Until,
) -> None:
    app = Dashboard(state=watch_states.failing(), clock=lambda: watch_states.NOW)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.screen.query_one(AlarmLine).size.width)
        await pilot.click(AlarmLine)
        await until(pilot, lambda: isinstance(app.screen, TextDialog))
    app = Dashboard(state=watch_states.absent(), clock=lambda: watch_states.NOW)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("exclamation_mark")
        await until(pilot, lambda: isinstance(app.screen, TextDialog) and "No daemon is running" in said(app))
        assert "Nothing needs attention" not in said(app)


def test_a_model_that_is_away_is_an_alarm_with_the_reason_and_the_remedy() -> None:
    state = watch_states.away()
    (alarm,) = [one for one in alarms(state) if one.short == "rank 1 is missing"]
    assert alarm.detail.startswith(f"The model is away: {state.status.model_away}. ")
    assert "run `semanticd worker` there. `semanticd models unload default` gives it up" in alarm.detail
    # All are there, and the model still is not.
    state.status = replace(state.status, ranks=(), model_away="rank 1 has another model")
    (alarm,) = [one for one in alarms(state) if one.short == "model away"]
    assert "rank 1 has another model" in alarm.detail
    state.status = replace(state.status, model_away=None)
    assert not [one for one in alarms(state) if "away" in one.short]


@pytest.mark.parametrize(("free", "level"), [(2**33, "warning"), (2**30, "warning"), (2**20, "error")])
def test_one_volume_is_one_alarm(free: int, level: str) -> None:
    state = watch_states.busy()
    cache = replace(state.cache, free_disk_bytes=free, disk_reserve_bytes=10 * 2**30)
    state.status = replace(state.status, cache=cache)
    (alarm,) = alarms(state)
    assert alarm.level == level
    assert "a restart loses them" in alarm.detail
