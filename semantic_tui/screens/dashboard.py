"""The dashboard: agents above; block pool and activity below."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import DataTable, Input

from semantic_tui.agent_columns import columns_for, titles
from semantic_tui.agent_order import listed, next_key, order_text
from semantic_tui.history import SPANS_S
from semantic_tui.screens.graphs import GraphDialog
from semantic_tui.screens.panels import activity_lines, facts_shown, pool_lines
from semantic_tui.screens.watch_screen import AgentActionsScreen
from semantic_tui.state import WatchState
from semantic_tui.widgets.rows_table import RowsTable
from semantic_tui.widgets.shown_text import ShownText

_MIN_PANEL_ROWS, _LEAST_PANEL_ROWS = 11, 5
"""Rows of the panels, borders included, where there is room, and below which they are not shown."""
_MIN_TABLE_ROWS = 6


def nothing_found(words: str, *, searching: bool) -> str:
    """Return the hint for a filter that matches no agent."""
    among = " among those fetched so far; more are being fetched" if searching else ""
    return f"No agent has {words.strip()!r} in its id, state, tier, class or model{among}. Esc shows all."


class DashboardScreen(AgentActionsScreen):
    """Shows the running agents, their speed, and where their caches are."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse", show=False),
        Binding("space", "watch", "Tile"),
        Binding("z", "zoom", "Graphs"),
        Binding("plus,equals_sign", "span(1)", "Longer", key_display="+", show=False),
        Binding("minus", "span(-1)", "Shorter", key_display="-", show=False),
        Binding("escape", "clear_filter", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._words = ""
        self._panel_rows = self._num_known = 0
        # Present contents of the table and the panels.
        self._in_table: object = None
        self._in_panels: object = None

    def body(self) -> Iterable[Widget]:
        yield Input(placeholder="id, state, tier, class, model or pinned", id="filter")
        yield ShownText(id="hint")
        yield RowsTable(titles(columns_for(0), 0), id="agents")
        yield Horizontal(
            VerticalScroll(ShownText(id="pool-text"), id="pool", can_focus=False),
            VerticalScroll(ShownText(id="activity-text"), id="activity", can_focus=False),
            id="panels",
        )

    def on_mount(self) -> None:
        filter_box = self.query_one("#filter")
        filter_box.border_title, filter_box.display = "Filter", False
        self.query_one("#hint").border_title = "Agents (0)"
        self.query_one("#agents").focus()

    def chosen_agent(self) -> str | None:
        """Return the agent under the cursor."""
        return self.query_one(RowsTable).current_key

    def show(self, state: WatchState) -> None:
        """Fill table and panels, where something that they show has changed."""
        chosen = self.dashboard.preferences
        self.dashboard.search_agents(self._words, chosen.sort)
        in_table = (
            (state.agents, state.more.rows, state.requests, state.num_agents, state.has_more_agents),
            (tuple(self.dashboard.watched), self._words, chosen.sort, chosen.reverse),
            (self.size.width, self.app.theme, state.status.address),
        )
        table = self.query_one(RowsTable)
        if in_table != self._in_table and table.columns:
            self._in_table = in_table
            self._show_agents(state, table)
        if self.focused is None and table.display:
            # A hidden table cannot have the focus: it gets it with the first agent.
            table.focus()
        # The table takes what its rows need, up to its share; the panels fill the rest.
        table_rows = min(self._num_known + 6, self.size.height * 3 // 5)
        rows = max(_MIN_PANEL_ROWS, self.size.height - table_rows - 3)
        # On a low terminal the table comes first, and panels of a few rows would say nothing.
        least_table = min(table_rows, max(_MIN_TABLE_ROWS, self.size.height * 2 // 5))
        rows = min(rows, self.size.height - least_table - 3)
        if self._panel_rows != rows:
            self._panel_rows = self.query_one("#panels").styles.height = max(1, rows)
            self.query_one("#panels").display = rows >= _LEAST_PANEL_ROWS
        width, span_s = max(20, (self.size.width - 8) // 2), chosen.span_s
        in_panels = (facts_shown(state, span_s), width, rows)
        if in_panels != self._in_panels:
            self._in_panels = in_panels
            self._show_panels(state, width, rows, span_s)

    def _show_panels(self, state: WatchState, width: int, rows: int, span_s: int) -> None:
        pool = pool_lines(state, width, rows - 2, span_s=span_s)
        activity = activity_lines(state, width, rows - 2, span_s=span_s)
        title = f"the last {span_s // 60} min" if span_s > 60 else "the last minute"
        for name, panel in (("Block pool", "#pool"), ("Activity", "#activity")):
            if self.query_one(panel).border_subtitle != title:
                self.query_one(panel).border_title, self.query_one(panel).border_subtitle = name, title
        self.query_one("#pool-text", ShownText).show_text(Content("\n").join(pool))
        self.query_one("#activity-text", ShownText).show_text(Content("\n").join(activity))

    def _show_agents(self, state: WatchState, table: RowsTable) -> None:
        chosen, known = self.dashboard.preferences, state.rows(self.dashboard.watched)
        self._num_known = len(known)
        rows = listed(known, words=self._words, sort=chosen.sort, reverse=chosen.reverse)
        columns = columns_for(self.size.width)
        hint = self.query_one("#hint", ShownText)
        table.name_columns(titles(columns, self.size.width))
        table.show_rows([(agent.row.id, tuple(c.cell(agent) for c in columns)) for agent in rows])
        total = max(len(known), state.num_known_to_daemon)
        found = f"{len(rows):,} of {total:,}" if self._words or len(rows) < total else f"{len(rows):,}"
        if state.has_more_agents:
            found += ", scroll for more"
        table.entitle(f"Agents ({found})", order_text(chosen.sort, chosen.reverse))
        hint.display = not rows
        table.display = bool(known)
        if known and not rows:
            hint.show_text(Content(nothing_found(self._words, searching=state.has_more_agents)))
        if not known:
            address = state.status.address
            hint.show_text(
                Content(
                    f"No agents yet. Send a request to {address}/v1/chat/completions or {address}/v1/messages; "
                    "the header X-Session-ID names the agent."
                    if address
                    else "No agents yet."
                )
            )

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.display = True
        box.focus()

    def action_clear_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.value, box.display = "", False
        self.query_one("#agents").focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._words = event.value
        self.show(self.dashboard.state)

    def on_input_submitted(self) -> None:
        self.query_one("#agents").focus()

    def action_sort(self) -> None:
        self._sort_by(next_key(self.dashboard.preferences.sort))

    def action_reverse(self) -> None:
        """Turn the order around."""
        chosen = self.dashboard.preferences
        chosen.change(reverse=not chosen.reverse)
        self.show(self.dashboard.state)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column that was clicked; a second click turns the order around."""
        key = columns_for(self.size.width)[event.column_index].sort_key
        if key == self.dashboard.preferences.sort:
            self.action_reverse()
        else:
            self._sort_by(key)

    def _sort_by(self, key: str) -> None:
        self.dashboard.preferences.change(sort=key, reverse=False)
        self.show(self.dashboard.state)

    def action_watch(self) -> None:
        """Show the agent in a tile of the agent screen, or no longer."""
        agent = self.chosen_agent()
        if agent is not None:
            self.dashboard.toggle_watched(agent)
            self.show(self.dashboard.state)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """At the end of the list, fetch the next agents."""
        if event.cursor_row == event.data_table.row_count - 1:
            self.dashboard.more_agents()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if event.row_key.value is not None:
            self.dashboard.open_agent(event.row_key.value)

    def action_open(self) -> None:
        agent = self.chosen_agent()
        if agent is not None:
            self.dashboard.open_agent(agent)

    def action_span(self, by: int) -> None:
        chosen = self.dashboard.preferences
        at = SPANS_S.index(chosen.span_s) + by
        chosen.change(span_s=SPANS_S[max(0, min(at, len(SPANS_S) - 1))])
        self.show(self.dashboard.state)

    def action_zoom(self) -> None:
        self.app.push_screen(GraphDialog(self.dashboard))
