"""The names of a model's settings and tensors in GGUF and in mlx-lm.

Query and key rows of llama's files are interleaved for rotary positions of neighbours, which MLX calls traditional.
Gemma's files hold one more than the norm's weight, which MLX adds itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from semanticd.domain.errors import ModelLoadError

Metadata = Mapping[str, Any]

_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of all published models with such frequencies; the factor follows from the slowest of them."""

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_ROTARY = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True, slots=True)
class Architecture:
    """One family: mlx-lm's name, the layer's tensors that differ, and its own settings."""

    model_type: str
    layer: Mapping[str, str]
    settings: Callable[[Settings], dict[str, Any]]
    norms_hold_one_more: bool = False
    wide_range: bool = False
    """Whether float16 cannot hold its activations."""


class Settings:
    """A file's settings under its architecture's name.

    Values of per-layer lists, which some families have, are refused where one is wanted.
    """

    def __init__(self, metadata: Metadata, tensors: Mapping[str, Any]) -> None:
        self.metadata = metadata
        self.tensors = tensors
        self.name = str(metadata.get("general.architecture"))

    def get(self, key: str, default: Any = None) -> Any:
        """Return a setting.

        Raises:
            ModelLoadError: A required setting is missing.
        """
        value = self.metadata.get(f"{self.name}.{key}", default)
        if value is None:
            raise ModelLoadError(f"the GGUF file lacks `{self.name}.{key}`: it is not complete")
        if isinstance(value, list):
            raise ModelLoadError(
                f"its layers differ in `{self.name}.{key}`, which mlx-lm's {self.name} does not know"
            )
        return value

    def values(self, name: str) -> list[float]:
        """Return a small tensor's values."""
        return [float(value) for value in np.asarray(self.tensors[name].data, np.float32)]


def _rope_scaling(settings: Settings) -> dict[str, Any] | None:
    if "rope_freqs.weight" in settings.tensors:
        return _llama3(settings)
    kind = settings.get("rope.scaling.type", "none")
    factor = float(settings.get("rope.scaling.factor", 1.0))
    if kind in ("none", "") or factor == 1.0:
        return None
    if kind not in ("linear", "yarn"):
        raise ModelLoadError(
            f"its rotary positions are scaled by {kind!r}; `linear`, `yarn` and Llama 3's are converted"
        )
    scaling: dict[str, Any] = {"type": kind, "rope_type": kind, "factor": factor}
    if kind == "yarn":
        length = settings.get("rope.scaling.original_context_length", settings.get("context_length"))
        scaling["original_max_position_embeddings"] = int(length)
    return scaling


def _llama3(settings: Settings) -> dict[str, Any] | None:
    """Return the scaling whose frequencies the file holds.

    Raises:
        ModelLoadError: The frequencies are of another kind.
    """
    found = np.array(settings.values("rope_freqs.weight"))
    if np.allclose(found, 1.0):
        return None
    factor = float(found.max())
    base, dims = float(settings.get("rope.freq_base", 10000.0)), 2 * len(found)
    wavelengths = 2 * math.pi * base ** (np.arange(0, dims, 2) / dims)
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    turns = _LLAMA3["original_max_position_embeddings"] / wavelengths
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if not np.allclose(found, expected, rtol=1e-3):
        raise ModelLoadError(
            "it holds rotary frequencies that are not Llama 3's, which mlx-lm cannot be given"
        )
    return {"rope_type": "llama3", "type": "llama3", "factor": factor, **_LLAMA3}


def _common(settings: Settings) -> dict[str, Any]:
    heads = int(settings.get("attention.head_count"))
    hidden = int(settings.get("embedding_length"))
    if int(settings.get("expert_count", 0)):
        raise ModelLoadError(f"it is a mixture of experts, which is not converted from {settings.name} files")
    return {
        "hidden_size": hidden,
        "num_hidden_layers": int(settings.get("block_count")),
        "intermediate_size": int(settings.get("feed_forward_length")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(settings.get("attention.head_count_kv", heads)),
        "rms_norm_eps": float(settings.get("attention.layer_norm_rms_epsilon")),
        "max_position_embeddings": int(settings.get("context_length")),
        "rope_theta": float(settings.get("rope.freq_base", 10000.0)),
        "rope_scaling": _rope_scaling(settings) if settings.name != "phi3" else None,
    }


def _head_dim(settings: Settings) -> int:
    fair = int(settings.get("embedding_length")) // int(settings.get("attention.head_count"))
    return int(settings.get("attention.key_length", settings.get("rope.dimension_count", fair)))


def _llama(settings: Settings) -> dict[str, Any]:
    return {
        **_common(settings),
        "head_dim": _head_dim(settings),
        "rope_traditional": True,
        "attention_bias": "blk.0.attn_q.bias" in settings.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in settings.tensors,
    }


def _qwen3(settings: Settings) -> dict[str, Any]:
    return {**_common(settings), "head_dim": _head_dim(settings)}


def _gemma3(settings: Settings) -> dict[str, Any]:
    common, head_dim = _common(settings), _head_dim(settings)
    # The largest scales its scores by the width of a head of equal shares, the others by that of a head.
    largest = common["num_hidden_layers"] == 62
    return {
        **common,
        "head_dim": head_dim,
        "query_pre_attn_scalar": common["hidden_size"] // common["num_attention_heads"]
        if largest
        else head_dim,
        "sliding_window": int(settings.get("attention.sliding_window")),
        "sliding_window_pattern": int(settings.get("attention.sliding_window_pattern", 6)),
        "rope_theta": float(settings.get("rope.freq_base", 1_000_000.0)),
        "rope_local_base_freq": float(settings.get("rope.freq_base_swa", 10_000.0)),
    }


def _phi3(settings: Settings) -> dict[str, Any]:
    common = _common(settings)
    head_dim = common["hidden_size"] // common["num_attention_heads"]
    original = settings.get("rope.scaling.original_context_length", common["max_position_embeddings"])
    found = {
        **common,
        "partial_rotary_factor": int(settings.get("rope.dimension_count", head_dim)) / head_dim,
        "original_max_position_embeddings": int(original),
    }
    if "rope_factors_long.weight" in settings.tensors:
        found["rope_scaling"] = {
            "type": "longrope",
            "long_factor": settings.values("rope_factors_long.weight"),
            "short_factor": settings.values("rope_factors_short.weight"),
        }
    return found


_GEMMA_LAYER = {
    **_LAYER,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
ARCHITECTURES = {
    "llama": Architecture("llama", _LAYER, _llama),
    "mistral": Architecture("llama", _LAYER, _llama),
    "smollm3": Architecture("smollm3", _LAYER, _llama),
    "qwen2": Architecture("qwen2", _LAYER, _common),
    "qwen3": Architecture("qwen3", _LAYER, _qwen3),
    "gemma3": Architecture("gemma3_text", _GEMMA_LAYER, _gemma3, norms_hold_one_more=True, wide_range=True),
    "phi3": Architecture("phi3", {**_LAYER, "ffn_up": "mlp.gate_up_proj"}, _phi3),
}


def architecture_of(metadata: Metadata) -> Architecture:
    """Return a file's family.

    Raises:
        ModelLoadError: The file cannot be converted; the message has the reason.
    """
    name = metadata.get("general.architecture")
    if metadata.get("general.type") not in (None, "model"):
        raise ModelLoadError(f"it holds a {metadata['general.type']}, not a model")
    if int(metadata.get("split.count", 1)) > 1:
        raise ModelLoadError(
            "it is one of several parts; join them with llama.cpp's `llama-gguf-split --merge`"
        )
    if name not in ARCHITECTURES:
        raise ModelLoadError(
            f"its architecture is {name!r}; converted are {', '.join(sorted(ARCHITECTURES))}: take the model in MLX "
            "form (hf:mlx-community/…) instead"
        )
    return ARCHITECTURES[name]


def mlx_name(name: str, architecture: Architecture) -> str | None:
    """Return mlx-lm's name of a tensor; None for those that become settings.

    Raises:
        ModelLoadError: The tensor is unknown.
    """
    if name in _ROTARY:
        return None
    stem, _, kind = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{kind}"
    block = _BLOCK.fullmatch(name)
    if block is None or block.group(2) not in architecture.layer:
        raise ModelLoadError(
            f"it has a tensor {name!r}, which mlx-lm's {architecture.model_type} does not know"
        )
    return f"model.layers.{block.group(1)}.{architecture.layer[block.group(2)]}.{block.group(3)}"
