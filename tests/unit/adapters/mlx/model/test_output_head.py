"""Only the last position's logits are computed where only they are asked for, whichever way a model is built."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from semanticd.adapters.mlx.model.output_head import OutputHead
from tests.fakes.tiny_mlx import BUILDERS, VOCAB

TOKENS = mx.array([[5, 9, 2, 7, 11, 3], [8, 1, 4, 6, 12, 10]])


@pytest.fixture(params=sorted(BUILDERS))
def model(request: pytest.FixtureRequest) -> Any:
    built = BUILDERS[request.param]()
    mx.eval(built.parameters())
    return built


def test_inside_a_call_returns_what_it_returned_for_the_last_position(model: Any) -> None:
    every = model(TOKENS)
    with OutputHead(model).last_position_only():
        last = model(TOKENS)
    assert (every.shape, last.shape) == ((2, 6, VOCAB), (2, 1, VOCAB))
    assert float(mx.abs(last - every[:, -1:]).max().item()) < 1e-5


def test_afterwards_all_positions_have_logits_again_even_when_a_call_broke(model: Any) -> None:
    names = [name for name, _ in model.named_modules()]
    head = OutputHead(model)
    with pytest.raises(ZeroDivisionError), head.last_position_only():
        raise ZeroDivisionError
    assert model(TOKENS).shape == (2, 6, VOCAB)
    assert [name for name, _ in model.named_modules()] == names
