"""The requests screen: what runs and waits, and cancelling it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.markup import escape
from textual.widget import Widget

from semantic_tui.plain import REQUEST_COLUMNS, number, request_row
from semantic_tui.screens.watch_screen import WatchScreen
from semantic_tui.state import WatchState
from semantic_tui.widgets.rows_table import RowsTable


class RequestsScreen(WatchScreen):
    """Running and waiting requests."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("c", "cancel", "Cancel request")]

    def body(self) -> Iterable[Widget]:
        """Lay out the table."""
        yield RowsTable((*REQUEST_COLUMNS, "TTFT", "tok/s", "cached", "class", "preempted"), id="requests")

    def on_mount(self) -> None:
        """Focus the table."""
        self.query_one("#requests").focus()

    def show(self, state: WatchState) -> None:
        """Show the requests."""
        table = self.query_one(RowsTable)
        table.border_title = f"Requests ({len(state.requests)})"
        table.show_rows(
            [
                (
                    str(row.get("id")),
                    (
                        *(escape(cell) for cell in request_row(row)),
                        number(row.get("ttft_ms"), " ms"),
                        number(row.get("tokens_per_s"), digits=1),
                        str(row.get("cached_tokens", "-")),
                        str(row.get("class", "-")),
                        str(row.get("num_preemptions") or ""),
                    ),
                )
                for row in state.requests
            ]
        )

    def action_cancel(self) -> None:
        """Cancel the request under the cursor."""
        request = self.query_one(RowsTable).current_key
        if request is not None:
            self.dashboard.command("requests.cancel", request=request)
