"""Which models can be spread over how many machines, judged by their config before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from semanticd.adapters.mlx.model.sharding import spread_of
from semanticd.domain.errors import ModelLoadError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
}


def refusal(config: dict[str, Any], world_size: int) -> str:
    with pytest.raises(ModelLoadError) as refused:
        spread_of(config, name="a-model", world_size=world_size)
    return refused.value.message


def test_ranks_that_divide_all_heads_may_share_a_model() -> None:
    assert spread_of(LLAMA, name="a-model", world_size=3) == "tensor"
    assert spread_of({**LLAMA, "model_type": "mistral"}, name="a-model", world_size=3) == "tensor"


def test_ranks_that_do_not_are_refused_with_the_numbers_that_would() -> None:
    message = refusal(LLAMA, 2)
    assert "9 attention heads, which 2 does not divide; the hostfile may name 3 machines" in message
    assert "3 key and value heads, which 9 does not" in refusal(LLAMA, 9)
    odd = {**LLAMA, "num_key_value_heads": None, "num_attention_heads": 7}
    assert "only 1 of its machines" in refusal(odd, 7)


def test_nested_configs_are_read() -> None:
    nested = {"model_type": "step3p5", "text_config": {"num_attention_heads": 4, "linear_num_key_heads": 3}}
    assert "3 key heads of its linear attention" in refusal(nested, 2)


@pytest.mark.parametrize(
    "config",
    [
        {**LLAMA, "model_type": "qwen2", "num_hidden_layers": 24},
        {
            "model_type": "deepseek_v2",
            "num_attention_heads": 16,
            "kv_lora_rank": 512,
            "num_hidden_layers": 27,
        },
        {"model_type": "qwen3_next", "num_attention_heads": 16, "num_hidden_layers": 48},
        {"model_type": "qwen3_5", "text_config": {"num_attention_heads": 4, "linear_num_key_heads": 3}},
    ],
)
def test_layers_are_shared_where_heads_cannot_be(config: dict[str, Any]) -> None:
    assert spread_of(config, name="a-model", world_size=2) == "pipeline"


def test_machines_without_a_layer_are_refused() -> None:
    config = {**LLAMA, "model_type": "qwen2", "num_hidden_layers": 3}
    assert "only 3 layers" in refusal(config, 4)


def test_families_that_cannot_be_split_are_refused() -> None:
    assert "'mamba2'" in refusal({"model_type": "mamba2"}, 2)
    assert "'no_such_family'" in refusal({"model_type": "no_such_family"}, 2)
    assert "latents" in refusal({**LLAMA, "kv_lora_rank": 512}, 3)


def test_one_machine_computes_every_model() -> None:
    assert spread_of({"model_type": "mamba2"}, name="a-model", world_size=1) == "tensor"
