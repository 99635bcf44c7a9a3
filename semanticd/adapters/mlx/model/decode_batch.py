"""DecodeBatch: the library's generation, whose step waits for the device once.

```
step n:   model(token n) ──┐ begun      forms: which tokens may be n + 1? ──┐
                           └─> logits ──────────────── masked ──> sampled ──┴─> begun; returns token n
```
Token `n` was sampled by the step before. The library begins to compute when all of a step is described, and a form
cannot be described before token `n` is known: the device would wait for Python. Here the logits are begun first, and
the form works while they are computed. Where a form does not depend on the last token, nothing waits for that either.

A row that is alone may be given a draft of what follows token `n` (see `drafts`): one step computes all of it, every
position is sampled as it would have been alone, and the draft is right up to the first token that is not the sampled
one. What was computed behind that is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
from mlx_lm.generate import GenerationBatch, PromptProcessingBatch

from semanticd.adapters.mlx.constraints.packed_mask import PackedMask, masked
from semanticd.adapters.mlx.model.kv_codec import flatten
from semanticd.adapters.mlx.model.sampling import SequenceSampler, greedy


class Form(Protocol):
    """Says which tokens may come next in one sequence's answer."""

    def needs_last(self, ids: Sequence[int]) -> bool:
        """Whether that depends on the token after `ids`, all that the sequence had before its last token."""

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
    """Whether it is asked what it forces."""
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


class DecodeBatch(GenerationBatch):
    """A batch of decoding rows; a row's processors are functions of its ids and logits, and its form, if any."""

    _next_tokens: Any
    _next_logprobs: list[mx.array]

    @classmethod
    def begin(cls, batch: PromptProcessingBatch, last_token: int) -> DecodeBatch:
        """Take over a batch of one row, whose prompt is in its cache but for `last_token`, and begin its first step."""
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
        """Keep these rows: all stay where they are, but for the last ones, which take the places that became free."""
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

    def pending(self) -> int:
        """Wait for the next token of the only row."""
        (token_id,) = ids_of(self._next_tokens)
        return token_id

    @property
    def draft_room(self) -> int:
        """Draft tokens that the running cache has room for beside the next token."""
        return min(int(leaf.room) for leaf in flatten(self.prompt_cache)) - 1

    def verify(self, draft: Sequence[int]) -> list[GenerationBatch.Response]:
        """Compute the next token of the only row and a draft of what follows it.

        Returns the next token, and as much of the draft as is what would have been sampled; that is in the cache now.
        Layers that cannot be cut do not allow this.
        """
        fed, first_logprobs = [self.pending(), *draft], self._next_logprobs[0]
        logits = self.model(mx.array([fed]), cache=self.prompt_cache)[0]
        rows, contexts = self._processed_rows(logits, fed)
        form = next((one for one in self.logits_processors[0] or () if isinstance(one, GuardedForm)), None)
        if form is None:
            sampled, logprobs = self._sampled_at_once(rows, contexts, fed)
        else:
            sampled, logprobs = self._sampled_along(form, rows, contexts, fed)
        num_used = len(sampled)
        self._take_back(len(fed) - num_used, has_context=bool(contexts))
        self._num_tokens[0] += num_used
        self._next_tokens, self._next_logprobs = mx.array(sampled[-1:], mx.uint32), logprobs[-1:]
        scored = zip(fed[:num_used], [first_logprobs, *logprobs], strict=False)
        return [self.Response(self.uids[0], token_id, row, None, None, None) for token_id, row in scored]

    def _processed_rows(self, logits: mx.array, fed: Sequence[int]) -> tuple[list[mx.array], list[mx.array]]:
        """Return each position's logits `[1, vocab]` after the row's processors, and the ids that these have seen."""
        rows = [logits[number : number + 1] for number in range(len(fed))]
        functions = [one for one in self.logits_processors[0] or () if not isinstance(one, GuardedForm)]
        contexts: list[mx.array] = []
        if functions:
            for number, token_id in enumerate(fed):
                contexts.append(self._token_context[0].update_and_fetch(mx.array([token_id])))
                for process in functions:
                    rows[number] = process(contexts[number], rows[number])
        return rows, contexts

    def _sampled_at_once(
        self, rows: list[mx.array], contexts: list[mx.array], fed: Sequence[int]
    ) -> tuple[list[int], list[mx.array]]:
        """Return what is sampled behind the next token and behind each token of the draft that is right."""
        logits = mx.concatenate(rows, axis=0)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        sampler = self.samplers[0] or self.fallback_sampler
        if sampler is greedy:
            sampled = greedy(logprobs)
        else:
            sampled = mx.concatenate([sampler(logprobs[n : n + 1]) for n in range(len(rows))], axis=0)
        mx.eval(sampled, logprobs, contexts)
        ids = ids_of(sampled)
        num_used = 1
        while num_used < len(ids) and ids[num_used - 1] == fed[num_used]:
            num_used += 1
        if isinstance(sampler, GuardedSampler):
            sampler.take_back(len(ids) - num_used)
        self.tokens[0] += fed[:num_used]
        return ids[:num_used], list(logprobs[:num_used])

    def _sampled_along(
        self, form: GuardedForm, rows: list[mx.array], contexts: list[mx.array], fed: Sequence[int]
    ) -> tuple[list[int], list[mx.array]]:
        """As `_sampled_at_once`, a position at a time: the form must not see a token that is not in the answer."""
        mx.async_eval(rows, contexts)
        sampler = self.samplers[0] or self.fallback_sampler
        ids: list[int] = []
        logprobs: list[mx.array] = []
        for number, token_id in enumerate(fed):
            mask = form.mask(self.tokens[0], token_id, size=rows[number].shape[-1])
            row = rows[number] if mask is None else masked(rows[number], mask)
            row = row - mx.logsumexp(row, axis=-1, keepdims=True)
            ids += ids_of(sampler(row))
            logprobs.append(row[0])
            is_last = fed[number + 1 : number + 2] != ids[-1:]
            if is_last:
                form.look_ahead(self.tokens[0], token_id)
            self.tokens[0].append(token_id)
            if is_last:
                break
        return ids, logprobs

    def _take_back(self, num_tokens: int, *, has_context: bool) -> None:
        """Forget the last tokens that were computed."""
        if not num_tokens:
            return
        for leaf in flatten(self.prompt_cache):
            leaf.trim(num_tokens)
        if has_context:
            self._token_context[0]._size -= num_tokens

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
            if token_id is not None and len(self.uids) == 1:
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
