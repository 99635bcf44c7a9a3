"""What configurations of known models say of the length of chunks."""

from __future__ import annotations

from typing import Any

import pytest

from semanticd.adapters.mlx.model.chunk_traits import chunk_traits
from semanticd.domain.chunk_policy import ChunkTraits

QWEN3_NEXT = {
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "num_attention_heads": 16,
    "head_dim": 256,
    "hidden_size": 2048,
}
LITE = {
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
    "num_attention_heads": 16,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "hidden_size": 2048,
}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (QWEN3_NEXT, ChunkTraits(205, 16 * 2)),
        ({"text_config": QWEN3_NEXT, "num_experts": None}, ChunkTraits(205, 16 * 2)),
        (LITE, ChunkTraits(43, 16 * 2)),
        ({"num_local_experts": 8, "num_experts_per_tok": 2, "num_attention_heads": 32, "hidden_size": 4096},
         ChunkTraits(16, 0)),
        ({"num_experts": [16, 64], "moe_topk": [1, 8], "num_attention_heads": 8, "head_dim": 80},
         ChunkTraits(32, 0)),
        ({"num_attention_heads": 8, "head_dim": 256, "torch_dtype": "float32"}, ChunkTraits(0, 8 * 4)),
        ({"hidden_size": 64}, ChunkTraits()),
        ({}, ChunkTraits()),
    ],
)  # fmt: skip
def test_on_a_gpu_experts_and_heads_without_a_fused_kernel_count(
    config: dict[str, Any], expected: ChunkTraits
) -> None:
    assert chunk_traits(config, device_is_cpu=False, bounds_scores=False) == expected


def test_attention_that_works_in_parts_bounds_nothing() -> None:
    assert chunk_traits(LITE, device_is_cpu=False, bounds_scores=True) == ChunkTraits(43, 0)


def test_on_the_cpu_experts_do_not_mind_and_the_library_writes_all_scores() -> None:
    assert chunk_traits(QWEN3_NEXT, device_is_cpu=True, bounds_scores=False) == ChunkTraits(0, 16 * 4)
    assert chunk_traits(QWEN3_NEXT, device_is_cpu=True, bounds_scores=True) == ChunkTraits()
