"""A model's context and its recommended sampling are read from its own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.models.folder_facts import (
    context_of,
    ignored_advice,
    kv_bytes_per_token,
    read_defaults,
    recommended,
    weight_bits,
)
from semanticd.domain.errors import ConfigurationError
from semanticd.domain.generation import ModelDefaults


def folder_with(tmp_path: Path, **files: Any) -> Path:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / f"{name}.json").write_text(text)
    return tmp_path


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 8192}, 8192),
        ({"text_config": {"max_position_embeddings": 262144}}, 262144),
        ({"max_position_embeddings": None, "language_config": {"max_position_embeddings": 9000}}, 9000),
        ({"model_max_length": 1048576}, 1048576),
        ({"max_position_embeddings": 40960, "rope_scaling": YARN}, 131072),
        ({"max_position_embeddings": 163840, "rope_scaling": {**YARN, "type": "yarn", "factor": 2}}, 163840),
        ({"max_position_embeddings": 40960, "rope_parameters": {"full_attention": YARN}}, 131072),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 131072),
        ({"max_position_embeddings": "many"}, 4096),
        ({"max_position_embeddings": True}, 4096),
        ({}, 4096),
    ],
)
def test_the_context_is_what_the_config_says_wherever_it_says_it(
    tmp_path: Path, config: dict[str, Any], expected: int
) -> None:
    assert context_of(folder_with(tmp_path, config=config)) == expected


@pytest.mark.parametrize(("length", "expected"), [(32768, 32768), (1e30, 4096), (-1, 4096), ("x", 4096)])
def test_a_tokenizers_length_counts_where_the_config_has_none(
    tmp_path: Path, length: Any, expected: int
) -> None:
    folder = folder_with(tmp_path, config={}, tokenizer_config={"model_max_length": length})
    assert context_of(folder) == expected


def test_a_damaged_config_has_the_smallest_context(tmp_path: Path) -> None:
    assert context_of(folder_with(tmp_path, config="{ damaged")) == 4096


def test_recommended_sampling_is_read_and_nonsense_in_it_is_ignored(tmp_path: Path) -> None:
    published = {
        "temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": -1, "repetition_penalty": "high",
        "max_new_tokens": 100, "eos_token_id": [1, 2], "do_sample": True,
    }  # fmt: skip
    found = recommended(folder_with(tmp_path, generation_config=published))
    assert found == ModelDefaults(temperature=0.6, top_p=0.95, top_k=20)
    assert recommended(tmp_path / "nowhere") == ModelDefaults()
    assert ignored_advice(tmp_path / "nowhere") == ()
    folder = folder_with(tmp_path, generation_config={**published, "temperature": -5, "top_k": None})
    assert ignored_advice(folder) == ("temperature = -5", "min_p = -1", "repetition_penalty = high")


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"temprature": 1}, r"models\.m\.defaults\.temprature is unknown"),
        ({"temperature": 9}, "temperature cannot be 9"),
        ({"top_k": 1.5}, "top_k cannot be"),
        ({"thinking": 1}, "thinking cannot be"),
        ({"max_tokens": 0}, "max_tokens cannot be"),
    ],
)
def test_a_users_mistake_in_the_defaults_is_named(table: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        read_defaults(table, where="models.m.defaults")


PLAIN = {
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_size": 4096,
}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PLAIN, 147_456),  # Qwen3 8B
        ({**PLAIN, "head_dim": None}, 147_456),
        ({**PLAIN, "num_key_value_heads": None}, 4 * 147_456),
        ({"text_config": PLAIN}, 147_456),
        (
            {
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "num_key_value_heads": 16,
                "hidden_size": 2048,
                "kv_lora_rank": 512,
                "qk_rope_head_dim": 64,
            },
            31_104,
        ),  # DeepSeek-Coder-V2-Lite
        (
            {
                **PLAIN,
                "num_hidden_layers": 24,
                "head_dim": 64,
                "layer_types": ["sliding_attention", "full_attention"] * 12,
            },
            24_576,
        ),  # gpt-oss-20b
        (
            {
                **PLAIN,
                "num_hidden_layers": 48,
                "num_key_value_heads": 2,
                "head_dim": 256,
                "full_attention_interval": 4,
            },
            24_576,
        ),  # Qwen3-Next
        (
            {
                "text_config": {
                    **PLAIN,
                    "num_hidden_layers": 48,
                    "head_dim": 256,
                    "sliding_window_pattern": 6,
                }
            },
            65_536,
        ),  # Gemma 3 12B
        (
            {
                **PLAIN,
                "num_hidden_layers": 52,
                "num_key_value_heads": 2,
                "hybrid_override_pattern": "MEM*" * 6 + "ME",
            },
            6_144,
        ),  # Nemotron 3 Nano
        (
            {
                **PLAIN,
                "num_hidden_layers": 27,
                "kv_lora_rank": 512,
                "qk_rope_head_dim": 64,
                "linear_attn_config": {"full_attn_layers": [4, 8, 12, 16, 20, 24, 27]},
            },
            8_064,
        ),  # Kimi Linear
        ({**PLAIN, "layer_types": []}, None),
        ({**PLAIN, "num_hidden_layers": "many"}, None),
        ({"num_hidden_layers": 4}, None),
        ({}, None),
    ],
)
def test_what_a_tokens_kv_takes_is_read_from_the_config(
    tmp_path: Path, config: dict[str, Any], expected: int | None
) -> None:
    assert kv_bytes_per_token(folder_with(tmp_path, config=config)) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"quantization": {"bits": 4, "group_size": 64}}, 4),
        ({"quantization_config": {"bits": 8}}, 8),
        ({"quantization_config": {"quant_method": "mxfp4"}}, None),
        ({"torch_dtype": "bfloat16"}, 16),
        ("{ broken", None),
    ],
)
def test_the_bits_of_matrices_are_read_from_the_config(
    tmp_path: Path, config: Any, expected: int | None
) -> None:
    assert weight_bits(folder_with(tmp_path, config=config)) == expected
