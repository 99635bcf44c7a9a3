"""A real model in a folder, small enough to load in no time: two Llama layers of random weights, bytes as tokens.

What it says is nonsense, but it says it through the whole path: config, safetensors, tokenizer, chat template.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

_HIDDEN, _LAYERS, _HEADS, _MLP = 64, 2, 4, 96
_END = "<|im_end|>"
_START = "<|im_start|>"
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_model(folder: Path, *, seed: int = 0) -> Path:
    """Write the model; another seed gives other weights, and so another fingerprint."""
    folder.mkdir(parents=True, exist_ok=True)
    size = _write_tokenizer(folder)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "intermediate_size": _MLP,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "rms_norm_eps": 1e-5,
        "vocab_size": size,
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": size - 1,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(_weights(size, seed), folder / "model.safetensors", metadata={"format": "mlx"})
    return folder


def _weights(size: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    weights = {
        "model.embed_tokens.weight": matrix(size, _HIDDEN),
        "model.norm.weight": np.ones(_HIDDEN, np.float32),
    }
    for layer in range(_LAYERS):
        name = f"model.layers.{layer}"
        for projection in "qkvo":
            weights[f"{name}.self_attn.{projection}_proj.weight"] = matrix(_HIDDEN, _HIDDEN)
        weights[f"{name}.mlp.gate_proj.weight"] = matrix(_MLP, _HIDDEN)
        weights[f"{name}.mlp.up_proj.weight"] = matrix(_MLP, _HIDDEN)
        weights[f"{name}.mlp.down_proj.weight"] = matrix(_HIDDEN, _MLP)
        weights[f"{name}.input_layernorm.weight"] = np.ones(_HIDDEN, np.float32)
        weights[f"{name}.post_attention_layernorm.weight"] = np.ones(_HIDDEN, np.float32)
    return weights


def _write_tokenizer(folder: Path) -> int:
    """Write a tokenizer whose tokens are bytes; returns its size. The last token ends a turn."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={symbol: number for number, symbol in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([_START, _END])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _END,
        "chat_template": _TEMPLATE,
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer.get_vocab_size()
