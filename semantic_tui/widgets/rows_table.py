"""RowsTable: rows have keys; the cursor stays on its row when rows move, and only changed cells redraw.

Every column has a fixed width, so that nothing moves sideways when a value grows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import JustifyMethod
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.strip import Strip
from textual.widgets import DataTable
from textual.widgets.data_table import ColumnKey

Styled = tuple[str, str]
Cell = str | Styled | list[Styled]
"""A text, or a text and its style, or several; a style may name the theme's colours, as in `bold $success`."""
Row = tuple[str, tuple[Cell, ...]]
"""A key and the cells."""

CELL_PADDING = 1
_MAX_REMOVED = 8
"""Rows that are removed one by one; each costs as much as looking at all, and more are cheaper made again."""
_MIN_FLEXIBLE = 8
_VARIABLE = re.compile(r"\$([a-z-]+)")


class Column(NamedTuple):
    """A title, a width in terminal cells, and whether cells stand at the right (numbers do)."""

    title: str
    width: int
    right: bool = True


def filled(columns: Sequence[Column], width: int) -> tuple[Column, ...]:
    """Give the column without a width the remaining width of the terminal."""
    taken = sum(column.width for column in columns) + 2 * CELL_PADDING * len(columns) + 3
    return tuple(
        column if column.width else column._replace(width=max(_MIN_FLEXIBLE, width - taken))
        for column in columns
    )


class KeyedText(Text):
    """A cell's text that knows its row: the table sorts by cells."""

    key = ""


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
    while end and not cell_len(end[0]):
        # An accent whose letter was left out would stand on the ellipsis.
        end = end[1:]
    return f"{set_cell_size(text, head).rstrip()}…{end}"


class RowsTable(DataTable[KeyedText]):
    """A table that can be refreshed as often as wanted."""

    BINDINGS: ClassVar[list[BindingType]] = [
        # Textual's own go to the first and last column, which a cursor of whole rows does not show.
        Binding("home", "scroll_top", "First", show=False),
        Binding("end", "scroll_bottom", "Last", show=False),
    ]

    def __init__(self, columns: Sequence[Column], **more: Any) -> None:
        super().__init__(cursor_type="row", zebra_stripes=True, cell_padding=CELL_PADDING, **more)
        self._named = tuple(columns)
        self._column_keys: list[ColumnKey] = []
        self._rows_shown: list[Row] = []
        self._lines: dict[int, tuple[object, Strip]] = {}
        """Row and content that each line of the screen was drawn for."""
        self._theme_shown = ""
        self._entitled: tuple[str, str] | None = None

    def on_mount(self) -> None:
        self._make_columns()

    def on_resize(self) -> None:
        """Draw all lines again: Textual keeps some as they were where a scrollbar comes or goes with the size."""
        self._lines.clear()
        self._clear_caches()
        self.refresh()

    def _make_columns(self) -> None:
        self._column_keys = [
            self.add_column(
                Text(column.title, justify="right" if column.right else "left", no_wrap=True),
                width=column.width,
            )
            for column in self._named
        ]

    def name_columns(self, columns: Sequence[Column]) -> None:
        """Show other columns; the rows come with the next `show_rows`."""
        if self._named != tuple(columns):
            self._named = tuple(columns)
            self._rows_shown = []
            self.clear(columns=True)
            self._make_columns()

    def entitle(self, title: str, subtitle: str = "") -> None:
        """Set the border's texts where they differ: each setting draws the whole table again."""
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
        """Show these rows; of rows that stay only changed cells are touched, and rows that move are not made again."""
        new, theme = list(rows), self.app.theme
        if (new == self._rows_shown and theme == self._theme_shown) or not self.columns:
            return
        current, at = self.current_key, self.cursor_row
        before, keys = dict(self._rows_shown), [key for key, _ in new]
        gone = before.keys() - set(keys)
        if theme == self._theme_shown and len(gone) <= _MAX_REMOVED and len(gone) < len(before):
            for key in gone:
                self.remove_row(key)
            for key, cells in new:
                self._show_row(key, cells, before.get(key))
            if [key for key in before if key not in gone] != keys:
                places = {key: place for place, key in enumerate(keys)}
                self.sort(key=lambda cells: places[cells[0].key])
        else:
            self.clear()
            for key, cells in new:
                self._show_row(key, cells, None)
        self._rows_shown, self._theme_shown = new, theme
        if keys:
            self.move_cursor(
                row=keys.index(current)
                if current in before and current in keys
                else min(max(at, 0), len(keys) - 1)
            )

    def _show_row(self, key: str, cells: tuple[Cell, ...], before: tuple[Cell, ...] | None) -> None:
        if before is None:
            self.add_row(*(self._text(key, cell, column) for column, cell in enumerate(cells)), key=key)
        elif cells != before:
            for column, (cell, old) in enumerate(zip(cells, before, strict=True)):
                if cell != old:
                    self.update_cell(key, self._column_keys[column], self._text(key, cell, column))

    def _text(self, key: str, cell: Cell, column: int) -> KeyedText:
        named = self._named[column]
        justify: JustifyMethod = "right" if named.right else "left"
        if isinstance(cell, list):
            text = KeyedText(no_wrap=True)
            for part, style in cell:
                text.append(part, self._style(style))
        else:
            part, style = (cell, "") if isinstance(cell, str) else cell
            text = KeyedText(
                fitted(part, named.width), style=self._style(style), justify=justify, no_wrap=True
            )
        text.key = key
        return text

    def _style(self, style: str) -> str:
        """Return a style with the theme's colours in the place of their names."""
        if "$" not in style:
            return style
        return _VARIABLE.sub(lambda found: self.app.theme_variables.get(found[1], "default"), style)

    def render_line(self, y: int) -> Strip:
        """Return a line of the table; an unchanged row reuses its last drawn line."""
        row = y + self.scroll_offset.y - self.header_height
        if y < self.header_height or row >= len(self._rows_shown) or row == self.hover_row:
            return super().render_line(y)
        cells = self._rows_shown[row][1]
        mark = (
            row,
            cells,
            row == self.cursor_row,
            self.size.width,
            self.scroll_offset.x,
            self.rich_style,
            self.get_pseudo_class_state(),
            self.app.theme,
            self._named,
        )
        line = self._lines.get(y)
        if line is None or line[0] != mark:
            line = self._lines[y] = (mark, self._drawn(row, cells) or super().render_line(y))
        return line[1]

    def _drawn(self, row: int, cells: tuple[Cell, ...]) -> Strip | None:
        """Return a row as Textual's table draws it; None for line breaks, and for cells of several styles.

        Textual asks Rich to lay out each cell, which takes ten times as long.
        """
        base = self.get_component_styles(f"datatable--{'odd' if row % 2 else 'even'}-row").rich_style
        over = Style.null()
        if row == self.cursor_row:
            cursor = self.get_component_rich_style("datatable--cursor")
            base, over = base + cursor, Style.from_color(color=cursor.color)
        segments: list[Segment] = []
        for at, (cell, column) in enumerate(zip(cells, self._named, strict=True)):
            if isinstance(cell, list):
                return None
            text, style = (cell, "") if isinstance(cell, str) else cell
            shown, meta = fitted(text, column.width), Style.from_meta({"row": row, "column": at})
            if not shown.isprintable():
                return None
            room = " " * (column.width - cell_len(shown))
            blank = base + over + meta
            segments += (
                Segment(" " * CELL_PADDING, blank),
                Segment(
                    room + shown if column.right else shown + room,
                    base + Style.parse(self._style(style)) + over + meta,
                ),
                Segment(" " * CELL_PADDING, blank),
            )
        rest = self.size.width - sum(column.width + 2 * CELL_PADDING for column in self._named)
        meta = Style.from_meta({"row": row, "column": 0, "out_of_bounds": True})
        segments.append(Segment(" " * max(0, rest), base + meta))
        left = self.scroll_offset.x
        return Strip(segments).crop(left, left + self.size.width).simplify()
