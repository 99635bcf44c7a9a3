"""Model folders of today's families with random weights: each kind of layer that they have, in the smallest shape.

They have the tokenizer of `tiny_folder` with markers for thinking and calls. The template does what those of these
models do: it opens the thinking unless that is off, writes calls as JSON, and leaves earlier thoughts out.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from tokenizers import AddedToken, Tokenizer

from tests.fakes.tiny_folder import write_tiny_model

_TEXT_VOCAB = 512
_MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
VOCAB = _TEXT_VOCAB + len(_MARKERS)
WINDOW = 48
"""Positions that a layer with a sliding window sees."""

_COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": VOCAB,
    "max_position_embeddings": 65536,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": _TEXT_VOCAB - 3,
    "eos_token_id": _TEXT_VOCAB - 1,
}
_EXPERTS: dict[str, Any] = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
}
_DELTA_NET: dict[str, Any] = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    # The library's kernel takes keys in steps of 32.
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 2,
}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _COMMON,
    "gemma3_text": {
        **_COMMON,
        "query_pre_attn_scalar": 16,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 2,
    },
    "gpt_oss": {
        **_COMMON,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": WINDOW,
        "rope_theta": 10000,
    },
    "qwen3_next": {
        **_COMMON,
        **_DELTA_NET,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 32,
        "mlp_only_layers": [],
        "moe_intermediate_size": 32,
        "partial_rotary_factor": 0.5,
        "norm_topk_prob": True,
    },
    "qwen3_5": {
        "text_config": {**_COMMON, **_DELTA_NET, "model_type": "qwen3_5_text"},
        "eos_token_id": _TEXT_VOCAB - 1,
    },
    "kimi_linear": {
        **_COMMON,
        **{key: value for key, value in _LATENT.items() if key != "q_lora_rank"},
        "linear_attn_config": {
            "kda_layers": [1, 3],
            "full_attn_layers": [2, 4],
            "num_heads": 4,
            "head_dim": 32,
            "short_conv_kernel_size": 4,
        },
        "model_max_length": 65536,
        "num_experts": 4,
        "num_experts_per_token": 2,
        "num_shared_experts": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    },
    "nemotron_h": {
        **_COMMON,
        "attention_bias": False,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "mamba_proj_bias": False,
        "ssm_state_size": 32,
        "conv_kernel": 4,
        "n_groups": 2,
        "mlp_bias": False,
        "layer_norm_epsilon": 1e-5,
        "use_bias": False,
        "use_conv_bias": True,
        "hybrid_override_pattern": ["M", "*", "M", "-"],
    },
    "mamba2": {
        "num_heads": 4,
        "head_dim": 16,
        "hidden_size": 32,
        "intermediate_size": 64,
        "state_size": 16,
        "num_hidden_layers": 3,
        "layer_norm_epsilon": 1e-5,
        "conv_kernel": 4,
        "n_groups": 1,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": True,
        "time_step_limit": [0.0, 1e9],
        "time_step_rank": "auto",
        "vocab_size": VOCAB,
        "torch_dtype": "float32",
        "bos_token_id": _TEXT_VOCAB - 3,
        "eos_token_id": _TEXT_VOCAB - 1,
    },
    "deepseek_v2": {
        **_COMMON,
        **_EXPERTS,
        **_LATENT,
        "topk_method": "greedy",
        "scoring_func": "softmax",
        "first_k_dense_replace": 1,
        # As in Lite's own config, for a context that is 16 times the original one.
        "rope_scaling": {
            "type": "yarn",
            "factor": 16,
            "original_max_position_embeddings": 4096,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
            "beta_fast": 32,
            "beta_slow": 1,
        },
    },
    "glm4_moe_lite": {**_COMMON, **_EXPERTS, **_LATENT, "first_k_dense_replace": 1},
    "deepseek_v32": {
        **_COMMON,
        **_EXPERTS,
        **_LATENT,
        "first_k_dense_replace": 1,
        "index_head_dim": 16,
        "index_n_heads": 2,
        "index_topk": 32,
    },
}

TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\\n\\n' }}{%- endif %}
{{- '<tools>' }}{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0]['role'] == 'system' %}
{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- '<|im_start|>assistant\\n' + (message['content'] or '') }}
{%- for call in message['tool_calls'] or [] %}
{{- ('\\n' if message['content'] or not loop.first else '') + '<tool_call>\\n{"name": "' }}
{{- call['function']['name'] + '", "arguments": ' }}
{{- (call['function']['arguments'] | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message['role'] == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message['content'] + '\\n</tool_response><|im_end|>\\n' }}
{%- elif not (loop.first and message['role'] == 'system') %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking %}{{- '<think>\\n' }}{%- endif %}
{%- endif %}
"""

THINKING_TEMPLATE = """\
{%- set found = namespace(user=-1) %}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{%- set found.user = loop.index0 %}{%- endif %}
{%- endfor %}
{%- if found.user < 0 %}{{- raise_exception('No user query found in messages.') }}{%- endif %}
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\\n\\n' }}{%- endif %}
{{- '<tools>' }}{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- '\\n</tools>\\nCall: <tool_call>{"name": …, "arguments": …}</tool_call><|im_end|>\\n' }}
{%- elif messages[0]['role'] == 'system' %}
{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}
{%- if message.reasoning_content and loop.index0 > found.user %}
{{- '<think>\\n' + message.reasoning_content.strip() + '\\n</think>\\n\\n' }}
{%- endif %}
{{- (message['content'] or '').strip() + '<|im_end|>\\n' }}
{%- elif message['role'] == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message['content'] + '\\n</tool_response><|im_end|>\\n' }}
{%- elif not (loop.first and message['role'] == 'system') %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}
{%- else %}{{- '<think>\\n' }}{%- endif %}
{%- endif %}
"""
"""Thinks unless that is off, leaves earlier thoughts out, and refuses a conversation without a user."""


def write_tiny_family(
    folder: Path, family: str, *, seed: int = 0, template: str = TEMPLATE, **config: Any
) -> Path:
    """Write a model of this family, with these values in its `config.json`, and return its folder.

    One that is not in `FAMILIES` has what all have in common, and what `config` says.
    """
    config = {"model_type": family, **FAMILIES.get(family, _COMMON), **config}
    context = config.get("max_position_embeddings", _COMMON["max_position_embeddings"])
    write_tiny_model(folder, vocab=_TEXT_VOCAB, context=context)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(marker) for marker in _MARKERS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    module = importlib.import_module(f"mlx_lm.models.{family}")
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs.from_dict(json.loads(json.dumps(config))))
    # Large enough that answers vary with what was said.
    weights = tree_flatten(tree_map(lambda a: a * 2.0 if a.ndim > 1 else a, model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(weights), metadata={"format": "mlx"})
    return folder
