"""Separates the text that the client sees from thinking and calls, as the answer's text comes, markers included.

A part ends at its first marker that does not stand inside of a string of a call, by the reading of the answer's parser
(`call_strings`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from semanticd.adapters.mlx.text.call_strings import CallStrings, HeldText
from semanticd.domain.stop_matcher import TextPiece, overlap


@dataclass(slots=True, eq=False)
class Part:
    """A kind of part: whether the client sees it, and the markers behind it with the part that each begins."""

    is_visible: bool = False
    marks: dict[str, Part] = field(default_factory=dict)
    strings: Callable[[], CallStrings] | None = None
    """Reader of the strings in which markers do not count; None: all markers count."""


class MarkedParts:
    """Reads one answer; see the port `AnswerParts` of the stop strings."""

    def __init__(self, begin: Part) -> None:
        """Begin in this part."""
        self._unread = ""
        self._held: HeldText | None = None
        """Text from a marker inside of a string on."""
        self._begin(begin)

    def feed(self, text: str) -> list[TextPiece]:
        """Take more text; return what is known not to be the beginning of a marker."""
        self._unread += text
        pieces: list[TextPiece] = []
        while self._advance(pieces):
            pass
        return pieces

    def finish(self, *, cut: bool) -> list[TextPiece]:
        """Return the rest of the text; a call that is `cut` has not ended."""
        pieces: list[TextPiece] = []
        while (held := self._held) is not None:
            self._unread, self._held = held.text + self._unread, None
            if cut:
                break
            # The value never became whole: the marker was one.
            if self._strings is not None:
                self._strings.drop()
            while self._advance(pieces):
                pass
        pieces.append(TextPiece(self._unread, is_visible=self._part.is_visible))
        self._unread = ""
        return pieces

    def _begin(self, part: Part) -> None:
        self._part = part
        self._strings = part.strings() if part.strings is not None else None

    def _advance(self, pieces: list[TextPiece]) -> bool:
        """Handle the text up to the next marker, or what is held; False when more text is needed."""
        if self._held is not None:
            return self._advance_held(self._held, pieces)
        marks = self._part.marks
        found = [(at, -len(mark), mark) for mark in marks if (at := self._unread.find(mark)) >= 0]
        at, _, mark = min(found, default=(len(self._unread) - overlap(self._unread, marks), 0, ""))
        before, self._unread = self._unread[:at], self._unread[at:]
        if self._strings is not None:
            self._strings.feed(before)
        pieces.append(TextPiece(before, is_visible=self._part.is_visible))
        if not mark:
            return False
        if self._strings is not None and self._strings.inside:
            self._held = HeldText(self._strings)
            return True
        self._unread = self._unread[len(mark) :]
        pieces.append(TextPiece(mark, is_visible=False))
        self._begin(marks[mark])
        return True

    def _advance_held(self, held: HeldText, pieces: list[TextPiece]) -> bool:
        self._unread, in_string = held.feed(self._unread)
        if in_string is None:
            return False
        self._held = None
        if in_string:
            pieces.append(TextPiece(held.text, is_visible=self._part.is_visible))
        else:
            self._unread = held.text + self._unread
        return True
