"""Finds stop strings in text that arrives in pieces, and never lets a piece of one slip out.

Text that could still become a stop string is held back until it is certain that it will not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StopResult:
    """Text that is safe to send, and the stop string that was completed, if one was."""

    text: str
    matched: str | None = None


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A part of an answer's text."""

    text: str
    is_visible: bool
    """Whether the client sees it: it is neither thinking nor a part of a call."""


class AnswerParts(Protocol):
    """Separates the visible text of one answer from thinking and calls."""

    def feed(self, text: str) -> Iterable[TextPiece]:
        """Take more text; return the pieces that it decides."""

    def finish(self, *, cut: bool) -> Iterable[TextPiece]:
        """Return the text held back, at the end of the answer or where the answer was `cut`."""


@dataclass(frozen=True, slots=True)
class VisibleStops:
    """Stop strings that count only in text that the client sees, not in thinking or in the JSON of a call."""

    stops: tuple[str, ...]
    parts: Callable[[], AnswerParts]
    """Makes the reading of one answer."""


class StopMatcher:
    """Watches one answer for several stop strings; the earliest match wins, then the longest."""

    def __init__(self, stops: Sequence[str] | VisibleStops) -> None:
        """Watch for these strings; empty ones are ignored."""
        self._parts: AnswerParts | None = None
        if isinstance(stops, VisibleStops):
            self._parts, stops = stops.parts(), stops.stops
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def feed(self, text: str) -> StopResult:
        """Take more text; after a match nothing more may be fed."""
        if not self._stops:
            return StopResult(text)
        if self._parts is None:
            return self._feed_visible(text)
        passed: list[str] = []
        matched = self._pass(self._parts.feed(text), passed)
        return StopResult("".join(passed), matched)

    def finish(self, *, cut: bool = False) -> StopResult:
        """Return the text held back, at the end of the answer or where the answer was `cut`."""
        passed: list[str] = []
        matched = None
        if self._parts is not None:
            matched = self._pass(self._parts.finish(cut=cut), passed)
        if matched is None:
            matched = self._end_visible(passed)
        return StopResult("".join(passed), matched)

    def _pass(self, pieces: Iterable[TextPiece], passed: list[str]) -> str | None:
        """Take pieces until a stop string is completed; return that."""
        for piece in pieces:
            if piece.is_visible:
                result = self._feed_visible(piece.text)
                passed.append(result.text)
                matched = result.matched
            else:
                matched = self._end_visible(passed) if piece.text else None
                passed.append("" if matched is not None else piece.text)
            if matched is not None:
                return matched
        return None

    def _end_visible(self, passed: list[str]) -> str | None:
        """Take the end of visible text; return the stop string that was completed."""
        result = self._finish_visible()
        passed.append(result.text)
        return result.matched

    def _feed_visible(self, text: str) -> StopResult:
        text = self._held + text
        found = [(at, -len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, _, stop = min(found)
            longer = self._could_start_before(text, at)
            if longer is None:
                self._held = ""
                return StopResult(text[:at], stop)
            # A longer stop string that began earlier may still complete: wait for it.
            self._held = text[longer:]
            return StopResult(text[:longer])
        keep = self._partial_length(text)
        self._held = text[len(text) - keep :]
        return StopResult(text[: len(text) - keep])

    def _finish_visible(self) -> StopResult:
        text, self._held = self._held, ""
        found = [(at, -len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, _, stop = min(found)
            return StopResult(text[:at], stop)
        return StopResult(text)

    def _could_start_before(self, text: str, at: int) -> int | None:
        keep = self._partial_length(text)
        start = len(text) - keep
        return start if keep and start < at else None

    def _partial_length(self, text: str) -> int:
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest


def overlap(text: str, marks: Iterable[str]) -> int:
    """Return how many characters at the end of a text may be the beginning of a mark."""
    return max(
        (
            length
            for mark in marks
            for length in range(1, min(len(mark), len(text) + 1))
            if text.endswith(mark[:length])
        ),
        default=0,
    )
