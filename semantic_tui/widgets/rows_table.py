"""RowsTable: rows have keys; the cursor stays on its row when rows move, and only changed cells redraw."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from textual.widgets import DataTable

Row = tuple[str, tuple[str, ...]]
"""A key and the cells, as markup; a cell that begins with a style may name the theme's colours."""
Column = tuple[str, int]
"""A title, and the width to whose right the cells are aligned (0: they begin at the left)."""

_VARIABLE = re.compile(r"\$([a-z-]+)")


class RowsTable(DataTable[str]):
    """A table that is shown anew as often as wanted."""

    def __init__(self, columns: Sequence[Column], **more: Any) -> None:
        """Name the columns."""
        super().__init__(cursor_type="row", zebra_stripes=True, **more)
        self._named = tuple(columns)
        self._rows_shown: list[Row] = []
        self._entitled: tuple[str, str] | None = None

    def on_mount(self) -> None:
        """Make the columns."""
        self._make_columns()

    def _make_columns(self) -> None:
        self.add_columns(*(title.rjust(width) for title, width in self._named))

    def name_columns(self, columns: Sequence[Column]) -> None:
        """Show other columns; the rows come with the next `show_rows`."""
        if self._named != tuple(columns):
            self._named = tuple(columns)
            self._rows_shown = []
            self.clear(columns=True)
            self._make_columns()

    def entitle(self, title: str, subtitle: str = "") -> None:
        """Set the border's texts where they differ: each setting draws the whole table anew."""
        if self._entitled != (title, subtitle):
            self._entitled = (title, subtitle)
            self.border_title, self.border_subtitle = title, subtitle

    @property
    def current_key(self) -> str | None:
        """The key of the row under the cursor."""
        at = self.cursor_row
        return self._rows_shown[at][0] if 0 <= at < len(self._rows_shown) else None

    def show_rows(self, rows: Sequence[Row]) -> None:
        """Show these rows; where keys and order are the same, only changed cells are touched."""
        aligned = [(key, self._aligned(cells)) for key, cells in rows]
        if aligned == self._rows_shown or not self.columns:
            return
        if [key for key, _ in aligned] == [key for key, _ in self._rows_shown]:
            for at, ((_, new), (_, old)) in enumerate(zip(aligned, self._rows_shown, strict=True)):
                for column, (cell, before) in enumerate(zip(new, old, strict=True)):
                    if cell != before:
                        self.update_cell_at((at, column), cell, update_width=len(cell) != len(before))  # type: ignore[arg-type]
            self._rows_shown = aligned
            return
        key, at = self.current_key, self.cursor_row
        self._rows_shown = aligned
        self.clear()
        for row_key, cells in aligned:
            self.add_row(*cells, key=row_key)
        keys = [row_key for row_key, _ in aligned]
        if keys:
            self.move_cursor(row=keys.index(key) if key in keys else min(max(at, 0), len(keys) - 1))

    def _aligned(self, cells: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            cell.rjust(width) if width else self._coloured(cell)
            for cell, (_, width) in zip(cells, self._named, strict=True)
        )

    def _coloured(self, cell: str) -> str:
        """Put the theme's colours into a cell's style; a table's markup does not know them by name."""
        if not cell.startswith("["):
            return cell
        style, bracket, rest = cell.partition("]")
        return (
            _VARIABLE.sub(lambda found: self.app.theme_variables.get(found[1], "default"), style)
            + bracket
            + rest
        )
