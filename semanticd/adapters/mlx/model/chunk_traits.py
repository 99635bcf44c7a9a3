"""Facts of a model's configuration that decide the length of its prefill chunks; see `domain/chunk_policy.py`.

Sources: MLX's `scaled_dot_product_attention` has Metal kernels for more than 8 queries with heads of 64, 80 and 128
numbers whose keys and values are as long; others, and the library on the CPU, write the scores out. mlx-lm's expert
layers sort tokens by expert for the matrix kernels, which the CPU back-end does not have: it computes row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semanticd.domain.chunk_policy import ChunkTraits, experts_floor

_FUSED_HEAD_DIMS = frozenset((64, 80, 128))
_NUM_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
_EXPERTS_PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_top_k",
    "moe_k",
)


def chunk_traits(config: Mapping[str, Any], *, device_is_cpu: bool, bounds_scores: bool) -> ChunkTraits:
    """Return a model's traits from its `config.json`.

    `bounds_scores`: its attention works in parts of its own (latents, `cpu_math`), however long a chunk is.
    """
    inner = config.get("text_config")
    text = {**config, **inner} if isinstance(inner, Mapping) else config
    floor = experts_floor(_first(text, _NUM_EXPERTS), _first(text, _EXPERTS_PER_TOKEN))
    return ChunkTraits(
        min_tokens=0 if device_is_cpu else floor,
        score_bytes=0 if bounds_scores else _score_bytes(text, device_is_cpu=device_is_cpu),
    )


def _score_bytes(config: Mapping[str, Any], *, device_is_cpu: bool) -> int:
    heads = _number(config.get("num_attention_heads"))
    head_dim = _number(config.get("head_dim"))
    if not head_dim and heads:
        nope, rope = _number(config.get("qk_nope_head_dim")), _number(config.get("qk_rope_head_dim"))
        head_dim = nope + rope or _number(config.get("hidden_size")) // heads
    if not device_is_cpu and head_dim in _FUSED_HEAD_DIMS:
        return 0
    wide = device_is_cpu or "float32" in (config.get("torch_dtype"), config.get("dtype"))
    return heads * (4 if wide else 2)


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """Return the first of these numbers that there is; 0 without one."""
    return next((number for name in names if (number := _number(config.get(name)))), 0)


def _number(value: Any) -> int:
    """Return a number of a configuration, the largest if it has one per layer; 0 if it is not a number."""
    if isinstance(value, list):
        return max((_number(one) for one in value), default=0)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
