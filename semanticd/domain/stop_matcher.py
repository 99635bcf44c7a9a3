"""Finds stop strings in text that arrives in pieces, and never lets a piece of one slip out.

Text that could still become a stop string is held back until it is certain that it will not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopResult:
    """Text that is safe to send, and the stop string that was completed, if one was."""

    text: str
    matched: str | None = None


class StopMatcher:
    """Watches one answer for several stop strings; the earliest match wins, then the longest."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Watch for these strings; empty ones are ignored."""
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def feed(self, text: str) -> StopResult:
        """Take more text; after a match nothing more may be fed."""
        if not self._stops:
            return StopResult(text)
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

    def finish(self) -> StopResult:
        """Return what was held back, at the end of the answer."""
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
