"""Sampling against a version written with numpy in the plainest way, and the promises about seeds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from semanticd.adapters.mlx.model.sampling import SequenceSampler, greedy, logits_processors
from semanticd.domain.generation import SamplingParams

Row = np.ndarray[Any, np.dtype[np.float32]]


def allowed_by_numpy(logprobs: Row, sampling: SamplingParams) -> set[int]:
    """Return the ids that top_k, top_p and min_p leave, one after the other."""
    scaled = logprobs.astype(np.float64) / sampling.temperature
    order = sorted(range(len(scaled)), key=lambda i: -scaled[i])
    kept = order[: sampling.top_k] if sampling.top_k else order
    if sampling.top_p < 1.0:
        weights = np.exp(scaled[kept] - scaled[kept].max())
        weights /= weights.sum()
        before = np.cumsum(weights) - weights
        kept = [token for token, mass in zip(kept, before, strict=True) if mass < sampling.top_p]
    if sampling.min_p:
        kept = [t for t in kept if scaled[t] >= scaled[order[0]] + np.log(sampling.min_p)]
    return set(kept)


def penalized_by_numpy(context: list[int], logits: Row, sampling: SamplingParams) -> Row:
    """Return the logits after bias and penalties."""
    changed = logits.astype(np.float64).copy()
    for token, bias in sampling.logit_bias.items():
        changed[token] += bias
    for token, num in Counter(context[-sampling.penalty_window :]).items():
        factor = sampling.repetition_penalty
        changed[token] = changed[token] / factor if changed[token] > 0 else changed[token] * factor
        changed[token] -= num * sampling.frequency_penalty + sampling.presence_penalty
    return changed.astype(np.float32)


def row(seed: int, size: int = 24) -> Row:
    """Return log-probabilities without ties."""
    logits = np.random.default_rng(seed).permutation(size) * 0.37
    return (logits - np.log(np.exp(logits).sum())).astype(np.float32)


def draws(sampling: SamplingParams, logprobs: Row, *, seed: int, num: int, step: int = 0) -> list[int]:
    sampler = SequenceSampler(sampling, seed=seed, step=step)
    return [int(sampler(mx.array(logprobs)[None]).item()) for _ in range(num)]


@hypothesis_settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.3, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 3, 24, 99]),
    top_p=st.sampled_from([0.01, 0.5, 0.93, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_only_what_the_filters_leave_is_ever_drawn(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    sampling = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    logprobs = row(seed)
    assert set(draws(sampling, logprobs, seed=seed, num=12)) <= allowed_by_numpy(logprobs, sampling)


def test_everything_that_the_filters_leave_is_drawn_as_often_as_it_is_likely() -> None:
    sampling = SamplingParams(temperature=2.0, top_k=6, top_p=0.95)
    logprobs = row(3)
    kept = sorted(allowed_by_numpy(logprobs, sampling))
    weights = np.exp(logprobs[kept] / 2.0)
    num = 1500
    seen = Counter(draws(sampling, logprobs, seed=7, num=num))
    assert set(seen) == set(kept)
    shares = np.array([seen[token] / num for token in kept])
    assert np.abs(shares - weights / weights.sum()).max() < 0.05


def test_a_seed_gives_the_same_draws_and_a_step_goes_on_where_they_were() -> None:
    sampling, logprobs = SamplingParams(temperature=1.5), row(1)
    first = draws(sampling, logprobs, seed=11, num=20)
    mx.random.seed(99)
    assert draws(sampling, logprobs, seed=11, num=20) == first
    assert draws(sampling, logprobs, seed=11, num=12, step=8) == first[8:]
    assert draws(sampling, logprobs, seed=12, num=20) != first


@pytest.mark.parametrize("seed", [0, 2**31 - 1, 2**31, 2**63 - 1, -5])
def test_any_seed_is_taken(seed: int) -> None:
    assert len(draws(SamplingParams(), row(0), seed=seed, num=2)) == 2


def test_greedy_takes_the_most_likely() -> None:
    rows = np.stack([row(1), row(2)])
    assert greedy(mx.array(rows)).tolist() == rows.argmax(axis=-1).tolist()


@hypothesis_settings(max_examples=40)
@given(
    context=st.lists(st.integers(0, 23), max_size=30),
    repetition=st.sampled_from([0.5, 1.0, 1.3]),
    presence=st.sampled_from([-2.0, 0.0, 0.7]),
    frequency=st.sampled_from([-1.0, 0.0, 1.9]),
    window=st.sampled_from([1, 5, 64]),
    bias=st.dictionaries(st.integers(0, 23), st.floats(-100, 100, width=32), max_size=4),
)
def test_bias_and_penalties_change_the_logits_as_numpy_does(
    context: list[int],
    repetition: float,
    presence: float,
    frequency: float,
    window: int,
    bias: dict[int, float],
) -> None:
    sampling = SamplingParams(
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        penalty_window=window,
        logit_bias=bias,
    )
    logits = row(5)
    changed = mx.array(logits)[None]
    for process in logits_processors(sampling):
        changed = process(mx.array(context, dtype=mx.int32), changed)
    assert np.allclose(np.array(changed)[0], penalized_by_numpy(context, logits, sampling), atol=1e-4)


def test_neutral_parameters_need_no_processor() -> None:
    neutral = SamplingParams()
    assert logits_processors(neutral) == []
    assert len(logits_processors(replace(neutral, logit_bias={1: 5.0}, presence_penalty=1.0))) == 2


def test_a_bias_on_ids_of_another_vocabulary_changes_nothing_and_writes_nowhere() -> None:
    logits = mx.zeros((1, 8))
    (process,) = logits_processors(SamplingParams(logit_bias={3: 1.5, 8: 9.0, 50256: 9.0, -1: 9.0, -9: 9.0}))
    assert process(mx.array([0]), logits).tolist() == [[0.0, 0.0, 0.0, 1.5, 0.0, 0.0, 0.0, 0.0]]
    (nothing,) = logits_processors(SamplingParams(logit_bias={50256: 9.0}))
    assert nothing(mx.array([0]), logits).tolist() == logits.tolist()


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=1e-50),
        SamplingParams(temperature=1e-40),
        SamplingParams(temperature=1e300),
        SamplingParams(top_p=1e-50),
        SamplingParams(min_p=1e-50),
        SamplingParams(min_p=1.0, top_p=1e-8, top_k=1),
    ],
)
def test_extreme_parameters_never_draw_what_a_form_forbids(sampling: SamplingParams) -> None:
    logits = mx.where(
        mx.arange(100) % 10 == 7, mx.random.normal((100,), key=mx.random.key(0)), -float("inf")
    )[None]
    sampler = SequenceSampler(sampling, seed=1)
    drawn = {int(sampler(logits - mx.logsumexp(logits)).item()) for _ in range(20)}
    assert all(token_id % 10 == 7 for token_id in drawn)
    if sampling.temperature < 1 or sampling.top_p < 1:
        assert drawn == {int(mx.argmax(logits).item())}


def test_a_tiny_repetition_penalty_leaves_numbers() -> None:
    (process,) = logits_processors(SamplingParams(repetition_penalty=1e-40))
    assert bool(mx.all(mx.isfinite(process(mx.array([1, 2]), mx.array([[1.0, -5.0, 9.0]])))))
