"""What all ranks together have room for."""

from __future__ import annotations

from typing import Any

from semanticd.adapters.ranks.loader import kv_room_bytes
from semanticd.adapters.ranks.wire import spec_out
from semanticd.domain.ids import ModelFingerprint
from semanticd.domain.model_cache_spec import LayerSpec, ModelCacheSpec


def loaded(budget_bytes: int, *, num_layers: int) -> dict[str, Any]:
    """Return what a rank answers that holds so many layers."""
    spec = ModelCacheSpec(
        fingerprint=ModelFingerprint("f" * 64),
        layers=(LayerSpec("attention", "2x8+8", bytes_per_token=100),) * num_layers,
        block_tokens=16,
        precision="exact",
        running_bytes_per_token=100 * num_layers,
    )
    return {"spec": spec_out(spec), "kv_budget_bytes": budget_bytes}


def test_the_machine_with_the_least_room_decides() -> None:
    assert kv_room_bytes([loaded(9_000, num_layers=2)]) == 9_000
    assert kv_room_bytes([loaded(9_000, num_layers=2), loaded(4_000, num_layers=2)]) == 4_000


def test_room_is_counted_in_what_each_machine_stores_of_a_token() -> None:
    # The other one holds half as many layers, so that a token costs it half.
    assert kv_room_bytes([loaded(9_000, num_layers=4), loaded(4_000, num_layers=2)]) == 8_000
    assert kv_room_bytes([loaded(9_000, num_layers=2), loaded(4_000, num_layers=4)]) == 2_000
