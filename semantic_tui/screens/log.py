"""The log screen: follow the daemon's log, from a level on, with a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.markup import escape
from textual.widget import Widget
from textual.widgets import Input, RichLog

from semantic_tui.screens.watch_screen import WatchScreen
from semantic_tui.state import LogLine, WatchState

LEVELS = ("debug", "info", "warning", "error")
_COLOURS = {"debug": "muted", "info": "primary", "warning": "warning", "error": "error", "critical": "error"}


def wanted(line: LogLine, level: str, words: str) -> bool:
    """Whether a line is at least of a level and has the words."""
    rank = LEVELS.index(line.level) if line.level in LEVELS else len(LEVELS)
    return rank >= LEVELS.index(level) and words.lower() in f"{line.level} {line.text}".lower()


def line_markup(line: LogLine, colours: Mapping[str, str]) -> str:
    """Return a line with its level in a colour of the theme."""
    style = colours.get(_COLOURS.get(line.level, ""), "bold")
    return f"[dim]{escape(line.timestamp[11:19])}[/] [{style}]{line.level:<8}[/] {escape(line.text)}"


class LogScreen(WatchScreen):
    """The daemon's log."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", key_display="/"),
        Binding("l", "level", "Level"),
        Binding("f", "follow", "Follow"),
        Binding("escape", "close", show=False),
    ]

    def __init__(self) -> None:
        """Begin with all lines."""
        super().__init__()
        self._level, self._words, self._next = LEVELS[0], "", 0

    def body(self) -> Iterable[Widget]:
        """Lay out the lines."""
        yield Input(placeholder="search", id="search")
        yield RichLog(id="lines", markup=True, max_lines=2000, wrap=True)

    def on_mount(self) -> None:
        """Hide the search until it is asked for."""
        self.query_one("#search").display = False
        self.query_one("#lines").focus()

    def show(self, state: WatchState) -> None:
        """Append what is new."""
        lines = self.query_one(RichLog)
        words = f" with {escape(self._words)!r}" if self._words else ""
        lines.border_title = f"Log: {self._level} and above{words}"
        lines.border_subtitle = "following" if lines.auto_scroll else "staying"
        for line in state.log:
            if line.number >= self._next and wanted(line, self._level, self._words):
                lines.write(line_markup(line, self.app.theme_variables))
        self._next = state.num_log_lines

    def _again(self) -> None:
        self.query_one(RichLog).clear()
        self._next = 0
        self.show(self.dashboard.state)

    def action_level(self) -> None:
        """Show from the next level on."""
        self._level = LEVELS[(LEVELS.index(self._level) + 1) % len(LEVELS)]
        self._again()

    def action_follow(self) -> None:
        """Follow the end, or stay."""
        lines = self.query_one(RichLog)
        lines.auto_scroll = not lines.auto_scroll
        self.show(self.dashboard.state)

    def action_search(self) -> None:
        """Open the search."""
        box = self.query_one("#search", Input)
        box.display = True
        box.focus()

    def action_close(self) -> None:
        """Close the search and show all."""
        box = self.query_one("#search", Input)
        box.value, box.display = "", False
        self.query_one("#lines").focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Search while typing."""
        self._words = event.value
        self._again()
