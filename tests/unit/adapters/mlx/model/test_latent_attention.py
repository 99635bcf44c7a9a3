"""Latent attention answers as the library's does, and its cache holds one latent and one rotary key a layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models import deepseek_v2, deepseek_v3, glm4_moe_lite, kimi_linear
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import KVCache, make_prompt_cache

from semanticd.adapters.mlx.model import latent_attention
from semanticd.adapters.mlx.model.runner import MlxModelRunner
from semanticd.adapters.mlx.platform import cpu_math
from semanticd.application.ports.inference import PrefixPart
from semanticd.domain.generation import SamplingParams
from semanticd.domain.ids import ModelFingerprint, SequenceId
from semanticd.domain.model_cache_spec import StoragePrecision

VOCAB = 128
GREEDY = SamplingParams(temperature=0, logprobs=True, top_logprobs=1)
LITE: dict[str, Any] = {
    "num_attention_heads": 16, "num_key_value_heads": 16, "kv_lora_rank": 512, "q_lora_rank": None,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128, "max_position_embeddings": 163_840,
    "rope_theta": 10_000.0,
    "rope_scaling": {
        "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "mscale": 0.707,
        "mscale_all_dim": 0.707, "beta_fast": 32, "beta_slow": 1,
    },
}  # fmt: skip
"""The attention of DeepSeek-Coder-V2-Lite, as its config gives it."""
SMALL: dict[str, Any] = {
    **LITE, "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 64, "qk_nope_head_dim": 64,
}  # fmt: skip
"""The same in a size that MLX's own BLAS can multiply; 143 queries are the most that are absorbed."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    mx.random.seed(11)


def build(
    shape: dict[str, Any] = SMALL,
    *,
    layers: int = 2,
    bits: int | None = None,
    dense: bool = False,
    dtype: mx.Dtype = mx.float32,
    **more: Any,
) -> Any:
    """Return a model with this attention and little else."""
    experts = {} if dense else {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2}
    args = deepseek_v2.ModelArgs(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=128,
        moe_intermediate_size=64,
        num_hidden_layers=layers,
        topk_method="greedy",
        first_k_dense_replace=1,
        **{**shape, **experts, **more},
    )
    model = deepseek_v2.Model(args)
    model.update(tree_map(lambda a: a * 2.0 if a.ndim > 1 else a, model.parameters()))
    model.set_dtype(dtype)
    if bits is not None:
        nn.quantize(model, group_size=64, bits=bits)
    mx.eval(model.parameters())
    return model


def with_latents(model: Any) -> Any:
    """Return a copy with our attention."""
    ours = copy.deepcopy(model)
    assert latent_attention.install(ours)
    return ours


def logits_of(model: Any, tokens: mx.array, chunks: Sequence[int]) -> mx.array:
    """Compute the tokens in chunks of these lengths."""
    cache, start, parts = make_prompt_cache(model), 0, []
    for length in chunks:
        parts.append(model(tokens[:, start : start + length], cache=cache))
        mx.eval(parts[-1])
        start += length
    assert start == tokens.shape[1]
    return mx.concatenate(parts, axis=1).astype(mx.float32)


def furthest(found: mx.array, expected: mx.array) -> float:
    """Return the largest difference, as a share of the largest value."""
    return float((mx.abs(found - expected).max() / mx.abs(expected).max()).item())


@pytest.mark.parametrize("bits", [None, 8, 4], ids=["float", "8 bits", "4 bits"])
@pytest.mark.parametrize("q_lora_rank", [None, 64], ids=["no query rank", "query rank"])
@pytest.mark.parametrize("chunks", [[200], [150, 3, 46, 1], [40] * 5], ids=["whole", "mixed", "chunked"])
def test_logits_are_the_librarys_within_rounding(
    bits: int | None, q_lora_rank: int | None, chunks: list[int]
) -> None:
    model = build(bits=bits, q_lora_rank=q_lora_rank)
    tokens = mx.random.randint(0, VOCAB, (2, 200))
    assert furthest(logits_of(with_latents(model), tokens, chunks), logits_of(model, tokens, chunks)) < 2e-5


@pytest.mark.parametrize("bits", [None, 8, 4], ids=["float", "8 bits", "4 bits"])
def test_logits_of_lites_shape_are_the_librarys_within_rounding(bits: int | None) -> None:
    model = build(LITE, layers=1, bits=bits)
    tokens = mx.random.randint(0, VOCAB, (1, 34))
    chunks = [20, 12, 1, 1]
    assert furthest(logits_of(with_latents(model), tokens, chunks), logits_of(model, tokens, chunks)) < 2e-5


def test_a_prompt_in_one_piece_is_computed_exactly_as_the_library_does() -> None:
    model = build()
    tokens = mx.random.randint(0, VOCAB, (1, 200))
    assert furthest(logits_of(with_latents(model), tokens, [200]), logits_of(model, tokens, [200])) < 1e-6


def test_in_bfloat16_it_is_as_close_to_the_truth_as_the_library() -> None:
    model = build(dense=True, dtype=mx.bfloat16)
    exact = copy.deepcopy(model)
    exact.set_dtype(mx.float32)
    tokens = mx.random.randint(0, VOCAB, (1, 64))
    chunks = [50, 10, 1, 1, 1, 1]
    truth = logits_of(exact, tokens, chunks)
    librarys = furthest(logits_of(model, tokens, chunks), truth)
    assert furthest(logits_of(with_latents(model), tokens, chunks), truth) < 1.5 * librarys


@pytest.mark.parametrize("length", [1, 3, 20, 200])
@pytest.mark.parametrize("form", ["causal", "booleans", "padded"])
def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch, length: int, form: str) -> None:
    attention = with_latents(build(layers=1)).layers[0].self_attn
    positions = 220
    history = (
        mx.random.normal((2, 1, positions - length, 128)),
        mx.random.normal((2, 1, positions - length, 64)),
    )
    x = mx.random.normal((2, length, 128))
    seen = mx.arange(positions) <= mx.arange(positions - length, positions)[:, None]
    mask: Any = {
        "causal": "causal",
        "booleans": seen,
        "padded": seen & (mx.arange(positions) >= mx.array([0, 9]).reshape(2, 1, 1, 1)),
    }[form]

    def attend() -> mx.array:
        cache = KVCache()
        cache.update_and_fetch(*history)
        return attention(x, mask, cache)

    whole = attend()
    for part in ("PART_BYTES", "CPU_PART_BYTES"):
        monkeypatch.setattr(latent_attention, part, 1 << 18)
    assert furthest(attend(), whole) < 1e-5


FAMILIES: dict[str, tuple[Any, dict[str, Any] | None]] = {
    "DeepseekV3Attention": (deepseek_v3, {"rope_scaling": None, "q_lora_rank": 64}),
    "Glm4MoeLiteAttention": (
        glm4_moe_lite,
        {"model_type": "glm4_moe_lite", "rope_scaling": None, "q_lora_rank": 64},
    ),
    "KimiMLAAttention": (kimi_linear, None),
}


@pytest.mark.parametrize("bits", [None, 8], ids=["float", "8 bits"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_other_families_latent_attention_is_replaced_and_answers_the_same(
    family: str, bits: int | None
) -> None:
    library, more = FAMILIES[family]
    args = _kimi_args() if more is None else library.ModelArgs(**{**SMALL, "hidden_size": 128, **more})
    layer = nn.Module()
    layer.self_attn = getattr(library, family)(args)
    if bits is not None:
        nn.quantize(layer, group_size=64, bits=bits)
    mx.eval(layer.parameters())
    ours = with_latents(layer)
    assert isinstance(ours.self_attn, latent_attention.LatentAttention)
    caches = KVCache(), KVCache()
    for length in (250, 1, 7, 30):
        x = mx.random.normal((2, length, 128))
        mask = create_attention_mask(x, caches[0], return_array=True)
        expected = layer.self_attn(x, mask, caches[0])
        assert furthest(ours.self_attn(x, mask, caches[1]), expected) < 1e-5


def _kimi_args() -> Any:
    return kimi_linear.ModelArgs(
        model_type="kimi_linear", vocab_size=VOCAB, hidden_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, intermediate_size=64, head_dim=32, rope_theta=1e4, rms_norm_eps=1e-5,
        linear_attn_config={"kda_layers": [], "num_heads": 4, "head_dim": 32}, model_max_length=4096, num_experts=0,
        moe_intermediate_size=32, kv_lora_rank=64, qk_nope_head_dim=64, qk_rope_head_dim=16, v_head_dim=32,
    )  # fmt: skip


# Through the batches of the library.


def runner_of(model: Any, precision: StoragePrecision = "exact") -> MlxModelRunner:
    return MlxModelRunner(model, fingerprint=ModelFingerprint("f" * 64), block_tokens=16, precision=precision)


def start(
    runner: MlxModelRunner, number: int, ids: Sequence[int], *, chunk: int, prefix: Sequence[PrefixPart] = ()
) -> None:
    """Prefill in chunks behind a prefix, and join the decode batch."""
    uid = SequenceId(number)
    runner.open(uid, prefix=prefix, state=None, capacity_tokens=len(ids) + 16)
    while runner.num_cached(uid) < len(ids) - 1:
        runner.prefill(uid, ids[runner.num_cached(uid) : -1][:chunk])
    runner.start_decode(
        uid, last_token=ids[-1], context=ids[:-1], num_generated=0, sampling=GREEDY, constraint=None, seed=0
    )


def decoded(
    runner: MlxModelRunner, numbers: Sequence[int], num_tokens: int
) -> dict[int, list[tuple[int, float]]]:
    """Return the next tokens of these sequences with their log-probabilities."""
    told: dict[int, list[tuple[int, float]]] = {number: [] for number in numbers}
    while any(len(tokens) < num_tokens for tokens in told.values()):
        for token in runner.decode():
            told[token.sequence_id].append((token.token_id, float(token.logprob or 0.0)))
    return {number: tokens[:num_tokens] for number, tokens in told.items()}


def prompts(count: int) -> list[list[int]]:
    source = np.random.RandomState(3)
    return [[int(i) for i in source.randint(1, VOCAB, 20 + 37 * number)] for number in range(count)]


def same(found: list[tuple[int, float]], expected: list[tuple[int, float]], tolerance: float) -> bool:
    """Whether the tokens are the same, and their log-probabilities within the tolerance."""
    return [token for token, _ in found] == [token for token, _ in expected] and bool(
        np.allclose([p for _, p in found], [p for _, p in expected], atol=tolerance)
    )


@pytest.mark.parametrize("bits", [None, 8, 4], ids=["float", "8 bits", "4 bits"])
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_ragged_batches_decode_as_the_library_does(rows: int, bits: int | None) -> None:
    model = build(bits=bits)
    answers = []
    for runner in (runner_of(model), runner_of(with_latents(model))):
        for number, ids in enumerate(prompts(rows)):
            start(runner, number, ids, chunk=32)
        answers.append(decoded(runner, range(rows), 6))
    for number in range(rows):
        assert same(answers[1][number], answers[0][number], 1e-3), number


@pytest.mark.parametrize("q_lora_rank", [None, 64])
def test_a_restored_prefix_answers_as_a_cold_one(q_lora_rank: int | None) -> None:
    model = with_latents(build(q_lora_rank=q_lora_rank))
    cpu_math.install(model)
    ids = prompts(4)[3]
    runner = runner_of(model)
    uid = SequenceId(1)
    runner.open(uid, prefix=(), state=None, capacity_tokens=256)
    runner.prefill(uid, ids[:96])
    blocks = [
        PrefixPart(runner.restore(runner.dump(*runner.copy_blocks(uid, [(first, first + 16)]))), 16)
        for first in range(0, 96, 16)
    ]
    runner.close(uid)
    start(runner, 2, ids, chunk=64)
    cold = decoded(runner, [2], 8)[2]
    runner.close(SequenceId(2))
    start(runner, 3, ids, chunk=64, prefix=blocks)
    restored = decoded(runner, [3], 8)[3]
    cpu_math.uninstall(model)
    assert same(restored, cold, 1e-4)


@pytest.mark.parametrize("precision", ["q8", "q6", "q4"])
def test_quantized_storage_costs_no_more_accuracy_than_it_costs_the_library(
    precision: StoragePrecision,
) -> None:
    model = build()
    ids = prompts(4)[3]

    def error(model: Any) -> float:
        """Return the mean distance of what follows a stored prefix from what follows a computed one."""
        exact, stored = runner_of(model), runner_of(model, precision)
        uid, again = SequenceId(1), SequenceId(2)
        scores = []
        for runner in (exact, stored):
            runner.open(uid, prefix=(), state=None, capacity_tokens=256)
            runner.prefill(uid, ids[:96])
        (block,) = stored.copy_blocks(uid, [(0, 96)])
        assert block.num_bytes == stored.spec.stored_bytes(96, begins=True)
        stored.open(again, prefix=(PrefixPart(block, 96),), state=None, capacity_tokens=256)
        for runner, number in ((exact, uid), (stored, again)):
            told = runner.prefill_logprobs(number, ids[96:120], targets=ids[97:121], top=0)
            scores.append(np.array([float(t.logprob or 0.0) for t in told]))
        return float(np.abs(scores[0] - scores[1]).mean())

    assert error(with_latents(model)) < 1.5 * error(model)


# What it costs.


def test_a_token_of_lite_costs_what_the_pages_say() -> None:
    model = with_latents(build(LITE, layers=27, dense=True, dtype=mx.bfloat16))
    sizes = {p: runner_of(model, p).spec for p in ("exact", "q8", "q4")}
    assert sizes["exact"].bytes_per_token == sizes["exact"].running_bytes_per_token == 31_104
    assert (sizes["q8"].bytes_per_token, sizes["q4"].bytes_per_token) == (16_524, 8_748)
    budget = 4 << 30
    # A turn's tokens are held twice while it runs: in its running cache, and as blocks.
    assert budget // (2 * 31_104) > 20_000


def test_blocks_of_the_librarys_layout_are_not_mistaken_for_latents() -> None:
    model = build()
    assert runner_of(model).spec.root != runner_of(with_latents(model)).spec.root


def test_all_layers_share_one_table_of_positions() -> None:
    model = with_latents(build(layers=12))
    assert len({id(layer.self_attn.rope) for layer in model.layers}) == 1


def test_the_librarys_matrices_are_not_kept() -> None:
    before = build(bits=4)
    after = with_latents(before)

    def size(model: Any) -> int:
        return sum(array.nbytes for _, array in tree_flatten(model.parameters()))

    assert size(after) == size(before)
    assert not [module for module in after.modules() if "kv_b_proj" in module]
