"""The models screen: loaded and available models, and changes with their progress."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import DataTable

from semantic_tui.model_facts import MODEL_COLUMNS, NARROW_COLUMNS, changes_text, model_cells
from semantic_tui.plain import size
from semantic_tui.screens.watch_screen import WatchScreen
from semantic_tui.state import WatchState
from semantic_tui.widgets.rows_table import RowsTable, filled
from semantic_tui.widgets.shown_text import ShownText

_WIDE_FROM = 100


class ModelsScreen(WatchScreen):
    """Load, unload, swap and pull."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("w", "change('swap')", "Swap to"),
        Binding("l", "change('load')", "Load"),
        Binding("u", "change('unload')", "Unload"),
        Binding("p", "pull", "Pull"),
    ]

    def body(self) -> Iterable[Widget]:
        yield RowsTable(filled(MODEL_COLUMNS, 80), id="models")
        yield VerticalScroll(ShownText(id="changes-text"), id="changes")

    def on_mount(self) -> None:
        self.query_one("#changes").border_title = "Changes"
        self.query_one("#models").focus()

    def show(self, state: WatchState) -> None:
        table = self.query_one(RowsTable)
        num_loaded = sum(row.loaded for row in state.models)
        free = state.status.free_memory_bytes
        table.entitle(
            f"Models ({num_loaded} loaded)", f"free memory {size(free)}" if free is not None else ""
        )
        columns = filled(MODEL_COLUMNS if self.size.width >= _WIDE_FROM else NARROW_COLUMNS, self.size.width)
        table.name_columns(columns)
        rows = [(row.id, model_cells(row, state.changes.get(row.id))) for row in state.models]
        table.show_rows([(key, cells[: len(columns)]) for key, cells in rows])
        self.query_one("#changes-text", ShownText).show_text(changes_text(state))

    def action_change(self, action: str) -> None:
        """Ask, and change the model under the cursor."""
        model = self.query_one(RowsTable).current_key
        if model is not None:
            self.dashboard.change_model(action, model)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        self.action_change("swap")

    def action_pull(self) -> None:
        self.dashboard.change_model("pull", self.query_one(RowsTable).current_key or "")
