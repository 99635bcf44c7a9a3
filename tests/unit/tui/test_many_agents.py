"""Agents beyond those used last, which the daemon's events leave out: searched, sorted, and listed at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual.pilot import Pilot
from textual.widgets import Input

from semantic_tui.app import Dashboard
from semantic_tui.more_agents import MAX_FOUND, PAGE, AgentSearch, MoreAgents
from semantic_tui.widgets.rows_table import RowsTable
from semanticd.control.results import AgentRow
from tests.fakes import control_script
from tests.fakes.control_daemon import FakeControlDaemon

Until = Callable[[Pilot[Any], Callable[[], object]], Awaitable[None]]
NUM_AGENTS, NUM_SENT = 700, 20
KEYS = {
    "used": lambda row: -row["last_used_at"],
    "tokens": lambda row: -row["num_tokens"],
    "turns": lambda row: -row["num_turns"],
    "name": lambda row: row["id"],
}


class ManyAgents:
    """A daemon's agents, of which its events hold those used last."""

    def __init__(self) -> None:
        """Have many; the longest unused has most tokens."""
        self.rows = [
            {"id": f"agent-{at:04}", "state": "cold", "model": "smollm2-135m", "num_tokens": at, "num_turns": 1,
             "last_used_at": 5000.0 - at, "pinned": at == 600}
            for at in range(NUM_AGENTS)
        ]  # fmt: skip

    def event(self) -> dict[str, Any]:
        """Return what the topic `agents` holds."""
        return {"agents": self.rows[:NUM_SENT], "num_agents": len(self.rows)}

    def list(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `agents.list` as the daemon does; the first question is for as many as the events hold."""
        if "order" not in args:
            return self.event()
        words = str(args.get("words", "")).lower().split()
        found = [
            row
            for row in sorted(self.rows, key=KEYS[args["order"]])
            if all(word in row["id"] or word in row["model"] for word in words)
            and args.get("pinned") in (None, row["pinned"])
        ]
        names = [row["id"] for row in found]
        rest = found[names.index(args["after"]) + 1 :] if args.get("after") else found
        page = rest[: args["limit"]]
        following = page[-1]["id"] if len(rest) > len(page) else None
        return {"agents": page, "num_agents": len(found), "next": following}


@asynccontextmanager
async def dashboard(socket: Path, until: Until) -> AsyncIterator[tuple[Dashboard, ManyAgents, Pilot[Any]]]:
    """Run a dashboard that is connected to a daemon with many agents."""
    many = ManyAgents()
    async with FakeControlDaemon(
        socket, {"status": control_script.status(), "agents.list": many.list}
    ) as daemon:
        app = Dashboard(socket)
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: num_shown(app) == NUM_SENT)
            await daemon.publish("agents", many.event())
            yield app, many, pilot


def title(app: Dashboard) -> str:
    return str(app.screen.query_one(RowsTable).border_title)


def num_shown(app: Dashboard) -> int:
    return app.screen.query_one(RowsTable).row_count


def shown(app: Dashboard) -> list[str]:
    table = app.screen.query_one(RowsTable)
    return [table.get_row_at(at)[0].plain.strip() for at in range(table.row_count)]


async def filter_by(app: Dashboard, pilot: Pilot[Any], until: Until, words: str) -> None:
    """Type a filter, once its field takes the keys."""
    await pilot.press("slash")
    await until(pilot, lambda: app.screen.query_one("#filter", Input).has_focus)
    await pilot.press(*words)


async def test_a_filter_finds_agents_that_were_not_sent(socket_path: Path, until: Until) -> None:
    async with dashboard(socket_path, until) as (app, _many, pilot):
        await until(pilot, lambda: "20 of 700, scroll for more" in title(app))
        await filter_by(app, pilot, until, "T-06 smol")
        await until(pilot, lambda: num_shown(app) == 100 and "100 of 700" in title(app))
        await pilot.press("enter", "enter")
        await until(pilot, lambda: app.place == "agent" and app.chosen == "agent-0600")
        app.switch_mode("dashboard")
        await until(pilot, lambda: app.place == "dashboard")
        await filter_by(app, pilot, until, "")
        app.screen.query_one("#filter", Input).value = "pinned"
        await until(pilot, lambda: num_shown(app) == 1 and shown(app) == ["▸ agent-0600"])
        await pilot.press("escape")
        await until(pilot, lambda: num_shown(app) == NUM_SENT)


async def test_the_end_of_the_list_fetches_what_comes_after_it(socket_path: Path, until: Until) -> None:
    async with dashboard(socket_path, until) as (app, many, pilot):
        await until(pilot, lambda: "scroll for more" in title(app))
        for num_wanted in (NUM_SENT + PAGE, NUM_AGENTS):
            await pilot.press("end")
            await until(pilot, lambda wanted=num_wanted: num_shown(app) == wanted)
        assert [name.removeprefix("* ") for name in shown(app)] == [row["id"] for row in many.rows]
        last = many.rows[NUM_SENT + PAGE - 1]["id"]
        await until(pilot, lambda: app.screen.query_one(RowsTable).current_key == last)
        await until(pilot, lambda: title(app) == "Agents (700)")


def test_agents_that_are_found_are_bounded() -> None:
    more = MoreAgents()
    for _ in range(MAX_FOUND // PAGE):
        assert more.ask_more()
        assert not more.ask_more(), "one page at a time"
        more.take(more.search, [AgentRow(id=str(at)) for at in range(more.search.number)], has_more=True)
    assert not more.ask_more()
    assert len(more.rows) == MAX_FOUND
    more.take(AgentSearch("other"), [], has_more=False)
    assert len(more.rows) == MAX_FOUND, "an answer to an earlier question"
    more.ask("coder", "last_used_at")
    more.ask("", "last_used_at")
    more.take(more.search, [AgentRow(id="late")], has_more=True)
    assert more.rows == (), "the question was withdrawn before it was sent"


async def test_an_order_is_one_of_all_agents(socket_path: Path, until: Until) -> None:
    async with dashboard(socket_path, until) as (app, _many, pilot):
        await until(pilot, lambda: "700" in title(app))
        app.preferences.change(sort="num_tokens")
        await until(pilot, lambda: shown(app)[:1] == ["agent-0699"])
        await until(pilot, lambda: "520 of 700, scroll for more" in title(app))


async def test_a_daemon_that_sends_every_agent_is_asked_for_none(socket_path: Path, until: Until) -> None:
    async with FakeControlDaemon(socket_path, control_script.answers()) as daemon:
        app = Dashboard(socket_path)
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: num_shown(app) == 8)
            await pilot.press("end")
            await filter_by(app, pilot, until, "coder")
            await until(pilot, lambda: shown(app) == ["coder"])
            await daemon.publish("status", control_script.status(3))
            await until(pilot, lambda: app.state.status.uptime_s == 3723.0)
            assert [args for cmd, args in daemon.commands if cmd == "agents.list"] == [{"limit": PAGE}]
