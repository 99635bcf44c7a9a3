"""A model folder as `semanticd` loads it, of random weights: two Llama layers, 512 tokens, a context of 65,536.

What it says is nonsense, but greedy nonsense is repeatable, and it goes the whole way: config, safetensors, byte-level
BPE, a ChatML template that knows tools. Rows of 32 values can be quantized, so every storage precision works.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

START, END = "<|im_start|>", "<|im_end|>"
_SPECIAL = ("<|endoftext|>", START, END)
_LAYERS, _HEAD_DIM = 2, 32


@dataclass(frozen=True, slots=True)
class Shape:
    """Its widths, and what several machines would divide: heads, and the width of the MLP."""

    hidden: int = 128
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 128


# Merged from the left, so that ordinary text splits into words, beginnings of words, and bytes.
_WORDS = (
    " the and of to in is that it for was on are as with his they at be this from have or by one had not but what"
    " all were when we there can an your which their said if do will each about how up out them then she many some"
    " so these would other into has more her two like him see time could no make than first been its who now people"
    " my made over did down only way find use may water long little very after words called just where most know"
)

_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages and messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\\n\\n' }}{%- endif %}
{{- 'You may call these tools:\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- '\\n</tools>\\nTo call one, answer with <tool_call>\\n{"name": …, "arguments": …}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages and messages[0]['role'] == 'system' %}
{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message['content'] + '\\n</tool_response><|im_end|>\\n' }}
{%- elif message['role'] == 'assistant' %}
{{- '<|im_start|>assistant\\n' + (message['content'] or '') }}
{%- for call in message['tool_calls'] or [] %}
{{- ('\\n' if message['content'] or not loop.first else '') + '<tool_call>\\n{"name": "' }}
{{- call['function']['name'] + '", "arguments": ' }}
{{- (call['function']['arguments'] | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif not (loop.first and message['role'] == 'system') %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def write_tiny_model(
    folder: Path,
    *,
    context: int = 65536,
    vocab: int = 512,
    layers: int = _LAYERS,
    seed: int = 0,
    ends: bool = True,
    shape: Shape = Shape(),
) -> Path:
    """Write the model and return its folder; another seed gives other weights, and so another fingerprint.

    `vocab` counts all tokens, at least the 256 bytes and 3 special ones. Where its answers end depends on the
    machine's arithmetic; without `ends` all are as long as they may be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sayable = _write_tokenizer(folder, vocab=vocab, context=context)
    if not ends:
        sayable.discard(vocab - 1)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": layers,
        "intermediate_size": shape.mlp,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": _HEAD_DIM,
        "rms_norm_eps": 1e-5,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": vocab - 3,
        "eos_token_id": vocab - 1,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = _weights(vocab, layers, seed, shape)
    # Logits of nought never win: answers are printable ASCII and now and then end by themselves.
    weights["lm_head.weight"][[token for token in range(vocab) if token not in sayable]] = 0.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "mlx"})
    return folder


def _weights(vocab: int, layers: int, seed: int, shape: Shape) -> dict[str, Any]:
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float = 1.5) -> Any:
        # Large enough that attention looks somewhere and the best token is well ahead of the next.
        return (random.standard_normal((rows, columns)) * scale / np.sqrt(columns)).astype(np.float32)

    ones = np.ones(shape.hidden, np.float32)
    weights = {
        "model.embed_tokens.weight": matrix(vocab, shape.hidden, 8.0),
        "model.norm.weight": ones,
        "lm_head.weight": matrix(vocab, shape.hidden, 4.0),
    }
    for layer in range(layers):
        name = f"model.layers.{layer}"
        weights[f"{name}.self_attn.q_proj.weight"] = matrix(shape.heads * _HEAD_DIM, shape.hidden)
        weights[f"{name}.self_attn.k_proj.weight"] = matrix(shape.kv_heads * _HEAD_DIM, shape.hidden)
        weights[f"{name}.self_attn.v_proj.weight"] = matrix(shape.kv_heads * _HEAD_DIM, shape.hidden)
        weights[f"{name}.self_attn.o_proj.weight"] = matrix(shape.hidden, shape.heads * _HEAD_DIM)
        weights[f"{name}.mlp.gate_proj.weight"] = matrix(shape.mlp, shape.hidden)
        weights[f"{name}.mlp.up_proj.weight"] = matrix(shape.mlp, shape.hidden)
        weights[f"{name}.mlp.down_proj.weight"] = matrix(shape.hidden, shape.mlp)
        weights[f"{name}.input_layernorm.weight"] = ones
        weights[f"{name}.post_attention_layernorm.weight"] = ones
    return weights


def _write_tokenizer(folder: Path, *, vocab: int, context: int) -> set[int]:
    """Write a tokenizer of exactly `vocab` tokens, the last of which ends a turn; returns what may be said."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in _WORDS.split():
        left = "Ġ"  # how byte-level BPE writes a space
        for letter in word:
            if left + letter not in symbols and len(symbols) < vocab - len(_SPECIAL):
                symbols.append(left + letter)
                merges.append((left, letter))
            left += letter
    sayable = {n for n, symbol in enumerate(symbols) if symbol.removeprefix("Ġ").isascii() or symbol == "Ġ"}
    # Whatever is missing to the wanted size is filled with tokens that text never becomes.
    symbols += [f"<|unused-{number}|>" for number in range(vocab - len(_SPECIAL) - len(symbols))]
    tokenizer = Tokenizer(
        models.BPE(vocab={symbol: number for number, symbol in enumerate(symbols)}, merges=merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    assert tokenizer.get_vocab_size() == vocab
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _SPECIAL[0],
        "eos_token": END,
        "chat_template": _TEMPLATE,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return {*sayable, vocab - 1}
