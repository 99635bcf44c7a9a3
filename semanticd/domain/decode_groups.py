"""Groups of sequences that decode together: every row of a batch has the room of the longest, so lengths must be alike.

A step costs nearly the same for one row and for several, which speaks for large batches; padding costs memory and
attention, which speaks against mixing lengths. Rows share a batch while the longest is at most `MAX_RATIO` times the
shortest, or all are short.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MAX_RATIO = 4
SHORT_TOKENS = 1024
"""Rows up to this length (tokens) are never kept apart: padding them is cheaper than a second step."""
GROWTH_TOKENS = 256
"""A running cache has room for a multiple of so many tokens, and grows by as many at once."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """A decode batch: its number, and the lengths of its rows (tokens)."""

    group: int
    lengths: tuple[int, ...]

    def padding_for(self, length: int) -> int:
        """Return the tokens of padding that one more row of this length would add."""
        longest = max(self.lengths)
        if length > longest:
            return len(self.lengths) * (length - longest)
        return longest - length

    def room_for(self, length: int) -> int:
        """Return the tokens of room that the batch takes more when a row of this length moves to it."""
        longest = max(self.lengths)
        # A prompt's cache has room for one token more than the prompt.
        before = len(self.lengths) * capacity_for(longest) + capacity_for(length + 1)
        return (len(self.lengths) + 1) * capacity_for(max(longest, length) + 1) - before

    def growth(self, longest: int) -> int:
        """Return the tokens of room that it takes when it grows next, padding included; 0 if no row may get as long.

        `longest` is how long (tokens) a row may get.
        """
        return GROWTH_TOKENS * len(self.lengths) if longest > capacity_for(max(self.lengths)) else 0

    @property
    def growth_is_due(self) -> bool:
        """Whether the next step must grow the cache: its longest row, including the last decoded token, fills it."""
        return max(self.lengths) % GROWTH_TOKENS == 0


def choose_group(length: int, groups: Iterable[DecodeGroup], *, room_tokens: int) -> int:
    """Return the batch that a row of this length (tokens) joins: one that exists, or the lowest free number.

    `room_tokens` is how much padding memory has room for.
    """
    groups = list(groups)
    fitting = [
        group
        for group in groups
        if _alike((*group.lengths, length)) and group.padding_for(length) <= max(room_tokens, 0)
    ]
    if fitting:
        return min(fitting, key=lambda group: group.padding_for(length)).group
    taken = {group.group for group in groups}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def capacity_for(length: int) -> int:
    """Return the capacity in tokens of a running cache that holds this number of tokens."""
    return -(-length // GROWTH_TOKENS) * GROWTH_TOKENS


def _alike(lengths: tuple[int, ...]) -> bool:
    longest = max(lengths)
    return longest <= SHORT_TOKENS or longest <= MAX_RATIO * min(lengths)
