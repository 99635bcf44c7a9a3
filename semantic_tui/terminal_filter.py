"""TerminalFilter: the last look at each line before the terminal gets it.

All text is made safe where it enters (`WatchState`, notices), as visible escapes. Text that reaches a widget another
way, such as a pasted word, is filtered here: each terminal control character becomes one replacement character.
"""

from __future__ import annotations

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from semanticd.control.terminal_text import one_line

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TerminalFilter(LineFilter):
    """Replaces characters that control a terminal; the program's own sequences are not text and pass elsewhere."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return the line's segments, those that are safe as they are."""
        return [
            segment
            if segment.control or _is_safe(segment.text)
            else segment._replace(text=_replaced(segment.text))
            for segment in segments
        ]


def _is_safe(text: str) -> bool:
    return text.isprintable() or one_line(text) == text


def _replaced(text: str) -> str:
    return "".join(character if one_line(character) == character else _REPLACEMENT for character in text)
