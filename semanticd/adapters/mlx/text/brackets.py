"""Finds where the bracket closes that a text begins with, as the text comes."""

from __future__ import annotations


class BracketEnd:
    """Counts brackets outside of strings; which kinds close which is left to a parser."""

    def __init__(self, quotes: str, *, depth: int = 0) -> None:
        """Begin inside of `depth` brackets; `quotes` are the characters that begin and end strings."""
        self._quotes = quotes
        self._depth = depth
        self._quote = ""
        self._escaped = False

    @property
    def in_string(self) -> bool:
        """Whether the next character stands inside of a string."""
        return bool(self._quote)

    def feed(self, text: str) -> int | None:
        """Return where in this text the first bracket is closed (the index after it); None: not yet."""
        for index, character in enumerate(text):
            if self._quote:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == self._quote:
                    self._quote = ""
            elif character in self._quotes:
                self._quote = character
            elif character in "([{":
                self._depth += 1
            elif character in ")]}":
                self._depth -= 1
                if self._depth <= 0:
                    return index + 1
        return None
