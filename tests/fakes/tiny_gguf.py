"""Tiny GGUF files of every architecture that is converted, with random weights, written with the `gguf` library."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from mlx.utils import tree_flatten
from tokenizers.pre_tokenizers import ByteLevel

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDE = 64, 4, 2, 32, 96
BYTES = sorted(ByteLevel.alphabet())
SPECIALS = ["<bos>", "<eos>"]
TOKENS = [*BYTES, *SPECIALS]
"""A byte-level vocabulary without merges."""

_LLAMA = {"head_dim": HEAD_DIM, "rope_traditional": True}
ARGS: dict[str, tuple[str, gguf.MODEL_ARCH, dict[str, Any]]] = {
    "llama": ("llama", gguf.MODEL_ARCH.LLAMA, _LLAMA),
    "smollm3": ("smollm3", gguf.MODEL_ARCH.SMOLLM3, {**_LLAMA, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", gguf.MODEL_ARCH.QWEN2, {}),
    "qwen3": ("qwen3", gguf.MODEL_ARCH.QWEN3, {"head_dim": HEAD_DIM, "tie_word_embeddings": True}),
    "gemma3": (
        "gemma3_text",
        gguf.MODEL_ARCH.GEMMA3,
        {"head_dim": HEAD_DIM, "query_pre_attn_scalar": HEAD_DIM, "sliding_window": 24},
    ),
    "phi3": ("phi3", gguf.MODEL_ARCH.PHI3, {}),
}
"""mlx-lm's module, the library's architecture, and what the model is built with, by GGUF's name."""


def _layers(name: str) -> int:
    # One of Gemma's six layers sees everything.
    return 6 if name == "gemma3" else 2


def build(name: str) -> Any:
    """Return mlx-lm's model of an architecture, in float32."""
    module_name, _, more = ARGS[name]
    module = importlib.import_module(f"mlx_lm.models.{module_name}")
    args = {
        "model_type": module_name, "hidden_size": HIDDEN, "num_hidden_layers": _layers(name), "intermediate_size": WIDE,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-5,
        "vocab_size": len(TOKENS), "rope_theta": 10000.0, "max_position_embeddings": 512, **more,
    }  # fmt: skip
    mx.random.seed(5)
    model = module.Model(module.ModelArgs.from_dict(args))
    mx.eval(model.parameters())
    return model


def write(
    path: Path,
    name: str = "llama",
    model: Any = None,
    *,
    kind: GGMLQuantizationType = GGMLQuantizationType.F16,
    metadata: dict[str, Any] | None = None,
    extra: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write a model's weights; `metadata` replaces or adds strings, numbers and lists, None removes one."""
    model = build(name) if model is None else model
    _, arch, _ = ARGS[name]
    writer = GGUFWriter(path, str(gguf.MODEL_ARCH_NAMES[arch]))
    for key, value in {**_metadata(name), **(metadata or {})}.items():
        _add(writer, key, value)
    names = gguf.get_tensor_name_map(arch, _layers(name))
    for tensor_name, array in tree_flatten(model.parameters()):
        values = np.array(array.astype(mx.float32))
        if name == "gemma3" and tensor_name.endswith("norm.weight"):
            values = values + 1.0
        official = names.get_name(tensor_name, try_suffixes=(".weight", ".bias"))
        wide = values.ndim == 2 and values.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        raw = kind if wide else GGMLQuantizationType.F32
        writer.add_tensor(official, gguf.quantize(values, raw), raw_dtype=raw)
    for tensor_name, array in (extra or {}).items():
        writer.add_tensor(tensor_name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(name: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "context_length": 512, "embedding_length": HIDDEN, "block_count": _layers(name), "feed_forward_length": WIDE,
        "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0,
    }  # fmt: skip
    if "head_dim" in ARGS[name][2]:
        facts["attention.key_length"] = HEAD_DIM
    if name == "gemma3":
        facts["attention.sliding_window"] = 24
    return {
        **{f"{name}.{key}": value for key, value in facts.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [1] * len(BYTES) + [3] * len(SPECIALS),
        "tokenizer.ggml.bos_token_id": len(BYTES),
        "tokenizer.ggml.eos_token_id": len(BYTES) + 1,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value:
        writer.add_array(key, value)
