"""Converts a llama-family GGUF file into an MLX model folder.

The tensors keep their quantization; the rotary layout of GGUF is MLX's `rope_traditional`. Tokenizer and chat
template come from the file's metadata, so nothing else has to be fetched.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from semanticd.domain.errors import ModelLoadError

_ARCHITECTURES = {"llama"}

_NAMES = (
    ("token_embd.", "model.embed_tokens."),
    ("output_norm.", "model.norm."),
    ("output.", "lm_head."),
    ("blk.", "model.layers."),
    ("attn_norm.", "input_layernorm."),
    ("ffn_norm.", "post_attention_layernorm."),
    ("attn_q.", "self_attn.q_proj."),
    ("attn_k.", "self_attn.k_proj."),
    ("attn_v.", "self_attn.v_proj."),
    ("attn_output.", "self_attn.o_proj."),
    ("ffn_gate.", "mlp.gate_proj."),
    ("ffn_down.", "mlp.down_proj."),
    ("ffn_up.", "mlp.up_proj."),
)

# How each `tokenizer.ggml.pre` splits text before BPE, as (pattern or None, split digits one by one).
_GPT2_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_PRE: dict[str, tuple[str, bool]] = {
    "smollm": (_GPT2_PATTERN, True),
    "gpt-2": (_GPT2_PATTERN, False),
    "default": (_GPT2_PATTERN, False),
    "llama-bpe": (_LLAMA3_PATTERN, False),
}

_CONTROL_TOKEN, _USER_TOKEN = 3, 4


def convert(gguf: Path, folder: Path) -> None:
    """Write the model as an MLX folder; it appears whole or not at all.

    Raises:
        ModelLoadError: The file is damaged or of a family that is not converted.
    """
    try:
        loaded: Any = mx.load(str(gguf), return_metadata=True)
        weights, metadata = loaded
    except (RuntimeError, ValueError) as error:
        raise ModelLoadError(f"cannot read {gguf}: it is no complete GGUF file ({error})") from error
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config = _config(gguf, metadata, weights)
    tensors = {_rename(name): tensor for name, tensor in weights.items() if not name.startswith("rope_freqs")}
    mx.save_safetensors(str(partial / "model.safetensors"), tensors, metadata={"format": "mlx"})
    _write(partial / "config.json", config)
    _write_tokenizer(partial, metadata)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _rename(name: str) -> str:
    for old, new in _NAMES:
        # `output.` must not match inside `attn_output.`.
        if old == "output." and not name.startswith(old):
            continue
        name = name.replace(old, new)
    return name


def _number(metadata: dict[str, Any], key: str, default: float | None = None) -> Any:
    value = metadata.get(key)
    if value is None:
        if default is None:
            raise ModelLoadError(f"the GGUF file lacks {key!r}: it is not a complete llama-family model")
        return default
    return value.item() if hasattr(value, "item") else value


def _config(gguf: Path, metadata: dict[str, Any], weights: dict[str, mx.array]) -> dict[str, Any]:
    architecture = metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise ModelLoadError(
            f"cannot convert {gguf}: its architecture is {architecture!r}, only {sorted(_ARCHITECTURES)} are "
            "converted; take the model in MLX form (hf:mlx-community/…) instead"
        )
    heads = int(_number(metadata, "llama.attention.head_count"))
    hidden = int(_number(metadata, "llama.embedding_length"))
    config: dict[str, Any] = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "num_hidden_layers": int(_number(metadata, "llama.block_count")),
        "intermediate_size": int(_number(metadata, "llama.feed_forward_length")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(_number(metadata, "llama.attention.head_count_kv", heads)),
        "head_dim": int(_number(metadata, "llama.rope.dimension_count", hidden // heads)),
        "rms_norm_eps": float(_number(metadata, "llama.attention.layer_norm_rms_epsilon")),
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "max_position_embeddings": int(_number(metadata, "llama.context_length")),
        "rope_theta": float(_number(metadata, "llama.rope.freq_base", 10000.0)),
        "rope_traditional": True,
        "tie_word_embeddings": "output.weight" not in weights,
        "bos_token_id": int(_number(metadata, "tokenizer.ggml.bos_token_id", 0)),
        "eos_token_id": int(_number(metadata, "tokenizer.ggml.eos_token_id", 0)),
    }
    quantization = _quantization(weights)
    if quantization:
        config["quantization"] = quantization
    return config


def _quantization(weights: dict[str, mx.array]) -> dict[str, Any]:
    """Describe each quantized tensor: GGUF files mix precisions, and MLX groups by 32 there."""
    bits: dict[str, int] = {}
    for name, scales in weights.items():
        if not name.endswith(".scales"):
            continue
        stem = name.removesuffix(".scales")
        columns = weights[f"{stem}.weight"].shape[-1]
        bits[_rename(f"{stem}.").removesuffix(".")] = columns * 32 // (scales.shape[-1] * 32)
    if not bits:
        return {}
    common = max(set(bits.values()), key=list(bits.values()).count)
    described: dict[str, Any] = {"group_size": 32, "bits": common}
    described.update({name: {"group_size": 32, "bits": b} for name, b in bits.items() if b != common})
    return described


def _write_tokenizer(folder: Path, metadata: dict[str, Any]) -> None:
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ModelLoadError(
            f"cannot convert the tokenizer: its kind is {kind!r}, only byte-level BPE is converted"
        )
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    types = metadata["tokenizer.ggml.token_type"].tolist()
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    pattern, single_digits = _PRE.get(str(metadata.get("tokenizer.ggml.pre", "default")), _PRE["default"])
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if single_digits else []
    steps += [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, types, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    added = [t for t, kind in zip(tokens, types, strict=True) if kind == _USER_TOKEN]
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in added])
    tokenizer.save(str(folder / "tokenizer.json"))

    def token(key: str) -> str | None:
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        return None if index is None else tokens[int(index.item())]

    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding"),
        "unk_token": token("unknown"),
        "model_max_length": int(_number(metadata, "llama.context_length")),
        "clean_up_tokenization_spaces": False,
        "chat_template": metadata.get("tokenizer.chat_template"),
    }
    _write(
        folder / "tokenizer_config.json",
        {key: value for key, value in described.items() if value is not None},
    )


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
