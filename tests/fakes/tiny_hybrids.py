"""Model folders whose layers cannot be cut by position, of random weights, with a template that thinks.

They have the tokenizer of `tiny_folder`. The template does what those of today's models do: it opens the thinking, it
leaves the thinking of turns that are over out, and it refuses a conversation without a user.
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
_THINKING = ("<think>", "</think>")
VOCAB = _TEXT_VOCAB + len(_THINKING)
_COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": 65536,
    "torch_dtype": "float32",
    "bos_token_id": _TEXT_VOCAB - 3,
    "eos_token_id": _TEXT_VOCAB - 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**_COMMON, "rms_norm_eps": 1e-5, "tie_word_embeddings": False},
    "gemma3_text": {
        **_COMMON,
        "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 16,
        "sliding_window": 96,
        "sliding_window_pattern": 2,
    },
    "qwen3_next": {
        **_COMMON,
        "rms_norm_eps": 1e-6,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        # The library's kernel for these takes keys in steps of 32.
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 32,
        "mlp_only_layers": [],
        "moe_intermediate_size": 32,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
        "full_attention_interval": 2,
    },
}

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


def write_tiny_hybrid(folder: Path, family: str, *, seed: int = 0) -> Path:
    """Write a model of this family and return its folder."""
    write_tiny_model(folder, vocab=_TEXT_VOCAB)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(marker) for marker in _THINKING])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"model_type": family, **FAMILIES[family]}
    module = importlib.import_module(f"mlx_lm.models.{family}")
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs.from_dict(config))
    # Large enough that answers vary with what was said.
    weights = tree_flatten(tree_map(lambda a: a * 2.0 if a.ndim > 1 else a, model.parameters()))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    mx.save_safetensors(str(folder / "model.safetensors"), dict(weights), metadata={"format": "mlx"})
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["chat_template"] = THINKING_TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
