"""The dashboard's first form: one screen with the daemon, its agents and its requests, asked once a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Header, Static

from semantic_tui.plain import AGENT_COLUMNS, REQUEST_COLUMNS, agent_row, header, request_row
from semanticd.control.client import ControlClient
from semanticd.control.errors import ControlError

REFRESH_S = 1.0


def fetch(socket: Path | None) -> dict[str, Any]:
    """Ask the daemon for everything that is shown; raises `ControlError`."""
    with ControlClient.connect(socket, name="semantic-tui") as client:
        return {
            "status": client.call("status"),
            "agents": client.call("agents.list")["agents"],
            "requests": client.call("requests.list")["requests"],
        }


class Dashboard(App[None]):
    """Watches one daemon."""

    TITLE = "semantic-tui"
    CSS = """
    #state { padding: 0 1; height: auto; }
    #requests { height: 30%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("r", "refresh", "Refresh"),
        Binding("p", "act('agents.pin')", "Pin"),
        Binding("u", "act('agents.unpin')", "Unpin"),
        Binding("e", "act('agents.evict')", "Evict"),
    ]

    def __init__(self, socket: Path | None) -> None:
        """Watch the daemon at a socket (None: this user's)."""
        super().__init__()
        self._socket = socket

    def compose(self) -> ComposeResult:
        """Lay out the screen."""
        yield Header()
        yield Static("connecting…", id="state")
        yield DataTable(id="agents", cursor_type="row")
        yield DataTable(id="requests", cursor_type="none")
        yield Footer()

    def on_mount(self) -> None:
        """Name the columns and begin to ask."""
        self.query_one("#agents", DataTable).add_columns(*AGENT_COLUMNS)
        self.query_one("#requests", DataTable).add_columns(*REQUEST_COLUMNS)
        self.set_interval(REFRESH_S, self.action_refresh)
        self.action_refresh()

    def action_refresh(self) -> None:
        """Ask again, beside the screen's own loop."""
        self.run_worker(self._ask, thread=True, exclusive=True)

    def _ask(self) -> None:
        try:
            shown = fetch(self._socket)
        except ControlError as error:
            self.call_from_thread(self._lost, str(error))
        else:
            self.call_from_thread(self._show, shown)

    def _lost(self, reason: str) -> None:
        self.sub_title = "not connected"
        self.query_one("#state", Static).update(f"{reason}\nWhat is shown below is from before.")

    def _show(self, shown: dict[str, Any]) -> None:
        self.sub_title = str(shown["status"].get("model") or "no model")
        self.query_one("#state", Static).update("\n".join(header(shown["status"])))
        self._fill("#agents", [agent_row(agent) for agent in shown["agents"]])
        self._fill("#requests", [request_row(request) for request in shown["requests"]])

    def _fill(self, selector: str, rows: list[tuple[str, ...]]) -> None:
        table = self.query_one(selector, DataTable)
        cursor = table.cursor_row
        table.clear()
        table.add_rows(rows)
        if rows:
            table.move_cursor(row=min(cursor, len(rows) - 1))

    def action_act(self, command: str) -> None:
        """Run a command on the agent under the cursor."""
        table = self.query_one("#agents", DataTable)
        if table.row_count:
            agent = str(table.get_row_at(table.cursor_row)[0])
            self.run_worker(lambda: self._run(command, agent), thread=True)

    def _run(self, command: str, agent: str) -> None:
        try:
            with ControlClient.connect(self._socket, name="semantic-tui") as client:
                client.call(command, agent=agent)
        except ControlError as error:
            self.call_from_thread(self.notify, str(error), severity="error")
        else:
            self.call_from_thread(self.notify, f"{command} {agent}: done")
            self.call_from_thread(self.action_refresh)
