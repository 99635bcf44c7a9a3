"""DecodeBatch: the library's generation, whose step waits for the device once.

```
step n:   model(token n) ──┐ begun      forms: which tokens may be n + 1? ──┐
                           └─> logits ──────────────── masked ──> sampled ──┴─> begun; returns token n
```
Token `n` was sampled by the step before. The library begins to compute when all of a step is described, and a form
cannot be described before token `n` is known: the device would wait for Python. Here the logits are begun first, and
the form works while they are computed. Where a form does not depend on the last token, nothing waits for that either.

Rows may be given drafts of what follows token `n` (see `drafts`): one step computes all of them, every position is
sampled as it would have been alone, and a row's draft is right up to the first token that is not the sampled one.
Positions computed after that are taken back, a different number for each row; a shorter draft is padded, and the
padding is taken back with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
from mlx_lm.generate import GenerationBatch, PromptProcessingBatch

from semanticd.adapters.mlx.constraints.packed_mask import PackedMask, masked
from semanticd.adapters.mlx.model.kv_codec import flatten, slotted
from semanticd.adapters.mlx.model.sampling import SequenceSampler, greedy


class Form(Protocol):
    """Constraint on the next token of one sequence's answer."""

    def needs_last(self, ids: Sequence[int]) -> bool:
        """Return whether the constraint depends on the token after `ids`, the sequence without its last token."""

    def mask(self, ids: Sequence[int], last: int | None, *, size: int) -> PackedMask | None:
        """Return which of `size` tokens may follow `ids` and `last`, None where it is not needed; None: all may."""

    def forced(self, ids: Sequence[int], last: int) -> list[int]:
        """Return the tokens that have to follow `ids` and `last`: a guess, as a text has several spellings."""


@dataclass(slots=True)
class GuardedForm:
    """A row's form; what it raises is noted, and from then on every token may come."""

    form: Form
    note: Callable[[Exception], None]
    looks_ahead: bool = False
    """Whether it is queried for forced tokens."""
    has_failed: bool = False
    forces: bool = False
    """Whether it forced what followed the tokens that it looked ahead from."""

    def needs_last(self, ids: Sequence[int]) -> bool:
        """See `Form`."""
        return bool(self._guarded(lambda: self.form.needs_last(ids)))

    def mask(self, ids: Sequence[int], last: int | None, *, size: int) -> PackedMask | None:
        """See `Form`."""
        found: PackedMask | None = self._guarded(lambda: self.form.mask(ids, last, size=size))
        return found

    def forced(self, ids: Sequence[int], last: int) -> list[int]:
        """See `Form`; nothing unless it looks ahead."""
        return (self._guarded(lambda: self.form.forced(ids, last)) or []) if self.looks_ahead else []

    def look_ahead(self, ids: Sequence[int], last: int) -> None:
        """Note whether it forces what follows `ids` and `last`."""
        self.forces = bool(self.forced(ids, last))

    def _guarded(self, ask: Callable[[], Any]) -> Any:
        if self.has_failed:
            return None
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 (handed to the engine, which ends this row)
            self.has_failed = True
            self.note(error)
            return None


@dataclass(slots=True)
class GuardedSampler:
    """A row's sampler; what it raises is noted, and from then on the likeliest token is taken."""

    sampler: SequenceSampler
    note: Callable[[Exception], None]
    has_failed: bool = False

    def __call__(self, logprobs: mx.array) -> mx.array:
        """See `SequenceSampler`."""
        if not self.has_failed:
            try:
                return self.sampler(logprobs)
            except Exception as error:  # noqa: BLE001 (handed to the engine, which ends this row)
                self.has_failed = True
                self.note(error)
        return greedy(logprobs)

    def take_back(self, num_steps: int) -> None:
        """See `SequenceSampler`."""
        self.sampler.take_back(num_steps)


@dataclass(frozen=True, slots=True)
class _Verified:
    """The sampled tokens of a row: one after each accepted token, and its log-probabilities `[vocab]`."""

    ids: list[int]
    logprobs: list[mx.array]


class DecodeBatch(GenerationBatch):
    """A batch of decoding rows; a row's processors are functions of its ids and logits, and its form, if any."""

    _next_tokens: Any
    _next_logprobs: list[mx.array]

    @classmethod
    def begin(cls, batch: PromptProcessingBatch, last_token: int) -> DecodeBatch:
        """Take over a batch of one row, whose prompt is in its cache except `last_token`, and begin its first step."""
        return cls(
            batch.model,
            batch.uids,
            mx.array([last_token]),
            batch.prompt_cache,
            batch.tokens,
            batch.samplers,
            batch.fallback_sampler,
            batch.logits_processors,
            batch.stop_sequences,
            batch.max_tokens,
        )

    def filter(self, keep: Sequence[int]) -> None:
        """Keep these rows: all stay where they are, except the last ones, which take the places that became free."""
        kept = set(keep)
        last = [row for row in keep if row >= len(kept)]
        super().filter([place if place in kept else last.pop() for place in range(len(kept))])

    def _step(self) -> tuple[list[int], list[mx.array]]:
        """Sample the next tokens; return the ones before, which are in the cache now, and their log-probabilities."""
        inputs = self._next_tokens
        self._current_tokens, self._current_logprobs = inputs, self._next_logprobs
        logits = self.model(inputs[:, None], cache=self.prompt_cache)[:, -1, :]
        logits, contexts, last = self._formed(logits, inputs)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        self._next_tokens = self._sampled(logprobs)
        self._next_logprobs = list(logprobs)
        mx.async_eval(self._next_tokens, self._next_logprobs, contexts)
        ids = ids_of(inputs) if last is None else last
        for tokens, token_id in zip(self.tokens, ids, strict=True):
            tokens.append(token_id)
        return ids, self._current_logprobs

    def pending(self) -> list[int]:
        """Wait for each row's next token."""
        return ids_of(self._next_tokens)

    @property
    def draft_room(self) -> int:
        """Draft tokens that the running caches have room for alongside the next token."""
        return min(int(leaf.room) for leaf in flatten(self.prompt_cache)) - 1

    def verify(self, drafts: Sequence[Sequence[int]]) -> list[GenerationBatch.Response]:
        """Compute each row's next token and a draft of what follows it, which may be empty.

        Returns for each row, one after the other, the next token and as much of the draft as is what would have been
        sampled; that is in the cache now. Layers that cannot be cut do not allow this.
        """
        fed = [[token_id, *draft] for token_id, draft in zip(self.pending(), drafts, strict=True)]
        width = max(map(len, fed))
        filled = [ids + ids[-1:] * (width - len(ids)) for ids in fed]
        logits = self.model(mx.array(filled), cache=self.prompt_cache)
        verified = self._verified(logits, fed)
        used = [len(row.ids) for row in verified]
        if any(count < width for count in used):
            for leaf in slotted(self.prompt_cache):
                leaf.take_back([width - count for count in used])
        responses: list[GenerationBatch.Response] = []
        for number, row in enumerate(verified):
            self._num_tokens[number] += used[number]
            scored = zip(fed[number], [self._next_logprobs[number], *row.logprobs[:-1]], strict=False)
            responses += [
                self.Response(self.uids[number], token_id, logprobs, None, None, None)
                for token_id, logprobs in scored
            ]
        self._next_tokens = mx.array([row.ids[-1] for row in verified], mx.uint32)
        self._next_logprobs = [row.logprobs[-1] for row in verified]
        return responses

    def _verified(self, logits: mx.array, fed: Sequence[Sequence[int]]) -> list[_Verified]:
        """Return what is sampled in each row, whose logits `[rows, width, vocab]` follow what it was fed."""
        positions: list[mx.array] = []
        contexts: list[mx.array] = []
        forms: dict[int, GuardedForm] = {}
        for number, ids in enumerate(fed):
            processed = self._processed(number, logits[number, : len(ids)], ids, contexts)
            positions.append(processed)
            form = next(
                (one for one in self.logits_processors[number] or () if isinstance(one, GuardedForm)), None
            )
            if form is not None:
                forms[number] = form
        # The forms work while everything else is computed.
        sampled = {
            number: self._sampled_at_once(number, row)
            for number, row in enumerate(positions)
            if number not in forms
        }
        mx.async_eval(list(sampled.values()), [positions[number] for number in forms], contexts)
        verified = [
            self._sampled_along(number, forms[number], row, fed[number])
            if number in forms
            else self._accepted(number, *sampled[number], fed[number])
            for number, row in enumerate(positions)
        ]
        for number, (ids, row) in enumerate(zip(fed, verified, strict=True)):
            if self._functions(number):
                self._token_context[number]._size -= len(ids) - len(row.ids)
        return verified

    def _functions(self, number: int) -> list[Any]:
        """Return a row's processors except its form."""
        return [one for one in self.logits_processors[number] or () if not isinstance(one, GuardedForm)]

    def _processed(
        self, number: int, logits: mx.array, fed: Sequence[int], contexts: list[mx.array]
    ) -> mx.array:
        """Return a row's logits `[width, vocab]` after its processors; what these have seen goes to `contexts`."""
        functions = self._functions(number)
        if not functions:
            return logits
        rows = [logits[place : place + 1] for place in range(len(fed))]
        for place, token_id in enumerate(fed):
            contexts.append(self._token_context[number].update_and_fetch(mx.array([token_id])))
            for process in functions:
                rows[place] = process(contexts[-1], rows[place])
        return mx.concatenate(rows, axis=0)

    def _sampled_at_once(self, number: int, logits: mx.array) -> tuple[mx.array, mx.array]:
        """Return what is sampled at every position of a row, and the log-probabilities; to be evaluated."""
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        sampler = self.samplers[number] or self.fallback_sampler
        if sampler is greedy:
            return greedy(logprobs), logprobs
        places = range(logits.shape[0])
        return mx.concatenate([sampler(logprobs[place : place + 1]) for place in places], axis=0), logprobs

    def _accepted(self, number: int, sampled: mx.array, logprobs: mx.array, fed: Sequence[int]) -> _Verified:
        """Return what is sampled behind the next token and behind each token of the draft that is right."""
        ids = ids_of(sampled)
        num_used = 1
        while num_used < len(ids) and ids[num_used - 1] == fed[num_used]:
            num_used += 1
        sampler = self.samplers[number] or self.fallback_sampler
        if isinstance(sampler, GuardedSampler):
            sampler.take_back(len(ids) - num_used)
        self.tokens[number] += fed[:num_used]
        return _Verified(ids[:num_used], list(logprobs[:num_used]))

    def _sampled_along(
        self, number: int, form: GuardedForm, logits: mx.array, fed: Sequence[int]
    ) -> _Verified:
        """Accept draft tokens one position at a time: the form must see only tokens of the answer; see `_accepted`."""
        sampler = self.samplers[number] or self.fallback_sampler
        tokens = self.tokens[number]
        ids: list[int] = []
        logprobs: list[mx.array] = []
        for place, token_id in enumerate(fed):
            row = logits[place : place + 1]
            mask = form.mask(tokens, token_id, size=row.shape[-1])
            row = row if mask is None else masked(row, mask)
            row = row - mx.logsumexp(row, axis=-1, keepdims=True)
            ids += ids_of(sampler(row))
            logprobs.append(row[0])
            is_last = fed[place + 1 : place + 2] != ids[-1:]
            if is_last:
                form.look_ahead(tokens, token_id)
            tokens.append(token_id)
            if is_last:
                break
        return _Verified(ids, logprobs)

    def _formed(
        self, logits: mx.array, inputs: mx.array
    ) -> tuple[mx.array, list[mx.array], list[int] | None]:
        """Apply the rows' processors and forms.

        Returns the logits, arrays to evaluate with them, and the last tokens if a form had to wait for them.
        """
        if not any(self.logits_processors):
            return logits, [], None
        rows = [logits[number : number + 1] for number in range(len(self.uids))]
        contexts: list[mx.array] = []
        forms: list[tuple[int, GuardedForm]] = []
        is_changed = False
        for number, processors in enumerate(self.logits_processors):
            functions = [one for one in processors or () if not isinstance(one, GuardedForm)]
            forms += [(number, one) for one in processors or () if isinstance(one, GuardedForm)]
            if functions:
                context = self._token_context[number].update_and_fetch(inputs[number : number + 1])
                contexts.append(context)
                is_changed = True
                for process in functions:
                    rows[number] = process(context, rows[number])
        last: list[int] | None = None
        if any(form.needs_last(self.tokens[number]) for number, form in forms):
            mx.async_eval(rows)
            last = ids_of(inputs)
        for number, form in forms:
            token_id = None if last is None else last[number]
            mask = form.mask(self.tokens[number], token_id, size=logits.shape[-1])
            if mask is not None:
                is_changed = True
                rows[number] = masked(rows[number], mask)
            if token_id is not None:
                form.look_ahead(self.tokens[number], token_id)
        if is_changed:
            logits = rows[0] if len(rows) == 1 else mx.concatenate(rows, axis=0)
        return logits, contexts, last

    def _sampled(self, logprobs: mx.array) -> mx.array:
        """Return the next tokens; rows that share a sampler are one call."""
        samplers = [sampler or self.fallback_sampler for sampler in self.samplers]
        if all(sampler is samplers[0] for sampler in samplers):
            sampled: mx.array = samplers[0](logprobs)
            return sampled
        rows = [sampler(logprobs[number : number + 1]) for number, sampler in enumerate(samplers)]
        return mx.concatenate(rows, axis=0)


def ids_of(tokens: mx.array) -> list[int]:
    """Wait for sampled tokens."""
    ids: Any = tokens.tolist()
    return list(ids)
