"""What a watcher finds: agents in their first turn, requests that were not answered, the past, and no leak."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from textual.app import App
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Input, RichLog

from semantic_tui.actions import AGENT_ACTIONS, MODEL_ACTIONS
from semantic_tui.app import SCREENS, Dashboard
from semantic_tui.live import LiveAgent
from semantic_tui.preferences import Preferences
from semantic_tui.screens.agent import Tile
from semantic_tui.screens.dialogs import TextDialog
from semantic_tui.screens.graphs import GraphDialog
from semantic_tui.screens.panels import activity_lines, facts_shown, pool_lines
from semantic_tui.state import WatchState
from semantic_tui.widgets.rows_table import Column, Row, RowsTable, fitted
from semantic_tui.widgets.transcript_view import TranscriptView
from tests.fakes import control_script, watch_states
from tests.fakes.control_daemon import FakeControlDaemon

Until = Callable[[Pilot[Any], Callable[[], object]], Awaitable[None]]


@asynccontextmanager
async def dashboard(
    socket: Path, until: Until
) -> AsyncIterator[tuple[Dashboard, FakeControlDaemon, Pilot[Any]]]:
    """Run a dashboard that is connected to a daemon."""
    async with FakeControlDaemon(socket, control_script.answers()) as daemon:
        app = Dashboard(socket)
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: app.state.connected)
            yield app, daemon, pilot


async def go_to(app: Dashboard, pilot: Pilot[Any], until: Until, name: str) -> None:
    """Press a screen's key, and wait until it is shown."""
    await pilot.press(str(SCREENS.index(name) + 1))
    await until(pilot, lambda: app.place == name and app.screen.query("#keys"))


def seen(app: Dashboard) -> str:
    """Return the text on the screen."""
    return app.export_screenshot().replace("&#160;", " ")


async def test_the_stream_of_an_agent_in_its_first_turn_is_opened_from_its_request(
    socket_path: Path, until: Until
) -> None:
    async with dashboard(socket_path, until) as (app, daemon, pilot):
        daemon.failures["agents.show"] = ("agent_not_found", "no agent is called newcomer")
        request = {**control_script.requests()[0], "id": "req-9", "agent": "newcomer"}
        await daemon.publish("agents", {"agents": []})
        await daemon.publish("requests", {"requests": [request]})
        await until(pilot, lambda: app.screen.query_one(RowsTable).current_key == "newcomer")
        await go_to(app, pilot, until, "requests")
        await until(pilot, lambda: app.screen.query_one("#requests", RowsTable).current_key == "req-9")
        await pilot.press("enter")
        await until(pilot, lambda: app.place == "agent" and app.screen.query(Tile))
        await daemon.publish(
            "tokens", {"agent": "newcomer", "request": "req-9", "text": "hello", "num_tokens": 1}
        )
        await until(pilot, lambda: "hello" in seen(app))
        assert "no agent is called" not in seen(app)


async def test_requests_that_were_not_answered_are_listed_and_their_message_is_opened(
    socket_path: Path, until: Until
) -> None:
    async with dashboard(socket_path, until) as (app, _daemon, pilot):
        await go_to(app, pilot, until, "requests")
        await until(pilot, lambda: app.screen.query("#failures"))
        await until(pilot, lambda: app.screen.query_one("#failures", RowsTable).row_count == 3)
        app.screen.query_one("#failures").focus()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, TextDialog))
        await until(pilot, lambda: "out of memory" in seen(app))


async def test_the_log_begins_with_what_was_logged_before(socket_path: Path, until: Until) -> None:
    async with dashboard(socket_path, until) as (app, _daemon, pilot):
        await go_to(app, pilot, until, "log")
        await until(pilot, lambda: app.screen.query_one(RichLog).lines)
        assert len(app.state.log) == 15


async def test_the_log_of_an_agent_is_opened_from_its_row(socket_path: Path, until: Until) -> None:
    async with dashboard(socket_path, until) as (app, _daemon, pilot):
        await until(pilot, lambda: app.screen.query_one(RowsTable).current_key == "planner")
        await pilot.press("L")
        await until(pilot, lambda: app.place == "log")
        await until(pilot, lambda: app.screen.query_one("#search", Input).value == "planner")


async def test_the_palette_has_every_action_on_every_object() -> None:
    app = Dashboard(state=watch_states.busy())
    async with app.run_test() as pilot:
        await pilot.pause()
        titles = {command.title for command in app.get_system_commands(app.screen)}
        agents, models = [row.id for row in app.state.agents], [row.id for row in app.state.models]
        requests = [row.id for row in app.state.requests]
    assert min(map(len, (agents, models, requests))) > 1
    wanted = {
        f"{words} {agent}"
        for words in ("Open", "Chat with", "Log of", *AGENT_ACTIONS.values())
        for agent in agents
    }
    wanted |= {f"{words} {model}" for words in MODEL_ACTIONS.values() for model in models}
    wanted |= {f"Cancel request {request}" for request in requests}
    assert wanted - titles == set()


async def test_graphs_are_zoomed_and_the_span_is_changed(until: Until) -> None:
    app = Dashboard(state=watch_states.busy())
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("plus", "z")
        await until(pilot, lambda: isinstance(app.screen, GraphDialog))
        assert app.preferences.span_s == 300
        await until(pilot, lambda: "-5 min" in seen(app))
        await pilot.press("minus", "minus", "right")
        await until(pilot, lambda: "-1 min" in seen(app) and "time between two tokens" in seen(app))


async def test_a_turns_difference_is_opened_with_its_verdict(socket_path: Path, until: Until) -> None:
    async with dashboard(socket_path, until) as (app, _daemon, pilot):
        app.open_agent("planner")
        await until(pilot, lambda: app.place == "agent" and app.screen.query("#turns"))
        await until(pilot, lambda: app.screen.query_one("#turns", RowsTable).row_count == 3)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, TextDialog))
        await until(pilot, lambda: "4.3 of 5.4 s waiting for RAM behind coder." in seen(app))


async def test_a_transcript_is_searched_and_copied(socket_path: Path, until: Until) -> None:
    async with dashboard(socket_path, until) as (app, _daemon, pilot):
        app.open_agent("planner")
        await until(pilot, lambda: app.screen.query("#search") and "planner" in app.state.details)
        await pilot.press("slash")
        await until(pilot, lambda: app.screen.query_one("#search", Input).has_focus)
        await pilot.press(*"which")
        view = app.screen.query_one(TranscriptView)
        await until(
            pilot, lambda: "1 matching line;" in str(app.screen.query_one("#search", Input).border_subtitle)
        )
        await pilot.press("enter", "n", "y")
        await until(pilot, lambda: app.clipboard == "Which test fails, and why?" and view.has_focus)


async def test_choices_are_remembered_from_run_to_run(tmp_path: Path) -> None:
    file = tmp_path / "state" / "dashboard.json"

    async def run(*keys: str) -> Dashboard:
        app = Dashboard(state=watch_states.busy(), preferences=Preferences(file))
        async with app.run_test() as pilot:
            await pilot.press(*keys)
        return app

    await run("s", "t", "plus", "r")
    kept = await run()
    assert (kept.preferences.sort, kept.preferences.reverse, kept.preferences.span_s) == ("id", True, 300)
    assert kept.theme == "semantic-light"
    for broken in ("", "[]", '{"sort": "nothing", "span_s": [], "theme": 7}', json.dumps({"sort": {}})):
        file.write_text(broken)
        assert Preferences(file).sort == "last_used_at"


async def test_switching_screens_keeps_no_object_alive() -> None:
    app, counts = Dashboard(state=watch_states.busy()), []
    app.toggle_watched("planner")
    async with app.run_test() as pilot:
        for at in range(6 * 8):
            await pilot.press(str(at % 6 + 1))
            if at % 6 == 5:
                gc.collect()
                living = gc.get_objects()
                counts.append((sum(isinstance(one, Widget) for one in living), len(living)))
                del living
    widgets, objects = (list(column) for column in zip(*counts, strict=True))
    assert widgets[-1] <= widgets[1]
    # Caches are filled in the first rounds, one earlier than another; then, twenty-four switches keep nothing.
    assert objects[-1] - max(objects[:4]) < 24


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("short", 8, "short"),
        ("a-rather-long-name", 8, "a-ra…ame"),
        ("模型模型模型", 8, "模型…型"),
        ("x" * 95, 5, "xx…xx"),
    ],
)
def test_a_cell_never_takes_more_than_its_width(text: str, width: int, shown: str) -> None:
    assert fitted(text, width) == shown


def test_what_is_cut_begins_with_no_accent_of_a_letter_that_is_gone() -> None:
    for width in range(4, 40):
        shown = fitted("e\u0301" * 60, width)
        assert "…\u0301" not in shown
        assert cell_len(shown) <= width


async def test_columns_do_not_move_with_their_content() -> None:
    async def widths(name: str) -> list[int]:
        state = watch_states.busy()
        rows = [{**row, "id": name} if at == 0 else row for at, row in enumerate(control_script.agents())]
        state.take("agents", {"agents": rows})
        app = Dashboard(state=state)
        async with app.run_test(size=(120, 40)) as pilot:
            await pilot.pause()
            table = app.screen.query_one(RowsTable)
            return [column.get_render_width(table) for column in table.ordered_columns]

    assert await widths("a") == await widths("模" * 95)


async def test_rows_that_move_come_and_go_keep_their_cells_and_the_cursor_its_row() -> None:
    columns = (Column("name", 12, right=False), Column("number", 6), Column("mark", 9, right=False))

    def rows(*names: str, add: int = 0) -> list[Row]:
        return [
            (name, (name, (str(len(name) + add), "$error"), [("▒", "bold"), ("▓", "")])) for name in names
        ]

    class Shown(App[None]):
        def compose(self) -> Iterator[Widget]:
            yield RowsTable(columns)

    def lines(app: App[None]) -> list[str]:
        table = app.query_one(RowsTable)
        return [table.render_line(y).text.rstrip() for y in range(1, table.row_count + 1)]

    app, fresh = Shown(), Shown()
    async with app.run_test(size=(60, 20)) as pilot:
        table = app.query_one(RowsTable)
        table.show_rows(rows("planner", "coder", "模" * 95, "line\nbreak"))
        table.move_cursor(row=1)
        for step in (
            rows("coder", "planner", "模" * 95, "line\nbreak", add=1),
            rows("tester", "planner", "line\nbreak", "coder"),
            rows("coder"),
            rows("critic", "coder", "planner", *(f"agent-{at}" for at in range(12))),
            rows(*(f"agent-{at}" for at in range(11, 0, -1)), "coder"),
        ):
            table.show_rows(step)
            await pilot.pause()
            assert table.current_key == "coder"
            assert [str(table.get_row_at(at)[0]) for at in range(table.row_count)] == [
                fitted(key, 12) for key, _ in step
            ]
            async with fresh.run_test(size=(60, 20)) as other:
                fresh.query_one(RowsTable).show_rows(step)
                await other.pause()
                assert lines(app) == lines(fresh)
            fresh = Shown()


class CountingState(WatchState):
    """A state that counts how often the agents' rows were asked for."""

    num_asked = 0

    def rows(self, watched: Collection[str] = ()) -> list[LiveAgent]:
        """Return the rows, and count."""
        self.num_asked += 1
        return super().rows(watched)


async def test_a_status_in_which_only_time_and_free_memory_differ_fills_no_table(until: Until) -> None:
    state = CountingState(connection="connected")
    state.take("agents", {"agents": control_script.agents()})
    app = Dashboard(state=state)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        app.screen.refresh_from(state)
        before = state.num_asked
        for step in range(3):
            status = {
                "uptime_s": 60.0 + step,
                "free_memory_bytes": 10**9 + step,
                "cache": {"free_disk_bytes": step},
            }
            state.take("status", status)
            app.screen.refresh_from(state)
        await until(pilot, lambda: "up 1 m 2 s" in seen(app))
        assert state.num_asked == before
        state.take("agents", {"agents": control_script.agents()[1:]})
        app.screen.refresh_from(state)
        assert state.num_asked == before + 1


def _status(**changes: Any) -> Callable[[WatchState], None]:
    """Return what gives the last status's parts other values."""
    given = control_script.status(40)
    for part, values in changes.items():
        given[part] = {**given[part], **values}
    return lambda state: state.take("status", given)


@pytest.mark.parametrize(
    "change",
    [
        _status(engine={"num_running": 4}),
        _status(cache={"hot_bytes": 1}),
        _status(savings={"saved_s": 9000.0}),
        lambda state: state.take("requests", {"requests": control_script.requests()[1:]}),
        lambda state: state.take_blocks({"blocks": [["pinned", 1]] * 9}),
        lambda state: state.history.forget(),
    ],
)
def test_panels_that_would_look_otherwise_are_filled_again(change: Callable[[WatchState], None]) -> None:
    def looks(state: WatchState) -> list[str]:
        lines = [*pool_lines(state, 60, 20, span_s=60), *activity_lines(state, 60, 20, span_s=60)]
        return [line.plain for line in lines]

    state = watch_states.busy()
    facts, before = facts_shown(state, 60), looks(state)
    assert facts_shown(watch_states.busy(), 60) == facts
    change(state)
    assert looks(state) != before
    assert facts_shown(state, 60) != facts
