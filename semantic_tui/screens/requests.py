"""The requests screen: what runs and waits, and cancelling it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.markup import escape
from textual.widget import Widget
from textual.widgets import Static

from semantic_tui.plain import bar, duration, number, shortened
from semantic_tui.screens.watch_screen import WatchScreen
from semantic_tui.state import WatchState
from semantic_tui.widgets.rows_table import RowsTable

WIDE_FROM = 116
"""Columns of the terminal from which a request's id, class, cached tokens and preemptions are there too."""
NARROW = (
    ("agent", 0), ("state", 0), ("prefill", 7), ("prompt", 6), ("output", 9), ("TTFT", 6), ("tok/s", 5), ("age", 7),
)  # fmt: skip
WIDE = (
    ("agent", 0), ("state", 0), ("prefill", 0), ("prompt", 6), ("cached", 6), ("output", 9), ("TTFT", 6), ("tok/s", 5),
    ("age", 6), ("class", 0), ("preempt", 7), ("request", 0),
)  # fmt: skip
_STYLES = {"decoding": "$success", "prefilling": "$warning"}


def request_cells(row: Mapping[str, Any], *, wide: bool) -> tuple[str, ...]:
    """Return a request's cells as markup."""
    state, share = str(row.get("state") or "-"), float(row.get("prefill_progress") or 0)
    percent = f"{100 * share:3.0f} %"
    output = f"{row.get('completion_tokens', 0)}/{row.get('max_new_tokens', 0)}"
    speed = (duration(row.get("ttft_ms")), number(row.get("tokens_per_s"), digits=1))
    age, prompt = number(row.get("age_s"), " s", digits=1), str(row.get("prompt_tokens", "-"))
    agent = escape(shortened(str(row.get("agent") or "-"), 24 if wide else 12))
    styled = f"[{_STYLES.get(state, 'dim')}]{escape(state)}[/]"
    if not wide:
        return (agent, styled, percent, prompt, output, *speed, age)
    return (
        agent, styled, f"{bar(share, 6)} {percent}", prompt, str(row.get("cached_tokens", "-")), output, *speed, age,
        escape(str(row.get("class") or "-")), str(row.get("num_preemptions") or "-"),
        escape(shortened(str(row.get("id") or ""), 12)),
    )  # fmt: skip


class RequestsScreen(WatchScreen):
    """Running and waiting requests."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("c", "cancel", "Cancel request")]

    def body(self) -> Iterable[Widget]:
        """Lay out the table."""
        yield Static("No request runs or waits.", id="hint")
        yield RowsTable(NARROW, id="requests")

    def on_mount(self) -> None:
        """Focus the table."""
        self.query_one("#hint").border_title = "Requests (0)"
        self.query_one("#requests").focus()

    def show(self, state: WatchState) -> None:
        """Show the requests."""
        table = self.query_one(RowsTable)
        table.entitle(f"Requests ({len(state.requests)})")
        wide = self.size.width >= WIDE_FROM
        table.name_columns(WIDE if wide else NARROW)
        table.show_rows([(str(row.get("id")), request_cells(row, wide=wide)) for row in state.requests])
        self.query_one("#hint").display = not state.requests
        table.display = bool(state.requests)
        if self.focused is None:
            table.focus()

    def action_cancel(self) -> None:
        """Cancel the request under the cursor."""
        request = self.query_one(RowsTable).current_key
        if request is not None:
            self.dashboard.command("requests.cancel", request=request)
