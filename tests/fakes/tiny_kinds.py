"""Model folders of random weights whose layers cannot be cut anywhere: a sliding window, and a recurrent state.

The tokenizer and its template are those of `tiny_folder`; the weights are made by the library's own model.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from tests.fakes.tiny_folder import write_tiny_model

_VOCAB = 512
KINDS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": 2,
        "query_pre_attn_scalar": 16,
        "sliding_window": 512,
        "sliding_window_pattern": 2,
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
    },
}


def write_tiny_kind(folder: Path, family: str, *, context: int = 131072) -> Path:
    """Write a model of this family and return its folder."""
    write_tiny_model(folder, context=context, vocab=_VOCAB)
    ids = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = {
        **KINDS[family],
        "model_type": family,
        "vocab_size": _VOCAB,
        "max_position_embeddings": context,
        "bos_token_id": ids["bos_token_id"],
        "eos_token_id": ids["eos_token_id"],
        "torch_dtype": "float32",
    }
    library = importlib.import_module(f"mlx_lm.models.{family}")
    mx.random.seed(0)
    model = library.Model(library.ModelArgs.from_dict(config))
    model.update(tree_map(lambda a: a * 3.0 if a.ndim > 1 else a, model.parameters()))
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
