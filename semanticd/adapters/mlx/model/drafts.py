"""RowDrafts: what the next tokens of a row may be, to be verified in one step.

First what its form forces, then what the row said before. The pending token, which the step before has sampled, is
waited for only where there is something to follow it: without a draft, a step waits for nothing that it did not wait
for anyway.

Engine thread only.
"""

from __future__ import annotations

from semanticd.adapters.mlx.model.decode_batch import DecodeBatch, GuardedForm
from semanticd.domain.lookup import Drafter


class RowDrafts:
    """Makes the drafts of one row, while it decodes alone."""

    def __init__(self, max_drafts: int, *, form: GuardedForm | None, max_length: int | None) -> None:
        """Make drafts of `max_drafts` tokens at most, for a row that ends at `max_length` (None: anywhere)."""
        self._max_drafts = max_drafts
        self._form = form
        self._max_length = max_length
        self._drafter = Drafter(max_drafts)
        self._num_forced = self._num_guessed = 0

    def make(self, batch: DecodeBatch) -> list[int]:
        """Return a draft of what follows the pending token; empty where there is none."""
        ids = batch.tokens[0]
        # What makes the running cache grow is left to a plain step, for which room was made.
        most = min(self._max_drafts, batch.draft_room)
        if self._max_length is not None:
            most = min(most, self._max_length - len(ids) - 1)
        if most <= 0:
            return []
        expected = self._drafter.expect(ids)
        if not expected and not (self._form is not None and self._form.forces):
            return []
        pending = batch.pending()
        forced = self._form.forced(ids, pending)[:most] if self._form is not None else []
        if not forced and expected[:1] == [pending]:
            guessed = expected[1 : most + 1]
        else:
            guessed = self._drafter.continue_from(ids, [pending, *forced], most=most - len(forced))
        self._num_forced, self._num_guessed = len(forced), len(guessed)
        return [*forced, *guessed]

    def note(self, num_accepted: int, *, length: int) -> None:
        """Learn how many tokens of the last draft were right; the row has this length since then."""
        if self._num_guessed and num_accepted >= self._num_forced:
            right = num_accepted - self._num_forced
            self._drafter.note(num_drafted=self._num_guessed, num_accepted=right, length=length)
