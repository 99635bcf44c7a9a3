"""Facts from a model's own files: its context, the size of its KV, its publisher's sampling parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from semanticd.application.ports.models import Pooling
from semanticd.domain.errors import ConfigurationError
from semanticd.domain.generation import ModelDefaults

DEFAULT_CONTEXT = 4096

_NESTED = ("text_config", "language_config", "llm_config")
"""Keys under which multimodal models keep the settings of their language model."""
_LONGEST_HEAD = 100 << 20
_LONGEST_CONTEXT = 1 << 27
"""Longer ones mean "no limit": tokenizers write 1e30."""


def context_of(folder: Path) -> int:
    """Return the tokens that a model in this folder was made for; 4,096 where it does not say.

    YaRN settings count as their original length times their factor, as the model computes them; other scalings are
    part of what the published length already counts.
    """
    config = _read(folder / "config.json")
    parts = [config, *(config[key] for key in _NESTED if isinstance(config.get(key), dict))]
    lengths = [
        _length(part.get(key)) for part in parts for key in ("max_position_embeddings", "model_max_length")
    ]
    lengths += [_yarn(part) for part in parts]
    longest = max(lengths, default=0)
    if not longest:
        longest = _length(_read(folder / "tokenizer_config.json").get("model_max_length"))
    return longest or DEFAULT_CONTEXT


def pooling_of(folder: Path) -> Pooling:
    """Return what a text's vector is made of, as the folder's settings for sentence-transformers say; else the mean."""
    config = _read(folder / "1_Pooling" / "config.json")
    return "last" if config.get("pooling_mode_lasttoken") is True else "mean"


def kv_bytes_per_token(folder: Path) -> int | None:
    """Return the bytes of a token's KV in 16 bits, over the layers that keep every position; None: unknown.

    Layers with a window or a state are left out where the config names the kind of each layer, or says how many of
    them are full attention.
    """
    config = _language_part(_read(folder / "config.json"))
    layers, heads = _length(config.get("num_hidden_layers")), _length(config.get("num_attention_heads"))
    if not layers or not heads:
        return None
    latent, rotary = _length(config.get("kv_lora_rank")), _length(config.get("qk_rope_head_dim"))
    if latent:
        return _full_layers(config, layers) * (latent + rotary) * 2
    head_dim = _length(config.get("head_dim")) or _length(config.get("hidden_size")) // heads
    kv_heads = _length(config.get("num_key_value_heads")) or heads
    return _full_layers(config, layers) * kv_heads * 2 * head_dim * 2 or None


def _full_layers(config: Mapping[str, Any], layers: int) -> int:
    """Count the layers that keep every position; each family writes it in its own way."""
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        return sum(kind == "full_attention" for kind in kinds)
    linear = config.get("linear_attn_config")
    if isinstance(linear, dict) and isinstance(linear.get("full_attn_layers"), list):
        return len(linear["full_attn_layers"])
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return pattern.count("*")
    every = _length(config.get("full_attention_interval")) or _length(config.get("sliding_window_pattern"))
    return layers // every if every else layers


def weight_bits(folder: Path) -> int | None:
    """Return the bits of a model's matrices, 16 where they are not quantized; None: its config cannot be read."""
    config = _read(folder / "config.json")
    if not config:
        return None
    quantization = config.get("quantization") or config.get("quantization_config")
    bits = quantization.get("bits") if isinstance(quantization, dict) else 16
    return bits if isinstance(bits, int) and not isinstance(bits, bool) else None


def wide_bytes(folder: Path) -> int | None:
    """Return the bytes that a model's weights take as floats of 32 bits; None: its files cannot be read.

    Reads the heads of its weights' files, each once for as long as it does not change.
    """
    config = _read(folder / "config.json")
    quantization = config.get("quantization") or config.get("quantization_config")
    bits = quantization if isinstance(quantization, dict) else {}
    try:
        heads = []
        for file in sorted(folder.glob("model*.safetensors")):
            stat = file.stat()
            heads.append(_sizes(str(file), stat.st_mtime_ns, stat.st_size))
        sizes = {name: size for head in heads for name, size in head.items()}
        return sum(_values(name, size, sizes, bits) for name, size in sizes.items()) * 4 or None
    except (OSError, ValueError, TypeError, AttributeError, KeyError, ZeroDivisionError, RecursionError):
        return None


def _values(name: str, size: int, sizes: Mapping[str, int], quantization: Mapping[str, Any]) -> int:
    """Return how many values a tensor is made into; those that scale packed ones go."""
    module, _, part = name.rpartition(".")
    if part not in ("weight", "scales", "biases") or f"{module}.scales" not in sizes:
        return size
    own = quantization.get(module)
    bits = own["bits"] if isinstance(own, dict) else quantization["bits"]
    return size * 32 // int(bits) if part == "weight" else 0


@lru_cache(maxsize=512)
def _sizes(file: str, changed_ns: int, num_bytes: int) -> Mapping[str, int]:
    """Return how many numbers each tensor of a file of weights has, by its head.

    Raises:
        ValueError: The head of the file is malformed.
        OSError: The file cannot be read.
    """
    with Path(file).open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > min(num_bytes, _LONGEST_HEAD):
            raise ValueError("no head")
        head = json.loads(opened.read(length))
    return {name: prod(one["shape"]) for name, one in head.items() if name != "__metadata__"}


def _language_part(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a model's language part, which models that see or hear keep apart."""
    nested: dict[str, Any] = next((config[key] for key in _NESTED if isinstance(config.get(key), dict)), {})
    return {**config, **nested}


def _length(value: Any) -> int:
    """Return a length in tokens; 0 if the value is not a length."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _LONGEST_CONTEXT:
        return 0
    return int(value)


def _yarn(config: Mapping[str, Any]) -> int:
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(scaling, dict):
        return 0
    # Newer configs have one table per kind of layer.
    tables = [scaling, *(table for table in scaling.values() if isinstance(table, dict))]
    lengths = [0]
    for table in tables:
        if (table.get("rope_type") or table.get("type")) == "yarn":
            original = table.get("original_max_position_embeddings")
            factor = table.get("factor")
            if _length(original) and isinstance(factor, (int, float)):
                lengths.append(_length(_length(original) * factor))
    return max(lengths)


_RANGES: dict[str, Callable[[float], bool]] = {
    "temperature": lambda v: 0 <= v <= 2,
    "top_p": lambda v: 0 < v <= 1,
    "top_k": lambda v: 0 <= v <= 1 << 31,
    "min_p": lambda v: 0 <= v <= 1,
    "repetition_penalty": lambda v: 0 < v <= 100,
    "presence_penalty": lambda v: -2 <= v <= 2,
    "frequency_penalty": lambda v: -2 <= v <= 2,
    "max_tokens": lambda v: 1 <= v < 1 << 31,
}
_WHOLE = {"top_k", "max_tokens"}


def recommended(folder: Path) -> ModelDefaults:
    """Return the sampling of `generation_config.json`; values out of range are ignored, it is not the user's file.

    `max_new_tokens` is not taken: published values are those of a demonstration, and would cut answers short.
    """
    published = _read(folder / "generation_config.json")
    names = [name for name in _RANGES if name != "max_tokens"]
    return ModelDefaults(**{name: published[name] for name in names if _fits(name, published.get(name))})


def ignored_advice(folder: Path) -> tuple[str, ...]:
    """Return what `recommended` does not take from `generation_config.json`, because it is out of range."""
    published = _read(folder / "generation_config.json")
    names = [name for name in _RANGES if name != "max_tokens" and published.get(name) is not None]
    return tuple(
        f"{name} = {str(published[name])[:80]}" for name in names if not _fits(name, published[name])
    )


def read_defaults(table: Mapping[str, Any], *, where: str) -> ModelDefaults:
    """Return what a registry entry's table `defaults` says.

    Raises:
        ConfigurationError: A key is unknown, or a value is out of range.
    """
    for key, value in table.items():
        if key != "thinking" and key not in _RANGES:
            raise ConfigurationError(f"{where}.{key} is unknown; known: {', '.join([*_RANGES, 'thinking'])}")
        if not (isinstance(value, bool) if key == "thinking" else _fits(key, value)):
            raise ConfigurationError(f"{where}.{key} cannot be {value!r}: it is out of range")
    return ModelDefaults(**table)


def _fits(name: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if name in _WHOLE else (int, float)):
        return False
    return _RANGES[name](value)


def _read(path: Path) -> dict[str, Any]:
    """Return a file's JSON object; empty where there is none to read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
