"""Turns a sequence's tokens into text as they come; a character split over tokens waits until it is whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"
_MAX_HELD = 8
"""A character has at most four bytes: tokens that stay incomplete longer than this are not UTF-8, and pass."""


class MlxStreamDecoder:
    """One answer's decoder; see the port `StreamDecoder`.

    A token's text can depend on the one before it (spaces, split characters), so two short windows are decoded: the
    last tokens with and without the new ones. The cost per token does not grow with the answer.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], *, silent: frozenset[int]) -> None:
        """`silent` ids produce no text."""
        self._decode = decode
        self._silent = silent
        self._shown: list[int] = []
        self._held: list[int] = []

    def add(self, token_id: int) -> str:
        """Return the text that became certain."""
        if token_id in self._silent:
            return ""
        self._held.append(token_id)
        before = self._decode(self._shown) if self._shown else ""
        after = self._decode([*self._shown, *self._held])
        if after.endswith(_INCOMPLETE) and len(self._held) < _MAX_HELD:
            return ""
        self._shown, self._held = self._held, []
        return after[len(before) :]

    def finish(self) -> str:
        """Return what was held back."""
        if not self._held:
            return ""
        before = self._decode(self._shown) if self._shown else ""
        after = self._decode([*self._shown, *self._held])
        self._shown, self._held = self._held, []
        return after[len(before) :]
