"""Slices between steps that others wait for: short, and in their share of the time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanticd.domain.ids import ModelId
from semanticd.domain.slice_budget import SliceBudget

ONE = ModelId("one")


def measured(rate: float) -> SliceBudget:
    budget = SliceBudget()
    budget.record(ONE, num_tokens=int(rate), seconds=1.0, contended=False)
    return budget


def test_a_first_slice_is_small_and_later_ones_follow_the_speed() -> None:
    budget = SliceBudget()
    assert budget.num_tokens(ONE, contended=False) == budget.min_tokens
    assert measured(1000).num_tokens(ONE, contended=False) == 200
    assert measured(100).num_tokens(ONE, contended=False) == budget.efficient_tokens
    assert measured(1_000_000).num_tokens(ONE, contended=False) == budget.max_tokens


def test_while_others_work_a_slice_waits_for_its_share() -> None:
    budget = measured(1000)
    assert budget.num_tokens(ONE, contended=True) == 0
    budget.others_worked(0.06)
    assert budget.num_tokens(ONE, contended=True) == 20, "a third of what the others had"
    budget.others_worked(10.0)
    assert budget.num_tokens(ONE, contended=True) == 50, "and no more than a slice may last"


def test_what_took_longer_than_expected_is_paid_back() -> None:
    budget = measured(1000)
    budget.others_worked(10.0)
    budget.record(ONE, num_tokens=50, seconds=0.5, contended=True)
    budget.others_worked(1.0)
    assert budget.num_tokens(ONE, contended=True) == 0
    budget.others_worked(1.0)
    assert budget.num_tokens(ONE, contended=True) > 0


@given(
    st.floats(1, 1e6),
    st.lists(st.tuples(st.floats(0.001, 0.3), st.floats(0.5, 20.0)), min_size=20, max_size=60),
)
def test_others_keep_their_share_whatever_slices_take(rate: float, rounds: list[tuple[float, float]]) -> None:
    budget, others_s, own_s, longest_s = measured(rate), 0.0, 0.0, 0.0
    for step_s, slower in rounds:
        budget.others_worked(step_s)
        others_s += step_s
        num_tokens = budget.num_tokens(ONE, contended=True)
        if num_tokens:
            seconds = num_tokens / rate * slower
            own_s += seconds
            longest_s = max(longest_s, seconds)
            budget.record(ONE, num_tokens=num_tokens, seconds=seconds, contended=True)
    # One slice, the last one, may not be paid for yet.
    assert own_s - longest_s <= others_s * budget.share / (1 - budget.share) + budget.contended_s + 1e-6


@pytest.mark.parametrize("rate", [10.0, 100.0])
def test_on_a_slow_machine_a_slice_comes_all_the_same(rate: float) -> None:
    budget = measured(rate)
    budget.others_worked(1.0)
    assert budget.num_tokens(ONE, contended=True) == budget.min_tokens
