"""EarlierText: an agent's earlier answers, as drafts for text that its prompt no longer contains.

A prompt holds the answers of its conversation, and a sequence finds drafts in it (see `lookup`). Here are those that it
may lack: the answer to the very same prompt, asked again, thoughts that the template left out, turns that a client
summarized or rewrote. Each answer stands behind the last ids of its prompt:

```
ids    … # p p p a a a a a … # p p p a a a … #        p: prompt, a: answer, #: SEPARATOR
grams  sorted, 64 bits each: hash of GRAM ids (40) | place of the id that followed them (24)
```
12 bytes a token. A hash of another run is noticed; an answer to another prompt of the same hash would be a wrong draft.
Values never change: a sequence may continue with what it has while a turn ends.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from semanticd.domain.limits import LIMITS

GRAM = 3
"""Ids that must have been seen in this order for what followed them to be a draft."""
SEPARATOR = 0xFFFF_FFFF
"""Separator between two answers; no token has this id."""
HASHES = (1 << 40) - 1
"""Mask of the bits of a run's hash that are kept."""
_PLACE_BITS = 24
_PLACES = (1 << _PLACE_BITS) - 1
_OVERHEAD_BYTES = 512
_ANSWER_BYTES = 200
"""Of the objects that hold an answer's places, and of a text without any; estimated."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """Location of an answer, and the hash of its prompt's ids."""

    prompt: int | None
    """None: its beginning is not kept."""
    begin: int
    """Of the prompt's last ids."""
    start: int
    end: int
    """Of its separator."""

    def moved(self, by: int) -> StoredAnswer:
        """Return it that many places further on."""
        return StoredAnswer(self.prompt, self.begin + by, self.start + by, self.end + by)


@dataclass(frozen=True, slots=True)
class EarlierText:
    """An agent's answers by one model, oldest first; `ids` and `grams` are read only."""

    ids: array[int] = field(default_factory=lambda: array("I"))
    grams: array[int] = field(default_factory=lambda: array("Q"))
    answers: tuple[StoredAnswer, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that it takes, by estimate."""
        arrays = self.ids.itemsize * len(self.ids) + self.grams.itemsize * len(self.grams)
        return _OVERHEAD_BYTES + arrays + _ANSWER_BYTES * len(self.answers)

    def find(self, last: Sequence[int]) -> int | None:
        """Return the place of the id that followed these `GRAM` ids when they were said last; None: they were not."""
        key = _key(last)
        at = bisect_left(self.grams, key + _PLACES + 1) - 1
        if at < 0 or self.grams[at] < key:
            return None
        place = self.grams[at] & _PLACES
        return place if list(self.ids[place - GRAM : place]) == list(last) else None

    def answer_to(self, prompt: Sequence[int]) -> int | None:
        """Return the place where the answer to this very prompt begins; None: it was not asked, or is forgotten."""
        named = _named(prompt)
        return next((one.start for one in self.answers if one.prompt == named), None)

    def continuation(self, place: int, count: int) -> list[int]:
        """Return at most `count` ids from a place on, no more than there are to the answer's end."""
        found = self.ids[place : place + count]
        return found[: found.index(SEPARATOR)].tolist() if SEPARATOR in found else found.tolist()

    def only_answers(self) -> EarlierText:
        """Return it without its runs: only an identical prompt still finds an answer."""
        return EarlierText(self.ids, array("Q"), self.answers)

    def with_answer(
        self, prompt: Sequence[int], answer: Sequence[int], *, max_tokens: int = LIMITS.earlier_tokens
    ) -> EarlierText:
        """Return it with one more answer, and without the oldest ones where it would be larger than `max_tokens`.

        The former answer to the same prompt goes, unless it begins with this one, which was cut short then.
        """
        named, kept, new = _named(prompt), self, array("I", answer)
        for one in self.answers:
            if one.prompt == named:
                former = self.ids[one.start : one.end]
                new = former if former[: len(new)] == new else new
                kept = _without(self, one.begin, one.end + 1)
        head = array("I", prompt[-GRAM:])
        if len(head) + len(new) + 1 > max_tokens:
            # Recent text is repeated most often.
            return _followed(EarlierText(), None, array("I"), new[len(new) + 1 - max_tokens :])
        return _followed(_within(kept, max_tokens - len(head) - len(new) - 1), named, head, new)


def _within(text: EarlierText, max_tokens: int) -> EarlierText:
    """Return a text of at most `max_tokens`, without its oldest answers."""
    excess = len(text.ids) - max_tokens
    if excess <= 0:
        return text
    ends = (one.end + 1 for one in text.answers)
    return _without(text, 0, next(end for end in ends if end >= excess))


def _without(text: EarlierText, begin: int, end: int) -> EarlierText:
    """Return a text without these places, which are those of whole answers."""
    count = end - begin
    # Places behind them are moved by as many, so that the order stays.
    grams = array(
        "Q",
        [
            gram if gram & _PLACES < begin else gram - count
            for gram in text.grams
            if not begin <= gram & _PLACES < end
        ],
    )
    answers = tuple(
        one if one.begin < begin else one.moved(-count)
        for one in text.answers
        if not begin <= one.begin < end
    )
    return EarlierText(text.ids[:begin] + text.ids[end:], grams, answers)


def _followed(text: EarlierText, named: int | None, head: array[int], answer: array[int]) -> EarlierText:
    """Return a text with an answer to the prompt of this name, whose last ids are `head`."""
    begin = len(text.ids)
    start = begin + len(head)
    ids = text.ids + head + answer
    new = [_key(ids[place - GRAM : place]) | place for place in range(begin + GRAM, len(ids))]
    # Two ascending runs, which a sort joins without comparing each with each.
    grams = array("Q", sorted([*text.grams, *sorted(new)]))
    ids.append(SEPARATOR)
    return EarlierText(ids, grams, (*text.answers, StoredAnswer(named, begin, start, len(ids) - 1)))


def _key(last: Sequence[int]) -> int:
    """Return the hash of a run in its place within a gram."""
    return (hash(tuple(last)) & HASHES) << _PLACE_BITS


def _named(prompt: Sequence[int]) -> int:
    return hash(tuple(prompt))
