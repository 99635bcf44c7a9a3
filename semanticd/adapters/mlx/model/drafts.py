"""RowDrafts: guesses of a row's next tokens, to be verified in one step.

First what its form forces, then what the row said before, then what its agent answered before. The pending tokens,
which the step before has sampled, are waited for only where most rows of the batch have something to follow them:
without drafts, a step waits for nothing that it did not wait for anyway.

Engine thread only.
"""

from __future__ import annotations

from collections.abc import Sequence

from semanticd.adapters.mlx.model.decode_batch import GuardedForm
from semanticd.application.ports.inference import DraftCounts, Drafted
from semanticd.domain.earlier_text import EarlierText
from semanticd.domain.lookup import Drafter


class RowDrafts:
    """Makes the drafts of one row."""

    def __init__(
        self,
        max_drafts: int,
        *,
        form: GuardedForm | None,
        max_length: int | None,
        earlier: EarlierText | None = None,
    ) -> None:
        """Make drafts of `max_drafts` tokens at most, for a row that ends at `max_length` (None: anywhere).

        `earlier` is what the row's agent answered before.
        """
        self._max_drafts = max_drafts
        self._form = form
        self._max_length = max_length
        self._drafter = Drafter(max_drafts, earlier=earlier)
        self._expected: list[int] = []
        self._most = 0
        self._num_forced = 0

    def begin(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Note the row's prompt, and what of its answer is known already."""
        self._drafter.begin(prompt, answer)

    def expect(self, ids: Sequence[int], *, room: int) -> bool:
        """Return whether a draft may follow the token after `ids`; `room` is its maximum length."""
        # A token that makes the running cache grow is left to a plain step, for which room was made.
        self._most = min(self._max_drafts, room)
        if self._max_length is not None:
            self._most = min(self._most, self._max_length - len(ids) - 1)
        if self._most <= 0:
            return False
        self._expected = self._drafter.expect(ids)
        return bool(self._expected) or (self._form is not None and self._form.forces)

    def make(self, ids: Sequence[int], pending: int) -> list[int]:
        """Return a draft of what follows `ids` and the pending token, as `expect` has just said; may be empty."""
        forced = self._form.forced(ids, pending)[: self._most] if self._form is not None else []
        if not forced and self._expected[:1] == [pending]:
            guessed = self._expected[1 : self._most + 1]
        else:
            most = self._most - len(forced)
            guessed = self._drafter.continue_from(ids, [pending, *forced], most=most)
        self._num_forced = len(forced)
        return [*forced, *guessed]

    def note(self, *, num_drafted: int, num_accepted: int, length: int) -> DraftCounts:
        """Learn how many of the draft's first `num_drafted` tokens were right; the row has this length since then.

        Returns the same by source.
        """
        num_forced = min(self._num_forced, num_drafted)
        forced = Drafted(num_forced, min(num_forced, num_accepted))
        guessed = Drafted(num_drafted - num_forced, num_accepted - forced.num_accepted)
        if guessed.num_drafted and num_accepted >= num_forced:
            self._drafter.note(
                num_drafted=guessed.num_drafted, num_accepted=guessed.num_accepted, length=length
            )
        if self._drafter.guess == "earlier":
            return DraftCounts(forced, earlier=guessed)
        return DraftCounts(forced, own=guessed)
