"""Keeps a model's thinking within its budget: once that is used, the end marker is the only token it may say."""

from __future__ import annotations

from collections.abc import Sequence


class ThinkingGate:
    """Follows one answer's tokens. `closed` means that thinking has ended and the answer follows."""

    def __init__(self, *, start: Sequence[int], end: Sequence[int], begun: bool, budget: int) -> None:
        """`start` and `end` are the markers' ids; `begun` when the prompt itself opened the thinking."""
        self._start, self._end = tuple(start), tuple(end)
        self._budget = budget
        self._thinking = begun
        self._recent: list[int] = []
        self._num_thought = 0
        self._num_forced = 0
        self.closed = False

    def take(self, token_id: int) -> None:
        """Follow one token of the answer."""
        if self.closed:
            return
        self._num_forced += self.forced == token_id
        self._num_thought += self._thinking
        self._recent = [*self._recent, token_id][-max(len(self._start), len(self._end)) :]
        if self._thinking:
            self.closed = self._ends_with(self._end)
        elif self._ends_with(self._start):
            self._thinking = True
            self._recent = []

    def _ends_with(self, marker: tuple[int, ...]) -> bool:
        return bool(marker) and tuple(self._recent[-len(marker) :]) == marker

    @property
    def may_force(self) -> bool:
        """Whether a token may be forced after the next one."""
        if self.closed:
            return False
        # Thinking that begins with the next token has used none of its budget.
        return self._num_thought + 1 >= self._budget if self._thinking else self._budget <= 0

    @property
    def forced(self) -> int | None:
        """The token that must come next, if any."""
        if self._thinking and not self.closed and self._num_thought >= self._budget:
            return self._end[self._num_forced % len(self._end)]
        return None
