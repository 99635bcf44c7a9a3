"""On a card of its own memory blocks stay there: the CPU looks at copies only, and what it brings is copied again.

No card is here: MLX computes on the CPU, and is taken for a card.
"""

from __future__ import annotations

from typing import Any, get_args

import mlx.core as mx
import numpy as np
import pytest

from semanticd.adapters.mlx.model.kv_codec import KvPayload
from semanticd.adapters.mlx.model.payload_bytes import payload_bytes
from semanticd.adapters.mlx.model.runner import MlxModelRunner
from semanticd.application.ports.warm_store import TensorBytes
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import ModelFingerprint, SequenceId
from semanticd.domain.memory_plan import DeviceKind
from semanticd.domain.model_cache_spec import StoragePrecision
from tests.fakes.mlx_rig import CardRunner, prompt_of
from tests.fakes.tiny_mlx import BUILDERS, build

PROMPT = prompt_of(64, 3)
UID = SequenceId(1)


def prefilled(
    family: str = "llama",
    *,
    runner_class: type[MlxModelRunner] = CardRunner,
    precision: StoragePrecision = "exact",
    dtype: mx.Dtype = mx.float32,
) -> MlxModelRunner:
    model: Any = build(family)
    model.set_dtype(dtype)
    runner = runner_class(
        model, fingerprint=ModelFingerprint("00" * 32), block_tokens=16, precision=precision
    )
    runner.open(UID, prefix=(), state=None, capacity_tokens=256)
    runner.prefill(UID, PROMPT[:48])
    return runner


def address(tensor: mx.array) -> int:
    bits = tensor.view(mx.uint16) if tensor.dtype == mx.bfloat16 else tensor
    view: Any = np.array(bits, copy=False)
    return int(view.__array_interface__["data"][0])


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_what_is_written_of_a_card_is_a_copy(dtype: mx.Dtype) -> None:
    runner = prefilled(dtype=dtype)
    (block,) = runner.copy_blocks(UID, [(0, 16)])
    assert isinstance(block, KvPayload)
    before = {name: address(tensor) for name, tensor in block.tensors.items()}
    for record in runner.dump(block):
        tensor = block.tensors[record.name]
        bits = tensor.view(mx.uint16) if dtype == mx.bfloat16 else tensor
        assert not np.shares_memory(np.asarray(record.data), np.array(bits, copy=False))
        assert bytes(record.data) == np.array(bits).tobytes()
    assert {name: address(tensor) for name, tensor in block.tensors.items()} == before


def test_what_is_read_takes_memory_of_its_own_and_no_more() -> None:
    runner = prefilled()
    (block,) = runner.copy_blocks(UID, [(0, 16)])
    records = [TensorBytes(one.name, one.dtype, one.shape, bytes(one.data)) for one in runner.dump(block)]
    mx.clear_cache()
    before = mx.get_active_memory()
    restored = runner.restore(records)
    # A part of what was brought in would keep all of that, which is longer by 64 KiB.
    assert mx.get_active_memory() - before < restored.num_bytes + (32 << 10)


@pytest.mark.parametrize("precision", get_args(StoragePrecision))
@pytest.mark.parametrize("family", sorted(BUILDERS))
def test_bytes_are_the_same_wherever_they_were_computed(family: str, precision: StoragePrecision) -> None:
    runner = prefilled(family, runner_class=MlxModelRunner, precision=precision)
    payloads = [*runner.copy_blocks(UID, [(0, 16), (16, 48)]), runner.copy_state(UID)]
    shared, card = payload_bytes("metal"), payload_bytes("cuda")
    for payload in payloads:
        if payload is None:
            continue
        assert isinstance(payload, KvPayload)
        expected = shared.dump(payload.tensors)
        assert card.dump(payload.tensors) == expected
        for restored in (card.restore(expected), shared.restore(card.dump(payload.tensors))):
            assert restored.keys() == payload.tensors.keys()
            for name, tensor in payload.tensors.items():
                assert restored[name].dtype == tensor.dtype
                assert mx.array_equal(restored[name], tensor)


@pytest.mark.parametrize("kind", get_args(DeviceKind))
def test_a_tensor_of_an_unknown_type_is_refused(kind: DeviceKind) -> None:
    with pytest.raises(CacheError, match="unknown type F8"):
        payload_bytes(kind).restore([TensorBytes("g0.k", "F8", (1, 4), b"\0" * 4)])


@pytest.mark.parametrize("kind", get_args(DeviceKind))
@pytest.mark.parametrize("size", [0, 1, 2])
def test_tensors_of_hardly_any_numbers_come_back_too(kind: DeviceKind, size: int) -> None:
    tensors = {"one": mx.arange(size, dtype=mx.int64), "two": mx.ones((3, 2), mx.bfloat16)}
    way = payload_bytes(kind)
    restored = way.restore(way.dump(tensors))
    assert all(mx.array_equal(restored[name], tensor) for name, tensor in tensors.items())
