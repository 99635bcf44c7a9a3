"""The dashboard: agents above; block pool and activity below."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.markup import escape
from textual.widget import Widget
from textual.widgets import DataTable, Input

from semantic_tui.agent_columns import AgentColumn, columns_for
from semantic_tui.agent_order import SORT_KEYS, listed, next_key, order_text
from semantic_tui.screens.panels import activity_lines, pool_lines
from semantic_tui.screens.watch_screen import AgentActionsScreen
from semantic_tui.state import WatchState
from semantic_tui.widgets.rows_table import Column, RowsTable
from semantic_tui.widgets.shown_text import ShownText

_STATE_STYLES = {"active": "bold $success", "hot": "$success", "warm": "$primary", "cold": "dim"}
_MIN_PANEL_ROWS, _MAX_PANEL_ROWS = 11, 22


def agent_cells(row: Any, columns: Iterable[AgentColumn], *, watched: bool) -> tuple[str, ...]:
    """Return an agent's cells as markup; agents that are shown in tiles have a mark."""
    cells = []
    for column in columns:
        cell = escape(column.cell(row))
        style = _STATE_STYLES.get(str(row.get("state"))) if column.sort_key == "state" else None
        if column.sort_key == "id" and watched:
            cell = f"▸ {cell}"
        cells.append(f"[{style}]{cell}[/]" if style else cell)
    return tuple(cells)


def titles(columns: Iterable[AgentColumn]) -> tuple[Column, ...]:
    """Return the columns as a table names them."""
    return tuple((column.title, column.width) for column in columns)


class DashboardScreen(AgentActionsScreen):
    """Who runs, how fast, and whose cache is where."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse", show=False),
        Binding("space", "watch", "Tile"),
        Binding("escape", "clear_filter", show=False),
    ]

    def __init__(self) -> None:
        """Begin with the agents that were used last."""
        super().__init__()
        self._words, self._sort, self._reverse = "", next(iter(SORT_KEYS)), False
        self._panel_rows = 0

    def body(self) -> Iterable[Widget]:
        """Lay out table and panels."""
        yield Input(placeholder="id, state, tier, class, model or pinned", id="filter")
        yield ShownText(id="hint")
        yield RowsTable(titles(columns_for(0)), id="agents")
        yield Horizontal(
            VerticalScroll(ShownText(id="pool-text"), id="pool", can_focus=False),
            VerticalScroll(ShownText(id="activity-text"), id="activity", can_focus=False),
            id="panels",
        )

    def on_mount(self) -> None:
        """Name the panels."""
        filter_box = self.query_one("#filter")
        filter_box.border_title, filter_box.display = "Filter", False
        self.query_one("#hint").border_title = "Agents (0)"
        self.query_one("#pool").border_title = "Block pool"
        self.query_one("#activity").border_title = "Activity"
        self.query_one("#agents").focus()

    def chosen_agent(self) -> str | None:
        """Return the agent under the cursor."""
        return self.query_one(RowsTable).current_key

    def show(self, state: WatchState) -> None:
        """Fill table and panels."""
        self._show_agents(state)
        panels = self.query_one("#panels")
        rows = max(_MIN_PANEL_ROWS, min(_MAX_PANEL_ROWS, self.size.height * 2 // 5))
        if self._panel_rows != rows:
            self._panel_rows = panels.styles.height = rows
        width = max(20, (self.size.width - 8) // 2)
        pool, activity = pool_lines(state, width, rows - 2), activity_lines(state, width, rows - 2)
        self.query_one("#pool-text", ShownText).show_text(Content("\n").join(pool))
        self.query_one("#activity-text", ShownText).show_text(Content("\n").join(activity))

    def _show_agents(self, state: WatchState) -> None:
        rows = listed(state.agents, words=self._words, sort=self._sort, reverse=self._reverse)
        columns = columns_for(self.size.width)
        table, hint = self.query_one(RowsTable), self.query_one("#hint", ShownText)
        table.name_columns(titles(columns))
        watched = self.dashboard.watched
        table.show_rows(
            [(str(r.get("id")), agent_cells(r, columns, watched=str(r.get("id")) in watched)) for r in rows]
        )
        found = f"{len(rows)} of {len(state.agents)}" if self._words else str(len(rows))
        table.entitle(f"Agents ({found})", order_text(self._sort, self._reverse))
        hint.display = not state.agents
        table.display = bool(state.agents)
        if self.focused is None:
            # What is not displayed cannot have the focus: it comes with the first agent.
            table.focus()
        if not state.agents:
            address = state.status.get("address")
            hint.show_text(
                Content(
                    f"No agents yet. Send a request to {address}/v1/chat/completions or {address}/v1/messages; "
                    "the header X-Session-ID names the agent."
                    if address
                    else "Nothing is known of any agent yet."
                )
            )

    def action_filter(self) -> None:
        """Open the filter."""
        box = self.query_one("#filter", Input)
        box.display = True
        box.focus()

    def action_clear_filter(self) -> None:
        """Close the filter and show all."""
        box = self.query_one("#filter", Input)
        box.value, box.display = "", False
        self.query_one("#agents").focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while typing."""
        self._words = event.value
        self.show(self.dashboard.state)

    def on_input_submitted(self) -> None:
        """Go on to the table."""
        self.query_one("#agents").focus()

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._sort_by(next_key(self._sort))

    def action_reverse(self) -> None:
        """Turn the order around."""
        self._reverse = not self._reverse
        self.show(self.dashboard.state)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column that was clicked; a second click turns the order around."""
        key = columns_for(self.size.width)[event.column_index].sort_key
        if key == self._sort:
            self.action_reverse()
        else:
            self._sort_by(key)

    def _sort_by(self, key: str) -> None:
        self._sort, self._reverse = key, False
        self.show(self.dashboard.state)

    def action_watch(self) -> None:
        """Show the agent in a tile of the agent screen, or no longer."""
        agent = self.chosen_agent()
        if agent is not None:
            self.dashboard.toggle_watched(agent)
            self.show(self.dashboard.state)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the agent."""
        if event.row_key.value is not None:
            self.dashboard.open_agent(event.row_key.value)
