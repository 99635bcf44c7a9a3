"""Chooses tokens: each sequence draws from its own key, so `seed` gives the same answer inside any batch.

The library's samplers share one global random state; here step `n` of a sequence uses a key made of (seed, n), which
also lets a preempted sequence continue exactly where it was.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from semanticd.domain.generation import SamplingParams

LogitsProcessor = Callable[[mx.array, mx.array], mx.array]
"""Takes the ids so far `[n]` and one row of logits `[1, vocab]`, returns the row changed."""

_SEED_BITS = 31
_NEVER = -float("inf")

_TEMPERATURES = (1e-5, 1e5)
_MIN_REPETITION_PENALTY = 1e-2
"""Values outside these bounds change no choice, and in float32 they would become zero, infinity or NaN."""


def greedy(logprobs: mx.array) -> mx.array:
    """Return the most likely token of each row; one object for all, so that a batch is served by one call."""
    return mx.argmax(logprobs, axis=-1)


class SequenceSampler:
    """Draws one sequence's tokens; call it with a row of log-probabilities `[1, vocab]`."""

    def __init__(self, sampling: SamplingParams, *, seed: int, step: int = 0) -> None:
        """Begin at a step of the seed's stream (0 for a new answer)."""
        self._sampling = sampling
        self._seed = seed & ((1 << _SEED_BITS) - 1)
        self._step = step

    def take_back(self, num_steps: int) -> None:
        """Go back by steps whose tokens are not used."""
        self._step -= num_steps

    def __call__(self, logprobs: mx.array) -> mx.array:
        """Return the token `[1]` and move on by a step."""
        sampling = self._sampling
        key = mx.random.key((self._seed << 32) | self._step)
        self._step += 1
        lowest, highest = _TEMPERATURES
        scaled = logprobs.astype(mx.float32) / min(max(sampling.temperature, lowest), highest)
        ids: mx.array | None = None
        if 0 < sampling.top_k < scaled.shape[-1]:
            # Everything else looks at these few only.
            ids = mx.argpartition(-scaled, sampling.top_k - 1, axis=-1)[..., : sampling.top_k]
            scaled = mx.take_along_axis(scaled, ids, axis=-1)
        if sampling.top_p < 1.0:
            order = mx.argsort(-scaled, axis=-1)
            ids = order if ids is None else mx.take_along_axis(ids, order, axis=-1)
            scaled = _keep_top_p(mx.take_along_axis(scaled, order, axis=-1), sampling.top_p)
        if sampling.min_p > 0.0:
            threshold = mx.max(scaled, axis=-1, keepdims=True) + mx.log(mx.array(sampling.min_p))
            scaled = mx.where(scaled < threshold, _NEVER, scaled)
        drawn = mx.random.categorical(scaled, axis=-1, key=key)
        return drawn if ids is None else mx.take_along_axis(ids, drawn[..., None], axis=-1)[..., 0]


def _keep_top_p(logits: mx.array, top_p: float) -> mx.array:
    """Leave of logits, the highest first, those with less than `top_p` before them: the first one always."""
    probabilities = mx.softmax(logits, axis=-1)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    beyond = (before >= top_p) & (mx.arange(logits.shape[-1]) > 0)
    return mx.where(beyond, _NEVER, logits)


def logits_processors(sampling: SamplingParams) -> list[LogitsProcessor]:
    """Return the processors that these parameters call for, in order; none for neutral ones."""
    processors: list[LogitsProcessor] = []
    if sampling.logit_bias:
        processors.append(_logit_bias(dict(sampling.logit_bias)))
    penalized = (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )
    if penalized:
        processors.append(_penalties(sampling))
    return processors


def _logit_bias(bias: dict[int, float]) -> LogitsProcessor:
    added: mx.array | None = None

    def process(_: mx.array, logits: mx.array) -> mx.array:
        nonlocal added
        if added is None:
            # Once, not at each token. Clients send ids of other models' vocabularies, and MLX writes wherever an
            # index points.
            known = {token_id: value for token_id, value in bias.items() if 0 <= token_id < logits.shape[-1]}
            added = mx.zeros((logits.shape[-1],), dtype=mx.float32)
            if known:
                added = added.at[mx.array(list(known))].add(mx.array(list(known.values())))
        return logits + added.astype(logits.dtype)

    return process


def _penalties(sampling: SamplingParams) -> LogitsProcessor:
    """Penalize the tokens of the last `penalty_window` ids, by presence, count, and factor."""

    def process(context: mx.array, logits: mx.array) -> mx.array:
        recent = context[-sampling.penalty_window :]
        counts = mx.zeros((logits.shape[-1],), dtype=mx.float32).at[recent].add(1.0)
        seen = counts > 0
        if sampling.repetition_penalty != 1.0:
            factor = max(sampling.repetition_penalty, _MIN_REPETITION_PENALTY)
            shrunk = mx.where(logits > 0, logits / factor, logits * factor)
            logits = mx.where(seen, shrunk, logits)
        additive = counts * sampling.frequency_penalty + seen * sampling.presence_penalty
        return logits - additive.astype(logits.dtype)

    return process
