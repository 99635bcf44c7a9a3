"""DecodeBatch: the library's generation, whose step waits for the device once.

```
step n:   model(token n) ──┐ begun      forms: which tokens may be n + 1? ──┐
                           └─> logits ──────────────── masked ──> sampled ──┴─> begun; returns token n
```
Token `n` was sampled by the step before. The library begins to compute when all of a step is described, and a form
cannot be described before token `n` is known: the device would wait for Python. Here the logits are begun first, and
the form works while they are computed. Where a form does not depend on the last token, nothing waits for that either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
from mlx_lm.generate import GenerationBatch, PromptProcessingBatch

from semanticd.adapters.mlx.constraints.packed_mask import PackedMask, masked


class Form(Protocol):
    """Says which tokens may come next in one sequence's answer."""

    def needs_last(self, ids: Sequence[int]) -> bool:
        """Whether that depends on the token after `ids`, all that the sequence had before its last token."""

    def mask(self, ids: Sequence[int], last: int | None, *, size: int) -> PackedMask | None:
        """Return which of `size` tokens may follow `ids` and `last`, None where it is not needed; None: all may."""


@dataclass(slots=True)
class GuardedForm:
    """A row's form; what it raises is noted, and from then on every token may come."""

    form: Form
    note: Callable[[Exception], None]
    has_failed: bool = False

    def needs_last(self, ids: Sequence[int]) -> bool:
        """See `Form`."""
        return bool(self._guarded(lambda: self.form.needs_last(ids)))

    def mask(self, ids: Sequence[int], last: int | None, *, size: int) -> PackedMask | None:
        """See `Form`."""
        found: PackedMask | None = self._guarded(lambda: self.form.mask(ids, last, size=size))
        return found

    def _guarded(self, ask: Callable[[], Any]) -> Any:
        if self.has_failed:
            return None
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 (handed to the engine, which ends this row)
            self.has_failed = True
            self.note(error)
            return None


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
