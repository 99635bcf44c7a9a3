"""TranscriptView: a conversation by lines, of which only the visible ones are drawn; search, follow, copy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from semantic_tui.transcript import Entry, EntryLayout, Line

_GUTTER = "▌"
_KINDS = {"role": "bold $primary", "heading": "bold", "code": "$secondary", "text": ""}
_MARKS = {
    "strong": "bold",
    "emphasis": "italic",
    "code": "$secondary",
    "bullet": "$accent",
    "quote": "$muted",
}
_VARIABLE = re.compile(r"\$([a-z-]+)")


class TranscriptView(ScrollView, can_focus=True):
    """Shows entries; follows the end until it is scrolled away from it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "find(1)", "Next match", show=False),
        Binding("N", "find(-1)", "Previous match", show=False),
        Binding("y", "copy", "Copy", show=False),
        Binding("o", "open_all", "Open all", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 (Textual's name)
        super().__init__(id=id)
        self._entries: list[Entry] = []
        self._layouts: list[EntryLayout] = []
        self._lines: list[Line] = []
        self._width = 0
        self._words = ""
        self._match: int | None = None
        self._open = False
        self.following = True
        """Whether new text moves the view: from when the end is reached until it is left."""

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """See whether the end is seen; another size of the view does not leave it."""
        super().watch_scroll_y(old_value, new_value)
        self.following = self.max_scroll_y - new_value <= 1

    def show_entries(self, entries: Sequence[Entry]) -> None:
        """Show these entries, if they are others."""
        if list(entries) == self._entries and self._width == self.size.width and self._lines:
            return
        follow = self.following
        self._entries = list(entries)
        self._lay(follow=follow, again=self._width != self.size.width)

    def on_resize(self) -> None:
        if self.size.width and self.size.width != self._width:
            self._lay(follow=self.following)
        elif self.following:
            self.scroll_end(animate=False)

    def _lay(self, *, follow: bool, again: bool = True) -> None:
        self._width = self.size.width
        width, open_all = max(10, self._width - 3), self._open or bool(self._words)
        before = [] if again else self._layouts
        self._layouts = [
            before[at]
            if at < len(before) and before[at].extend(entry)
            else EntryLayout(entry, width, number=at, open_all=open_all)
            for at, entry in enumerate(self._entries)
        ]
        self._lines = [line for layout in self._layouts for line in layout.lines]
        self._lines = self._lines or [Line("No transcript yet.")]
        self.virtual_size = Size(self._width, len(self._lines))
        if follow:
            self.scroll_end(animate=False)
        self.refresh()

    def search(self, words: str) -> int:
        """Mark the lines with these words and go to the last one; returns how many there are."""
        self._words, self._match = words.lower(), None
        self._lay(follow=False)
        found = self._found()
        if found:
            self._go_to(found[-1])
        return len(found)

    def _found(self) -> list[int]:
        if not self._words:
            return []
        return [at for at, line in enumerate(self._lines) if self._words in line.text.lower()]

    def _go_to(self, at: int) -> None:
        self._match = at
        self.scroll_to_region(Region(0, at, 1, 1), animate=False, center=True)
        self.refresh()

    def action_find(self, by: int) -> None:
        """Go to the next line with the words that were searched for."""
        found = self._found()
        if found:
            here = found.index(self._match) if self._match in found else 0
            self._go_to(found[(here + by) % len(found)])

    def action_open_all(self) -> None:
        """Show system text and tool results in full, or no longer."""
        self._open = not self._open
        self._lay(follow=self.following)

    def action_copy(self) -> None:
        """Copy the message at the match, else the top visible one."""
        at = self._match if self._match is not None else int(self.scroll_offset.y)
        if self._entries and 0 <= at < len(self._lines):
            entry = self._entries[self._lines[at].entry]
            self.app.copy_to_clipboard(entry.text)
            self.notify(f"Copied the message of {entry.role} ({len(entry.text):,} characters).", markup=False)

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        at = y + int(self.scroll_offset.y)
        width = self.size.width
        if at >= len(self._lines):
            return Strip.blank(width, self.rich_style)
        line = self._lines[at]
        gutter = {True: "$success", False: "$warning", None: "$faint"}[line.cached]
        segments = [
            Segment(f"{_GUTTER} ", self._style(gutter)),
            *self._segments(line, matched=at == self._match),
        ]
        return Strip(segments).adjust_cell_length(width, self.rich_style).crop(0, width)

    def _segments(self, line: Line, *, matched: bool) -> list[Segment]:
        style = self._style(_KINDS[line.kind])
        if not self._words or self._words not in line.text.lower():
            return self._marked(line, style)
        mark = style + Style(reverse=True, bold=matched)
        pieces = re.split(f"({re.escape(self._words)})", line.text, flags=re.IGNORECASE)
        return [Segment(piece, mark if at % 2 else style) for at, piece in enumerate(pieces) if piece]

    def _marked(self, line: Line, style: Style) -> list[Segment]:
        segments: list[Segment] = []
        at = 0
        for start, end, kind in line.marks:
            segments.append(Segment(line.text[at:start], style))
            segments.append(Segment(line.text[start:end], style + self._style(_MARKS[kind])))
            at = end
        return [*segments, Segment(line.text[at:], style)]

    def _style(self, style: str) -> Style:
        variables = self.app.theme_variables
        named = _VARIABLE.sub(lambda found: variables.get(found[1], "default"), style)
        return self.rich_style + Style.parse(named) if named else self.rich_style
