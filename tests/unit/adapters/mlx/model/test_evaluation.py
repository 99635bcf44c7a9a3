"""A chunk is evaluated a part at a time, and left between two parts."""

from __future__ import annotations

import mlx.core as mx
import pytest

from semanticd.adapters.mlx.model import latent_attention
from semanticd.adapters.mlx.model.evaluation import NUM_PARTS, evaluated_in_parts
from semanticd.adapters.mlx.model.kv_codec import slotted
from semanticd.adapters.mlx.model.runner import MlxModelRunner
from semanticd.domain.ids import ModelFingerprint, SequenceId
from tests.fakes.mlx_rig import prompt_of
from tests.fakes.tiny_mlx import build


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


@pytest.mark.parametrize("family", ["llama", "qwen3", "deepseek_v2"])
def test_a_chunk_is_left_while_the_model_is_called(family: str) -> None:
    """Our own functions compute during the call: behind the layer where it is left, no layer is computed."""
    model = build(family)
    latent_attention.install(model)
    runner = MlxModelRunner(model, fingerprint=ModelFingerprint("00" * 32))
    uid, prompt = SequenceId(1), prompt_of(24, 3)
    runner.open(uid, prefix=(), state=None, capacity_tokens=len(prompt))
    answers = iter([False, True])
    assert not runner.prefill(uid, prompt, is_unwanted=lambda: next(answers))
    leaves = list(slotted(runner._prefilling[uid].prompt_cache))  # noqa: SLF001 (what is in it is the point)
    assert [sum(leaf.lengths) for leaf in leaves] == [len(prompt)] + [0] * (len(leaves) - 1)
    assert all(leaf.before_write is None for leaf in leaves)
    # Another chunk is not left for the same reason.
    runner.close(uid)
    runner.open(uid, prefix=(), state=None, capacity_tokens=len(prompt))
    assert runner.prefill(uid, prompt)
