"""The requests screen: running and waiting requests, and below them failed and refused ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import DataTable, Static

from semantic_tui.live import request_state
from semantic_tui.plain import count, duration, number, output_text, short_class, time_of_day
from semantic_tui.screens.dialogs import TextDialog
from semantic_tui.screens.watch_screen import WatchScreen
from semantic_tui.state import WatchState
from semantic_tui.widgets.rows_table import Cell, Column, RowsTable, filled
from semanticd.control.results import FailureRow, RequestRow

WIDE_FROM = 116
"""Columns of the terminal from which a request's model, reason, cached tokens and id are there too."""
_NARROW = (
    Column("agent", 0, right=False), Column("state", 20, right=False), Column("prompt", 7), Column("output", 11),
    Column("TTFT", 6), Column("age", 7),
)  # fmt: skip
_WIDE = (
    Column("agent", 0, right=False), Column("state", 24, right=False), Column("behind", 20, right=False),
    Column("prompt", 7), Column("cached", 7), Column("output", 11), Column("TTFT", 6), Column("age", 7),
    Column("class", 5, right=False),
)  # fmt: skip
_FAILED = (
    Column("when", 8), Column("agent", 16, right=False), Column("HTTP", 4), Column("reason", 18, right=False),
    Column("message", 0, right=False),
)  # fmt: skip


def request_cells(row: RequestRow, *, wide: bool) -> tuple[Cell, ...]:
    """Return a request's cells."""
    agent, state = row.agent or "-", request_state(row, room=(_WIDE if wide else _NARROW)[1].width)
    output = output_text(row)
    prompt = count(row.prompt_tokens) if row.prompt_tokens else "-"  # not read yet
    age, ttft = number(row.age_s, " s", digits=1), duration(row.ttft_ms)
    if not wide:
        return (agent, state, prompt, output, ttft, age)
    cached, short = count(row.cached_tokens), short_class(row.priority)
    return (agent, state, row.wait_behind or "", prompt, cached, output, ttft, age, short)


def failure_cells(row: FailureRow) -> tuple[Cell, ...]:
    """Return the cells of a request that was not answered."""
    return (
        time_of_day(row.at),
        row.agent or "-",
        str(row.status or "-"),
        (row.code or "-", "$error" if row.kind == "failed" else "$warning"),
        " ".join(row.message.split()),
    )


class RequestsScreen(WatchScreen):
    """Running and waiting requests, and those that were not answered."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open agent", show=False),
        Binding("c", "cancel", "Cancel request"),
        Binding("L", "log", "Log"),
    ]

    def body(self) -> Iterable[Widget]:
        yield Static("No running or waiting requests.", id="hint")
        yield RowsTable(filled(_NARROW, 80), id="requests")
        yield RowsTable(filled(_FAILED, 80), id="failures")

    def on_mount(self) -> None:
        self.query_one("#hint").border_title = "Requests (0)"
        self.query_one("#requests").focus()

    def show(self, state: WatchState) -> None:
        table, failures = self.query_one("#requests", RowsTable), self.query_one("#failures", RowsTable)
        table.entitle(f"Requests ({len(state.requests)})", "enter opens the agent")
        wide = self.size.width >= WIDE_FROM
        table.name_columns(filled(_WIDE if wide else _NARROW, self.size.width))
        table.show_rows([(row.id, request_cells(row, wide=wide)) for row in state.requests])
        self.query_one("#hint").display = not state.requests
        table.display = bool(state.requests)
        failures.display = bool(state.failures)
        failures.name_columns(filled(_FAILED, self.size.width))
        failures.entitle(f"Not answered ({len(state.failures)})", "enter shows the message")
        failures.show_rows(
            [(f"{at} {row.request}", failure_cells(row)) for at, row in enumerate(state.failures)]
        )
        if self.focused is None:
            (table if state.requests else failures).focus()

    def _request(self) -> RequestRow | None:
        """Return the request under the cursor."""
        key = self.query_one("#requests", RowsTable).current_key
        return next((row for row in self.dashboard.state.requests if row.id == key), None)

    def _failure(self) -> FailureRow | None:
        """Return the failure under the cursor."""
        at, failures = self.query_one("#failures", RowsTable).cursor_row, self.dashboard.state.failures
        return failures[at] if 0 <= at < len(failures) else None

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the request's agent, also in its first turn; of a failure, its message."""
        if event.data_table.id == "failures":
            failure = self._failure()
            if failure is not None:
                about = f"request {failure.request}, agent {failure.agent or 'anonymous'}"
                title = f"{failure.code} (HTTP {failure.status})"
                self.app.push_screen(TextDialog(title, f"{failure.message}\n\n{about}"))
            return
        request = self._request()
        if request is not None and request.agent:
            self.dashboard.open_agent(request.agent)

    def action_log(self) -> None:
        """Show the log's lines about the request, or the failure, under the cursor of the table with the focus."""
        failure = self._failure() if self.focused is self.query_one("#failures") else None
        request = self._request()
        name = failure.request if failure is not None else request.id if request is not None else ""
        if name:
            self.dashboard.open_log(name)

    def action_cancel(self) -> None:
        request = self.query_one("#requests", RowsTable).current_key
        if request is not None:
            self.dashboard.command("requests.cancel", request=request)
