"""A chunk is evaluated a part at a time, and left between two parts."""

from __future__ import annotations

import mlx.core as mx
import pytest

from semanticd.adapters.mlx.model.evaluation import NUM_PARTS, evaluated_in_parts


@pytest.mark.parametrize("num_layers", [0, 1, 15, 16, 17, 30, 64])
def test_all_layers_are_evaluated_in_a_few_parts(num_layers: int) -> None:
    states = [(mx.ones(4) * layer, mx.ones(2)) for layer in range(num_layers)]
    asked: list[int] = []
    assert evaluated_in_parts(states, is_unwanted=lambda: bool(asked.append(1)))
    assert len(asked) <= min(num_layers, NUM_PARTS)
    assert [float(keys.sum().item()) for keys, _ in states] == [4.0 * layer for layer in range(num_layers)]


@pytest.mark.parametrize("num_wanted", [0, 1, 9])
def test_what_is_unwanted_is_left_before_the_next_part(num_wanted: int) -> None:
    states = [mx.ones(4) * layer for layer in range(30)]
    answers = iter([False] * num_wanted + [True])
    assert not evaluated_in_parts(states, is_unwanted=lambda: next(answers))
    assert next(answers, None) is None


def test_nothing_of_what_is_left_is_computed() -> None:
    at_first = mx.get_active_memory()
    states = [mx.zeros((1 << 20,)) + layer for layer in range(16)]
    answers = iter([False, False, True])
    evaluated_in_parts(states, is_unwanted=lambda: next(answers))
    assert mx.get_active_memory() - at_first < 3 * (4 << 20)
