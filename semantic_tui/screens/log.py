"""The log screen: the daemon's log, also of before the dashboard was opened, from a level on, with a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Input, RichLog

from semantic_tui.preferences import LOG_LEVELS as LEVELS
from semantic_tui.screens.watch_screen import WatchScreen
from semantic_tui.state import LogLine, WatchState

_COLOURS = {"debug": "muted", "info": "primary", "warning": "warning", "error": "error", "critical": "error"}


def wanted(line: LogLine, level: str, words: str) -> bool:
    """Return whether a line has the minimum level and every word in its event, fields, agent or request."""
    rank = LEVELS.index(line.level) if line.level in LEVELS else len(LEVELS)
    if rank < LEVELS.index(level):
        return False
    text = f"{line.level} {line.text}".lower()
    return all(word in text for word in words.lower().split())


def line_text(line: LogLine, colours: Mapping[str, str]) -> Text:
    """Return a line with its level in a colour of the theme; no markup, for lines may hold anything."""
    style = colours.get(_COLOURS.get(line.level, ""), "bold")
    return Text.assemble((line.timestamp[11:19], "dim"), " ", (f"{line.level:<8}", style), f" {line.text}")


class LogLines(RichLog):
    """The lines; they keep the width that they were written with, so another one is the screen's affair."""

    def on_resize(self, event: events.Resize) -> None:
        super().on_resize(event)
        if isinstance(self.screen, LogScreen):
            self.screen.refresh_from(self.screen.dashboard.state)


class LogScreen(WatchScreen):
    """The daemon's log."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search: words, an agent, a request", key_display="/"),
        Binding("l", "level", "Level"),
        Binding("f", "follow", "Follow"),
        Binding("escape", "close", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._words, self._next = "", 0
        self._drawn_for: tuple[int, str] = (0, "")
        self._titles: tuple[str, str] | None = None

    def body(self) -> Iterable[Widget]:
        yield Input(placeholder="search: words, an agent, a request", id="search")
        yield LogLines(id="lines", max_lines=2000, wrap=True, min_width=20)

    def on_mount(self) -> None:
        self.query_one("#search").display = False
        self.query_one("#lines").focus()

    def on_screen_resume(self) -> None:
        words, self.dashboard.log_words = self.dashboard.log_words, ""
        if words:
            box = self.query_one("#search", Input)
            box.display, box.value = True, words
        super().on_screen_resume()

    def show(self, state: WatchState) -> None:
        """Append new lines; an idle log is not redrawn."""
        lines, level = self.query_one(RichLog), self.dashboard.preferences.log_level
        words = f" with {self._words!r}" if self._words else ""
        titles = (f"Log: {level} and above{words}", "following" if lines.auto_scroll else "staying")
        if titles != self._titles:
            self._titles = titles
            lines.border_title, lines.border_subtitle = map(Text, titles)
        drawn_for = (lines.size.width, self.app.theme)
        if self._next and drawn_for != self._drawn_for:
            # Lines keep the width and the colours that they were written with.
            lines.clear()
            self._next = 0
        if self._next >= state.num_log_lines:
            return
        self._drawn_for = drawn_for
        for line in state.log:
            if line.number >= self._next and wanted(line, level, self._words):
                lines.write(line_text(line, self.app.theme_variables))
        self._next = state.num_log_lines

    def _again(self) -> None:
        self.query_one(RichLog).clear()
        self._next = 0
        self.show(self.dashboard.state)

    def action_level(self) -> None:
        chosen = self.dashboard.preferences
        chosen.change(log_level=LEVELS[(LEVELS.index(chosen.log_level) + 1) % len(LEVELS)])
        self._again()

    def action_follow(self) -> None:
        """Follow the end, or stay."""
        lines = self.query_one(RichLog)
        lines.auto_scroll = not lines.auto_scroll
        self.show(self.dashboard.state)

    def action_search(self) -> None:
        box = self.query_one("#search", Input)
        box.display = True
        box.focus()

    def action_close(self) -> None:
        box = self.query_one("#search", Input)
        box.value, box.display = "", False
        self.query_one("#lines").focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._words = event.value
        self._again()

    def on_input_submitted(self) -> None:
        self.query_one("#lines").focus()
