"""RowsTable: rows have keys; the cursor stays on its row when rows move, and only changed cells redraw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.widgets import DataTable

Row = tuple[str, tuple[str, ...]]
"""A key and the cells, as markup."""


class RowsTable(DataTable[str]):
    """A table that is shown anew as often as wanted."""

    def __init__(self, columns: Sequence[str], **more: Any) -> None:
        """Name the columns."""
        super().__init__(cursor_type="row", zebra_stripes=True, **more)
        self._names = tuple(columns)
        self._rows_shown: list[Row] = []

    def on_mount(self) -> None:
        """Make the columns."""
        self.add_columns(*self._names)

    @property
    def current_key(self) -> str | None:
        """The key of the row under the cursor."""
        at = self.cursor_row
        return self._rows_shown[at][0] if 0 <= at < len(self._rows_shown) else None

    def show_rows(self, rows: list[Row]) -> None:
        """Show these rows; where keys and order are the same, only changed cells are touched."""
        if rows == self._rows_shown or not self.columns:
            return
        if [key for key, _ in rows] == [key for key, _ in self._rows_shown]:
            for at, ((_, new), (_, old)) in enumerate(zip(rows, self._rows_shown, strict=True)):
                for column, (cell, before) in enumerate(zip(new, old, strict=True)):
                    if cell != before:
                        self.update_cell_at((at, column), cell, update_width=len(cell) != len(before))  # type: ignore[arg-type]
            self._rows_shown = rows
            return
        key, at = self.current_key, self.cursor_row
        self._rows_shown = rows
        self.clear()
        for row_key, cells in rows:
            self.add_row(*cells, key=row_key)
        keys = [row_key for row_key, _ in rows]
        if keys:
            self.move_cursor(row=keys.index(key) if key in keys else min(max(at, 0), len(keys) - 1))
