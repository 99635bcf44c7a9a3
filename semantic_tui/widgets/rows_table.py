"""RowsTable: rows have keys; the cursor stays on its row when rows move, and only changed cells redraw.

Every column has a fixed width, so that nothing moves sideways when a value grows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import JustifyMethod
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable

Styled = tuple[str, str]
Cell = str | Styled | list[Styled]
"""A text, or a text and its style, or several; a style may name the theme's colours, as in `bold $success`."""
Row = tuple[str, tuple[Cell, ...]]
"""A key and the cells."""

CELL_PADDING = 1
_VARIABLE = re.compile(r"\$([a-z-]+)")


class Column(NamedTuple):
    """A title, a width in terminal cells, and whether cells stand at the right (numbers do)."""

    title: str
    width: int
    right: bool = True


def fitted(text: str, width: int) -> str:
    """Return a text that takes at most `width` terminal cells, its middle left out where it is longer."""
    if cell_len(text) <= width:
        return text
    head = width // 2
    tail = width - head - 1
    end = ""
    for character in reversed(text):
        if cell_len(character + end) > tail:
            break
        end = character + end
    return f"{set_cell_size(text, head).rstrip()}…{end}"


class RowsTable(DataTable[Text]):
    """A table that is shown anew as often as wanted."""

    BINDINGS: ClassVar[list[BindingType]] = [
        # Textual's own go to the first and last column, which a cursor of whole rows does not show.
        Binding("home", "scroll_top", "First", show=False),
        Binding("end", "scroll_bottom", "Last", show=False),
    ]

    def __init__(self, columns: Sequence[Column], **more: Any) -> None:
        """Name the columns."""
        super().__init__(cursor_type="row", zebra_stripes=True, cell_padding=CELL_PADDING, **more)
        self._named = tuple(columns)
        self._rows_shown: list[Row] = []
        self._theme_shown = ""
        self._entitled: tuple[str, str] | None = None

    def on_mount(self) -> None:
        """Make the columns."""
        self._make_columns()

    def _make_columns(self) -> None:
        for column in self._named:
            title = Text(column.title, justify="right" if column.right else "left", no_wrap=True)
            self.add_column(title, width=column.width)

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
            # As texts: a string would be read as markup, and an agent may be called anything.
            self.border_title, self.border_subtitle = Text(title), Text(subtitle)

    @property
    def current_key(self) -> str | None:
        """The key of the row under the cursor."""
        at = self.cursor_row
        return self._rows_shown[at][0] if 0 <= at < len(self._rows_shown) else None

    def show_rows(self, rows: Sequence[Row]) -> None:
        """Show these rows; where keys and order are the same, only changed cells are touched."""
        new = list(rows)
        theme = self.app.theme
        if (new == self._rows_shown and theme == self._theme_shown) or not self.columns:
            return
        same_keys = [key for key, _ in new] == [key for key, _ in self._rows_shown]
        if same_keys and theme == self._theme_shown:
            for at, ((_, cells), (_, before)) in enumerate(zip(new, self._rows_shown, strict=True)):
                for column, (cell, old) in enumerate(zip(cells, before, strict=True)):
                    if cell != old:
                        self.update_cell_at((at, column), self._text(cell, column))  # type: ignore[arg-type]
            self._rows_shown = new
            return
        key, at = self.current_key, self.cursor_row
        self._rows_shown, self._theme_shown = new, theme
        self.clear()
        for row_key, cells in new:
            self.add_row(*(self._text(cell, column) for column, cell in enumerate(cells)), key=row_key)
        keys = [row_key for row_key, _ in new]
        if keys:
            self.move_cursor(row=keys.index(key) if key in keys else min(max(at, 0), len(keys) - 1))

    def _text(self, cell: Cell, column: int) -> Text:
        named = self._named[column]
        justify: JustifyMethod = "right" if named.right else "left"
        if isinstance(cell, list):
            return Text.assemble(*((text, self._style(style)) for text, style in cell), no_wrap=True)
        text, style = (cell, "") if isinstance(cell, str) else cell
        return Text(fitted(text, named.width), style=self._style(style), justify=justify, no_wrap=True)

    def _style(self, style: str) -> str:
        """Return a style with the theme's colours in the place of their names."""
        return _VARIABLE.sub(lambda found: self.app.theme_variables.get(found[1], "default"), style)
