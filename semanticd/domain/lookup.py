"""Lookup decoding: a sequence's earlier text is the draft of its next tokens.

An agent copies: files that it edits, results that it quotes, calls that have the same keys each time. Where the last
`GRAM` ids were seen before, what followed them there is a draft of what follows now; a step that verifies a draft of
four tokens costs hardly more than a step of one. Drafts are only guesses: the verification decides.

Runs that the sequence's own ids do not contain may be found in earlier answers of its agent, see `earlier_text`.

Nothing here grows with the context from step to step: an id is looked at once when it is new, and a long prompt is
taken in slices, its end first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from semanticd.domain.earlier_text import GRAM, EarlierText

Guess = Literal["own", "earlier"]
"""Source of a draft: the sequence's own ids, or earlier answers of its agent."""

AUTO_DRAFTS = 12
"""Most tokens of a draft, unless the user says: beyond it a token costs more than it is likely to save."""
SLICE_TOKENS = 1024
"""Ids of a prompt that are taken in at a time: about half a millisecond."""
MAX_GRAMS = 1 << 16
"""Maximum number of runs in an index, about 8 MB; a full index drops all runs before it adds the next ones."""
NEAR_GRAM = 2
"""As `GRAM`, near what was being repeated until another id came: an edit is followed by what followed the original."""
NEAR_TOKENS = 24
"""Ids that are searched from that place on, and number of new ids for which the search lasts."""
FIRST_WIDTH = 2
"""Draft tokens to begin with: where nothing is repeated they cost a tenth of a step."""
MAX_FAILURES = 2
"""Drafts in a row of which nothing was right, after which none are made for a while."""
STEP_TOKENS = 12
"""So many tokens of all rows take as long as what a step costs whatever it computes; many more on a GPU."""
FIRST_PAUSE = 8
LONGEST_PAUSE = 512
"""Tokens without a draft after failures; each pause is twice the one before, until a draft is right."""


class GramIndex:
    """Index of the last position of each run of `GRAM` ids with a successor, over a growing list of ids."""

    def __init__(self, *, max_grams: int = MAX_GRAMS) -> None:
        """Begin without any; at most `max_grams` runs are remembered."""
        self._max_grams = max_grams
        self._places: dict[tuple[int, ...], int] = {}
        self._begin = -1
        """Runs that are followed by a position from here on are known; -1: none was taken in."""
        self._end = -1
        """First position that was not indexed."""

    def __len__(self) -> int:
        return len(self._places)

    def take(self, ids: Sequence[int]) -> None:
        """Take in what is new at the end of `ids`, and what is older and was not taken in yet: a slice of each."""
        if self._begin < 0 or len(self._places) >= self._max_grams:
            self._places.clear()
            # From the end of the prompt on: what is near is repeated most.
            self._begin = self._end = max(len(ids) - 1, GRAM)
        places = self._places
        until = min(len(ids), self._end + SLICE_TOKENS)
        for position in range(self._end, until):
            places[tuple(ids[position - GRAM : position])] = position
        self._end = max(self._end, until)
        # Half is left for what is still to come.
        older = min(self._begin - GRAM, SLICE_TOKENS, self._max_grams // 2 - len(places))
        for position in range(self._begin - 1, self._begin - 1 - older, -1):
            places.setdefault(tuple(ids[position - GRAM : position]), position)
        self._begin -= max(older, 0)

    def find(self, last: Sequence[int]) -> int | None:
        """Return the position that followed these `GRAM` ids when they were seen last; None: they were not."""
        return self._places.get(tuple(last))


class DraftPolicy:
    """Policy for the length of drafts: longer while they are accepted, paused for a while after failures."""

    def __init__(self, max_drafts: int) -> None:
        """Make drafts of `max_drafts` tokens at most."""
        self._widths = _widths(max_drafts)
        self._level = 0
        self._num_failures = 0
        self._pause = FIRST_PAUSE
        self._resumes_at = 0

    def width(self, length: int) -> int:
        """Return how many draft tokens may follow ids of this length; 0: none now."""
        return self._widths[self._level] if length >= self._resumes_at else 0

    def note(self, *, num_drafted: int, num_accepted: int, length: int) -> None:
        """Learn what happened to a draft; the ids have this length since then."""
        if num_accepted == 0:
            self._fail(length)
            return
        self._num_failures, self._pause = 0, FIRST_PAUSE
        if num_accepted < num_drafted:
            # An edit, most likely: what follows is repeated again.
            self._level = min(self._level, 1)
        elif num_drafted >= self._widths[self._level]:
            self._level = min(self._level + 1, len(self._widths) - 1)

    def _fail(self, length: int) -> None:
        self._level = 0
        self._num_failures += 1
        if self._num_failures >= MAX_FAILURES:
            # The next one alone decides whether it continues.
            self._num_failures = MAX_FAILURES - 1
            self._resumes_at = length + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)


def is_worth_a_step(num_drafts: int, num_rows: int) -> bool:
    """Return whether drafts for this number of rows gain more than they cost the other rows of the batch."""
    return 2 * num_drafts > num_rows


def shared_width(lengths: Sequence[int]) -> int:
    """Return how many draft tokens of each row one step verifies, given the lengths of the rows' drafts; 0: none.

    All rows of a step are as wide as the widest: a long draft alongside short ones costs all of them.
    """
    num_rows, num_drafts = len(lengths), sum(map(bool, lengths))
    if not is_worth_a_step(num_drafts, num_rows):
        return 0

    def rate(width: int) -> float:
        return (num_rows + sum(min(length, width) for length in lengths)) / (
            STEP_TOKENS + num_rows * (1 + width)
        )

    return lengths[0] if num_rows == 1 else max(set(lengths) - {0}, key=rate)


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in a sequence's own ids, or in those of its agent's earlier answers."""

    guess: Guess
    at: int


class Drafter:
    """Makes the drafts of one sequence: from its own ids, and from earlier answers where those have none."""

    def __init__(self, max_drafts: int, *, earlier: EarlierText | None = None) -> None:
        """Make drafts of `max_drafts` tokens at most; `earlier` is what the sequence's agent answered before."""
        self._index = GramIndex()
        self._earlier = earlier or EarlierText()
        # Each has its own: where the one is wrong, the other is not left alone.
        self._policies: dict[Guess, DraftPolicy] = {
            "own": DraftPolicy(max_drafts),
            "earlier": DraftPolicy(max_drafts),
        }
        self._source: _Place | None = None
        """Position of the repeated text; followed as long as its tokens match."""
        self._lost: tuple[_Place, int] | None = None
        """Position in the repeated text at which the ids diverged from it, and the number of ids at that time."""
        self._length = 0
        self.guess: Guess = "own"
        """Source of the last draft."""

    def begin(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Follow the former answer to this very prompt, if there is one that begins with what is already answered."""
        start = self._earlier.answer_to(prompt)
        if start is not None and self._earlier.continuation(start, len(answer)) == list(answer):
            self._source = _Place("earlier", start + len(answer))
            self._length = len(prompt) + len(answer)

    def expect(self, ids: Sequence[int]) -> list[int]:
        """Return what should follow `ids`: a token, and the draft of what follows that; nothing where that is unknown.

        `ids` are those of the call before, and more.
        """
        self._follow(ids)
        if len(ids) < GRAM:
            return []
        if self._has_width("own", ids):
            self._index.take(ids)
        if self._source is None:
            self._source = self._found_near(ids) or self._found(ids[-GRAM:], ids)
        if self._source is None or not self._has_width(self._source.guess, ids):
            return []
        return self._draft(ids, self._source, self._policies[self._source.guess].width(len(ids)) + 1)

    def continue_from(self, ids: Sequence[int], ahead: Sequence[int], *, most: int) -> list[int]:
        """Return a draft of at most `most` tokens that follow `ids` and then `ahead`, which is not among them yet."""
        last = [*ids[-GRAM:], *ahead][-GRAM:]
        source = self._found(last, ids) if most > 0 and len(last) == GRAM else None
        if source is None:
            return []
        return self._draft(ids, source, min(most, self._policies[source.guess].width(len(ids))))

    def note(self, *, num_drafted: int, num_accepted: int, length: int) -> None:
        """Learn how many tokens of the last draft were right; the ids have this length since then."""
        self._policies[self.guess].note(num_drafted=num_drafted, num_accepted=num_accepted, length=length)

    def _has_width(self, guess: Guess, ids: Sequence[int]) -> bool:
        return self._policies[guess].width(len(ids)) > 0

    def _draft(self, ids: Sequence[int], source: _Place, count: int) -> list[int]:
        self.guess = source.guess
        if source.guess == "own":
            return _continuation(ids, source.at, count)
        return self._earlier.continuation(source.at, count)

    def _found(self, last: Sequence[int], ids: Sequence[int]) -> _Place | None:
        """Return what followed the `last` ids before: in the sequence's `ids`, else in earlier answers."""
        if self._has_width("own", ids) and (at := self._index.find(last)) is not None:
            return _Place("own", at)
        if self._has_width("earlier", ids) and (at := self._earlier.find(last)) is not None:
            return _Place("earlier", at)
        return None

    def _follow(self, ids: Sequence[int]) -> None:
        source = self._source
        if source is not None:
            text, at = self._text(source.guess, ids), source.at
            for position in range(self._length, len(ids)):
                if text[at] != ids[position]:
                    self._lost = _Place(source.guess, at), position
                    self._source = None
                    break
                at += 1
            else:
                self._source = _Place(source.guess, at)
        self._length = len(ids)

    def _found_near(self, ids: Sequence[int]) -> _Place | None:
        """Return where the repeated text continues after an edit, if it contains the last ids."""
        if self._lost is None:
            return None
        lost, since = self._lost
        guess, at = lost.guess, lost.at
        if not self._has_width(guess, ids) or not NEAR_GRAM <= len(ids) - since <= NEAR_TOKENS:
            return None
        text, last = self._text(guess, ids), list(ids[-NEAR_GRAM:])
        for place in range(at, at + NEAR_TOKENS):
            if list(text[place - NEAR_GRAM : place]) == last and (guess == "earlier" or place < since):
                return _Place(guess, place)
        return None

    def _text(self, guess: Guess, ids: Sequence[int]) -> Sequence[int]:
        return ids if guess == "own" else self._earlier.ids


def _widths(max_drafts: int) -> list[int]:
    """Return the lengths of drafts, shortest first: 2, 4, 8, then twice as many each, the last one `max_drafts`."""
    widths = [FIRST_WIDTH]
    while widths[-1] < max_drafts:
        widths.append(2 * widths[-1])
    widths[-1] = max_drafts
    return widths


def _continuation(ids: Sequence[int], source: int, count: int) -> list[int]:
    """Return the `count` ids from a position on; beyond the end, what is repeated begins again."""
    found = list(ids[source : source + count])
    while len(found) < count:
        found.append(found[source - len(ids)])
    return found
