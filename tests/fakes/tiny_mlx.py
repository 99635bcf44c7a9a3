"""Tiny random-weight models of every kind of cache layer, built in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models import deepseek_v2, deepseek_v3, gemma3_text, gpt_oss, llama, mamba2, qwen3, qwen3_next

VOCAB = 256


def _llama() -> Any:
    return llama.Model(
        llama.ModelArgs(
            model_type="llama", hidden_size=128, num_hidden_layers=3, intermediate_size=96, num_attention_heads=4,
            num_key_value_heads=2, rms_norm_eps=1e-5, vocab_size=VOCAB,
        )
    )  # fmt: skip


def _qwen3() -> Any:
    return qwen3.Model(
        qwen3.ModelArgs(
            model_type="qwen3", hidden_size=64, num_hidden_layers=3, intermediate_size=96, num_attention_heads=4,
            rms_norm_eps=1e-5, vocab_size=VOCAB, num_key_value_heads=2, max_position_embeddings=65536,
            rope_theta=10000.0, head_dim=16, tie_word_embeddings=True,
        )
    )  # fmt: skip


def _gemma3() -> Any:
    return gemma3_text.Model(
        gemma3_text.ModelArgs(
            model_type="gemma3_text", hidden_size=64, num_hidden_layers=4, intermediate_size=96,
            num_attention_heads=4, head_dim=16, rms_norm_eps=1e-6, vocab_size=VOCAB, num_key_value_heads=2,
            query_pre_attn_scalar=16, sliding_window=24, sliding_window_pattern=2,
        )
    )  # fmt: skip


def _deepseek_v2() -> Any:
    return deepseek_v2.Model(
        deepseek_v2.ModelArgs(
            model_type="deepseek_v2", vocab_size=VOCAB, hidden_size=64, intermediate_size=96,
            moe_intermediate_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
            n_shared_experts=1, n_routed_experts=4, routed_scaling_factor=1.0, kv_lora_rank=32, q_lora_rank=None,
            qk_rope_head_dim=8, v_head_dim=16, qk_nope_head_dim=16, topk_method="greedy", n_group=1, topk_group=1,
            num_experts_per_tok=2, moe_layer_freq=1, first_k_dense_replace=1, max_position_embeddings=65536,
            rope_scaling={"type": "yarn", "factor": 1.0, "original_max_position_embeddings": 4096, "mscale": 1.0,
                          "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1},
        )
    )  # fmt: skip


def _deepseek_v3() -> Any:
    return deepseek_v3.Model(
        deepseek_v3.ModelArgs(
            model_type="deepseek_v3", vocab_size=VOCAB, hidden_size=64, intermediate_size=96,
            moe_intermediate_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
            n_shared_experts=1, n_routed_experts=4, routed_scaling_factor=1.0, kv_lora_rank=32, q_lora_rank=24,
            qk_rope_head_dim=8, v_head_dim=16, qk_nope_head_dim=16, n_group=1, topk_group=1, num_experts_per_tok=2,
            moe_layer_freq=1, first_k_dense_replace=1, max_position_embeddings=65536, rope_scaling=None,
        )
    )  # fmt: skip


def _mamba2() -> Any:
    return mamba2.Model(
        mamba2.ModelArgs(
            model_type="mamba2", num_heads=4, head_dim=16, vocab_size=VOCAB, hidden_size=32, intermediate_size=64,
            state_size=16, num_hidden_layers=3, layer_norm_epsilon=1e-5, conv_kernel=4, n_groups=1, use_bias=False,
            use_conv_bias=True, tie_word_embeddings=True, time_step_limit=(0.0, float("inf")), time_step_rank="auto",
        )
    )  # fmt: skip


def _gpt_oss() -> Any:
    return gpt_oss.Model(
        gpt_oss.ModelArgs(
            model_type="gpt_oss", num_hidden_layers=4, num_local_experts=4, num_experts_per_tok=2, vocab_size=VOCAB,
            rms_norm_eps=1e-5, hidden_size=64, intermediate_size=64, head_dim=16, num_attention_heads=4,
            num_key_value_heads=2, sliding_window=24, rope_theta=10000,
        )
    )  # fmt: skip


def _qwen3_next() -> Any:
    return qwen3_next.Model(
        qwen3_next.ModelArgs(
            model_type="qwen3_next", hidden_size=64, num_hidden_layers=4, intermediate_size=96, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, vocab_size=VOCAB, rms_norm_eps=1e-6, linear_num_value_heads=4,
            linear_num_key_heads=2, linear_key_head_dim=32, linear_value_head_dim=32, linear_conv_kernel_dim=4,
            num_experts=4, num_experts_per_tok=2, decoder_sparse_step=1, shared_expert_intermediate_size=32,
            mlp_only_layers=[], moe_intermediate_size=32, rope_theta=10000.0, partial_rotary_factor=0.5,
            max_position_embeddings=65536, norm_topk_prob=True, full_attention_interval=2,
        )
    )  # fmt: skip


BUILDERS: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "qwen3": _qwen3,
    "gemma3_text": _gemma3,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _deepseek_v3,
    "mamba2": _mamba2,
    "gpt_oss": _gpt_oss,
    "qwen3_next": _qwen3_next,
}


def build(family: str, *, seed: int = 0) -> Any:
    """Return a model with weights large enough that its answers vary."""
    mx.random.seed(seed)
    model = BUILDERS[family]()
    model.update(tree_map(lambda a: a * 3.0 if a.ndim > 1 else a, model.parameters()))
    mx.eval(model.parameters())
    return model
