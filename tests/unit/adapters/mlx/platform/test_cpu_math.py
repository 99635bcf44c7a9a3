"""The CPU's own attention, positions and gated activations are the library's within float32 rounding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx_lm.models import activations, llama, switch_layers
from mlx_lm.models.cache import make_prompt_cache

from semanticd.adapters.mlx.platform import cpu_math
from tests.fakes.tiny_mlx import BUILDERS

library = mx.fast.scaled_dot_product_attention
library_rope = mx.fast.rope
library_gelu_approx = nn.gelu_approx
SCALE = 0.25
ROUNDING = 2e-6


@pytest.fixture(autouse=True)
def seeded() -> None:
    mx.random.seed(7)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A tiny model; the library's functions are back in their places afterwards."""
    built = BUILDERS[request.param]()
    mx.eval(built.parameters())
    yield built
    cpu_math.uninstall(built)


def tensors(
    *, batch: int = 2, heads: int = 6, kv_heads: int = 2, length: int, positions: int
) -> tuple[mx.array, mx.array, mx.array]:
    return (
        mx.random.normal((batch, heads, length, 16)),
        mx.random.normal((batch, kv_heads, positions, 16)),
        mx.random.normal((batch, kv_heads, positions, 8)),
    )


def furthest(a: mx.array, b: mx.array) -> float:
    return float(mx.abs(a - b).max().item())


@pytest.mark.parametrize(("length", "positions"), [(2, 2), (5, 40), (70, 70), (130, 300)])
@pytest.mark.parametrize("kind", ["none", "causal", "bool", "bool per sequence", "numbers", "window"])
def test_attention_is_the_librarys(kind: str, length: int, positions: int) -> None:
    queries, keys, values = tensors(length=length, positions=positions)
    rows, columns = mx.arange(positions - length, positions)[:, None], mx.arange(positions)[None]
    second = ((rows >= columns) & (columns >= 1)) | (columns == rows)
    mask: Any = {
        "none": None,
        "causal": "causal",
        "bool": rows >= columns,
        "bool per sequence": mx.stack([rows >= columns, second])[:, None],
        "numbers": mx.where(rows >= columns, 0.0, -1e9),
        "window": (rows >= columns) & (rows < columns + 7),
    }[kind]
    expected = library(queries, keys, values, scale=SCALE, mask=mask)
    assert furthest(cpu_math.attention(queries, keys, values, scale=SCALE, mask=mask), expected) < ROUNDING


def test_long_queries_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_math, "SCORES_BYTES", 1 << 16)
    queries, keys, values = tensors(length=100, positions=150)
    seen = mx.arange(50, 150)[:, None] >= mx.arange(150)[None]
    expected = library(queries, keys, values, scale=SCALE, mask=seen)
    assert (
        furthest(cpu_math.attention(queries, keys, values, scale=SCALE, mask="causal"), expected) < ROUNDING
    )
    assert furthest(cpu_math.attention(queries, keys, values, scale=SCALE, mask=seen), expected) < ROUNDING


def test_a_long_chunk_takes_little_memory_beside_its_keys_and_values() -> None:
    queries, keys, values = (mx.random.normal((1, heads, 2048, 32)) for heads in (4, 2, 2))
    mx.eval(queries, keys, values)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(cpu_math.attention(queries, keys, values, scale=SCALE, mask="causal"))
    # All scores together are 64 MiB; queries, results and parts of them are 1 MiB each.
    assert mx.get_peak_memory() - before < 16 << 20


def test_keys_may_be_a_part_of_a_larger_buffer() -> None:
    queries, keys, values = tensors(length=9, positions=64)
    expected = library(queries, keys[:, :, :40], values[:, :, :40], scale=SCALE, mask="causal")
    found = cpu_math.attention(queries, keys[:, :, :40], values[:, :, :40], scale=SCALE, mask="causal")
    assert furthest(found, expected) < ROUNDING


def test_scores_far_apart_and_rows_without_any_position_stay_finite() -> None:
    queries, keys, values = tensors(length=8, positions=8)
    large = cpu_math.attention(queries * 1e4, keys, values, scale=SCALE, mask="causal")
    assert furthest(large, library(queries * 1e4, keys, values, scale=SCALE, mask="causal")) < 1e-4
    nothing = cpu_math.attention(queries, keys, values, scale=SCALE, mask=mx.zeros((8, 8), dtype=mx.bool_))
    assert bool(mx.isfinite(nothing).all().item())


def test_what_it_does_not_know_is_the_librarys() -> None:
    queries, keys, values = tensors(length=4, positions=9)
    sinks = mx.random.normal((6,))
    per_head = mx.random.normal((2, 6, 4, 9))
    for options in ({"sinks": sinks}, {"mask": per_head}, {"mask": per_head[0]}):
        expected = library(queries, keys, values, scale=SCALE, **options)
        assert furthest(cpu_math.attention(queries, keys, values, scale=SCALE, **options), expected) == 0.0
    halves = [t.astype(mx.float16) for t in (queries, keys, values)]
    assert cpu_math.attention(*halves, scale=SCALE).dtype == mx.float16


@pytest.mark.parametrize("offset", [0, 1130, "one each"])
@pytest.mark.parametrize("dims", [16, 12])
@pytest.mark.parametrize("given", ["base", "frequencies"])
@pytest.mark.parametrize("traditional", [False, True])
def test_positions_turn_features_as_the_librarys_do(
    traditional: bool, given: str, dims: int, offset: int | str
) -> None:
    x = mx.random.normal((2, 3, 9, 16))
    where: Any = mx.array([7, 1130]) if isinstance(offset, str) else offset
    frequencies = (
        {"base": 1e4} if given == "base" else {"base": None, "freqs": mx.random.uniform(1, 50, (dims // 2,))}
    )
    options: Any = {"traditional": traditional, "scale": 0.5, "offset": where, **frequencies}
    for _ in range(2):  # the second time, the angles are known
        assert furthest(cpu_math.rope(x, dims, **options), library_rope(x, dims, **options)) < 2e-4
    single = cpu_math.rope(x[:, 0], dims, **options)
    assert furthest(single, library_rope(x[:, 0], dims, **options)) < 2e-4


def test_angles_of_other_positions_are_not_taken_for_these() -> None:
    x = mx.random.normal((1, 2, 3, 8))
    for offset in [*range(20), *range(20)]:
        options: Any = {"traditional": False, "base": 1e4, "scale": 1.0, "offset": offset}
        assert furthest(cpu_math.rope(x, 8, **options), library_rope(x, 8, **options)) < 1e-5


def test_other_types_turn_as_the_librarys_do() -> None:
    x = mx.random.normal((1, 2, 3, 8)).astype(mx.float16)
    options: Any = {"traditional": False, "base": 1e4, "scale": 1.0, "offset": 4}
    assert cpu_math.rope(x, 8, **options).dtype == mx.float16
    assert furthest(cpu_math.rope(x, 8, **options), library_rope(x, 8, **options)) == 0.0


def test_gated_activations_are_the_librarys_also_far_from_nought() -> None:
    gate = mx.concatenate([mx.random.normal((4, 64)) * 3, mx.array([[-200.0, -20.0, 0.0, 200.0] * 16])])
    x = mx.random.normal(gate.shape)
    assert furthest(cpu_math.swiglu(gate, x), nn.silu(gate) * x) < 1e-5
    assert furthest(cpu_math.gelu_approx(gate), nn.gelu_approx(gate)) < 1e-5
    assert cpu_math.swiglu(gate.astype(mx.float16), x.astype(mx.float16)).dtype == mx.float16


@pytest.mark.parametrize("shape", ["broadcast", "column", "turned", "strided", "empty"])
def test_a_gate_is_read_only(shape: str) -> None:
    gate = {
        "broadcast": mx.broadcast_to(mx.array(1.5), (4, 6)),
        "column": mx.broadcast_to(mx.random.normal((4, 1)), (4, 6)),
        "turned": mx.random.normal((6, 4)).T,
        "strided": mx.random.normal((4, 12))[:, ::2],
        "empty": mx.zeros((0, 6)),
    }[shape]
    before = mx.array(gate.tolist()).reshape(gate.shape)
    x = mx.ones(gate.shape)
    assert mx.allclose(cpu_math.swiglu(gate, x), nn.silu(before), atol=1e-6)
    assert mx.allclose(cpu_math.gelu_approx(gate), library_gelu_approx(before), atol=1e-6)
    assert mx.array_equal(gate, before)


def logits_of(model: Any, tokens: mx.array) -> mx.array:
    """A chunk, and a second one behind it."""
    cache = make_prompt_cache(model)
    first = model(tokens[:, :50], cache=cache)
    both = mx.concatenate([first, model(tokens[:, 50:], cache=cache)], axis=1).astype(mx.float32)
    mx.eval(both)
    return both


@pytest.mark.parametrize("model", ["llama", "qwen3", "gemma3_text"], indirect=True)
def test_a_models_logits_are_as_exact_as_the_librarys(model: Any) -> None:
    tokens = mx.random.randint(0, 256, (2, 90))
    librarys = logits_of(model, tokens)
    cpu_math.install(model)
    assert mx.fast.scaled_dot_product_attention is cpu_math.attention
    ours = logits_of(model, tokens)
    cpu_math.uninstall(model)
    with mx.stream(mx.cpu):
        model.set_dtype(mx.float64)
        exact = logits_of(model, tokens)
    assert furthest(ours, exact) < 2 * furthest(librarys, exact)


@pytest.mark.parametrize("model", ["llama", "qwen3", "deepseek_v2", "gpt_oss"], indirect=True)
def test_a_models_logits_hardly_change(model: Any) -> None:
    tokens = mx.random.randint(0, 256, (2, 90))
    expected = logits_of(model, tokens)
    cpu_math.install(model)
    assert furthest(logits_of(model, tokens), expected) < 2e-5


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_the_librarys_functions_can_be_given_back(model: Any) -> None:
    before = activations.swiglu, switch_layers.swiglu, nn.gelu_approx
    cpu_math.install(model)
    cpu_math.install(model)
    cpu_math.uninstall(model)
    assert mx.fast.scaled_dot_product_attention is library
    assert mx.fast.rope is library_rope
    assert (activations.swiglu, switch_layers.swiglu, nn.gelu_approx) == before


def test_layers_with_equal_frequencies_share_them_and_compute_their_turns_once() -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192,
               "low_freq_factor": 1.0, "high_freq_factor": 4.0}  # fmt: skip
    model = llama.Model(
        llama.ModelArgs(
            model_type="llama", hidden_size=32, num_hidden_layers=12, intermediate_size=32, num_attention_heads=2,
            rms_norm_eps=1e-5, vocab_size=64, rope_scaling=scaling,
        )
    )  # fmt: skip
    expected = logits_of(model, mx.arange(60)[None])
    cpu_math.install(model)
    found = logits_of(model, mx.arange(60)[None])
    cpu_math.uninstall(model)
    assert len({id(layer.self_attn.rope["_freqs"]) for layer in model.layers}) == 1
    assert furthest(found, expected) < 2e-5
