"""The dashboard: agents above; block pool and activity below."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.markup import escape
from textual.widget import Widget
from textual.widgets import DataTable, Input, Static

from semantic_tui.agent_order import SORT_KEYS, listed
from semantic_tui.plain import AGENT_COLUMNS, agent_row, bar, number, size
from semantic_tui.screens.watch_screen import AgentActionsScreen
from semantic_tui.state import WatchState
from semantic_tui.widgets import figures as f
from semantic_tui.widgets.rows_table import RowsTable

_STATE_STYLES = {"active": "bold green", "hot": "green", "warm": "yellow", "cold": "dim"}
_MAP_ROWS = 4


def agent_cells(row: Any, watched: bool) -> tuple[str, ...]:
    """Return an agent's cells as markup; agents that are shown in tiles have a mark."""
    cells = [escape(cell) for cell in agent_row(row)]
    cells[0] = ("▸ " if watched else "") + cells[0]
    state = str(row.get("state", ""))
    style = _STATE_STYLES.get(state)
    cells[1] = f"[{style}]{cells[1]}[/]" if style else cells[1]
    return (*cells[:2], escape(str(row.get("tier", ""))), *cells[2:])


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
        self._words, self._sort, self._reverse = "", SORT_KEYS[0], False

    def body(self) -> Iterable[Widget]:
        """Lay out table and panels."""
        yield Input(placeholder="filter: id, state, class, model or pinned", id="filter")
        yield RowsTable((*AGENT_COLUMNS[:2], "tier", *AGENT_COLUMNS[2:]), id="agents")
        yield Horizontal(
            VerticalScroll(Static(id="pool-text"), id="pool", can_focus=False),
            VerticalScroll(Static(id="activity-text"), id="activity", can_focus=False),
            id="panels",
        )

    def on_mount(self) -> None:
        """Name the panels."""
        self.query_one("#filter").display = False
        self.query_one("#pool").border_title = "Block pool"
        self.query_one("#activity").border_title = "Activity"
        self.query_one("#agents").focus()

    def chosen_agent(self) -> str | None:
        """Return the agent under the cursor."""
        return self.query_one(RowsTable).current_key

    def show(self, state: WatchState) -> None:
        """Fill table and panels."""
        rows = listed(state.agents, words=self._words, sort=self._sort, reverse=self._reverse)
        table = self.query_one(RowsTable)
        watched = self.dashboard.watched
        table.show_rows([(str(r.get("id")), agent_cells(r, str(r.get("id")) in watched)) for r in rows])
        found = f"{len(rows)} of {len(state.agents)}" if self._words else str(len(rows))
        table.border_title = f"Agents ({found})"
        table.border_subtitle = f"by {self._sort}" + (" reversed" if self._reverse else "")
        self._show_pool(state)
        self._show_activity(state)

    def _show_pool(self, state: WatchState) -> None:
        width = max(20, self.query_one("#pool").size.width - 2)
        cache = state.cache
        blocks = f.known_blocks(cache, state.blocks)
        budget, cap = float(cache.get("budget_bytes") or 0), cache.get("warm_cap_bytes")
        used = sum(float(cache.get(key) or 0) for key in ("running_bytes", "hot_bytes", "in_flight_bytes"))
        warm = float(cache.get("warm_bytes") or 0)
        lines = [
            Content(f"RAM {size(used)} of {size(budget)}"),
            f.budget_bar(cache, width),
            f.budget_legend(cache),
            f.block_map(blocks, width, _MAP_ROWS),
            f.block_legend(blocks, width, _MAP_ROWS),
            Content(
                f"disk {size(warm)}" + (f" of {size(cap)} {bar(warm / cap, 16)}" if cap else " (no cap)")
            ),
            f.series_line("hit rate", state.history["hit_rate"], width - 22, unit=" %", top=1.0),
            f.series_line("evictions", state.history["evictions"], width - 22, unit=""),
        ]
        self.query_one("#pool-text", Static).update(Content("\n").join(lines))

    def _show_activity(self, state: WatchState) -> None:
        width = max(20, self.query_one("#activity").size.width - 2)
        engine = state.engine
        lines = [
            Content(f"{engine.get('num_running') or 0} running, {engine.get('num_waiting') or 0} waiting"),
            f.series_line("TTFT", state.history["ttft_ms"], width - 22, unit=" ms"),
            f.series_line("ITL", state.history["itl_ms"], width - 22, unit=" ms"),
            f.series_line("tokens/s", state.history["tokens_per_s"], width - 22, unit=""),
            f.series_line("queue", state.history["queue"], width - 22, unit=""),
        ]
        for row in state.requests[:20]:
            share = float(row.get("prefill_progress") or 0)
            told = (
                f"{row.get('completion_tokens', 0)} tok {number(row.get('tokens_per_s'), '/s', digits=1)}"
                if row.get("state") == "decoding"
                else f"{bar(share, 10)} {100 * share:.0f} %"
            )
            lines.append(Content(f"{str(row.get('agent'))[:16]:<16} {row.get('state')!s:<10} {told}"))
        self.query_one("#activity-text", Static).update(Content("\n").join(lines))

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
        self._sort = SORT_KEYS[(SORT_KEYS.index(self._sort) + 1) % len(SORT_KEYS)]
        self.show(self.dashboard.state)

    def action_reverse(self) -> None:
        """Turn the order around."""
        self._reverse = not self._reverse
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
