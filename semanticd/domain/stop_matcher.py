"""Finds stop strings in text that arrives in pieces, and never lets a piece of one slip out.

Text that could still become a stop string is held back until it is certain that it will not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopResult:
    """Text that is safe to send, and the stop string that was completed, if one was."""

    text: str
    matched: str | None = None


@dataclass(frozen=True, slots=True)
class VisibleStops:
    """Stop strings that count only in text that the client sees, not in thinking or in the JSON of a call."""

    stops: tuple[str, ...]
    hidden: tuple[tuple[str, str], ...]
    """Start and end of a hidden part; with an empty end, it never ends."""
    begins_hidden: str | None = None
    """End of the hidden part in which the answer begins; None: it begins with visible text."""


class StopMatcher:
    """Watches one answer for several stop strings; the earliest match wins, then the longest."""

    def __init__(self, stops: Sequence[str] | VisibleStops) -> None:
        """Watch for these strings; empty ones are ignored."""
        visible = stops if isinstance(stops, VisibleStops) else VisibleStops(tuple(stops), ())
        self._stops = tuple(stop for stop in visible.stops if stop)
        self._hidden = visible.hidden
        self._ends_with = visible.begins_hidden
        self._unread = ""
        self._held = ""

    def feed(self, text: str) -> StopResult:
        """Take more text; after a match nothing more may be fed."""
        if not self._stops:
            return StopResult(text)
        if not self._hidden:
            return self._feed_visible(text)
        self._unread += text
        passed: list[str] = []
        while True:
            marks = dict(self._hidden) if self._ends_with is None else {self._ends_with: None}
            found = [(at, mark) for mark in marks if mark and (at := self._unread.find(mark)) >= 0]
            at, mark = min(found, default=(len(self._unread) - _overlap(self._unread, marks), ""))
            before, self._unread = self._unread[:at], self._unread[at + len(mark) :]
            matched = self._pass(before, passed, last=bool(mark))
            if matched is not None or not mark:
                return StopResult("".join(passed), matched)
            passed.append(mark)
            self._ends_with = marks[mark]

    def _pass(self, text: str, passed: list[str], *, last: bool) -> str | None:
        """Take text up to a mark (`last`) or to where one may begin; return the stop string that was completed."""
        if self._ends_with is not None:
            passed.append(text)
            return None
        result = self._feed_visible(text)
        passed.append(result.text)
        if result.matched is None and last:
            result = self._finish_visible()
            passed.append(result.text)
        return result.matched

    def finish(self) -> StopResult:
        """Return the text held back, at the end of the answer."""
        passed: list[str] = []
        unread, self._unread = self._unread, ""
        matched = self._pass(unread, passed, last=True)
        return StopResult("".join(passed), matched)

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


def _overlap(text: str, marks: Iterable[str]) -> int:
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
