"""Blocks cost one evaluation each way, and their bytes are views that nothing changes afterwards."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from semanticd.adapters.mlx.model.kv_codec import KvPayload
from semanticd.adapters.mlx.model.runner import MlxModelRunner
from semanticd.application.ports.inference import PrefixPart
from semanticd.domain.ids import ModelFingerprint, SequenceId
from semanticd.domain.model_cache_spec import StoragePrecision
from tests.fakes.mlx_device import watched
from tests.fakes.mlx_rig import prompt_of
from tests.fakes.tiny_mlx import build

PROMPT = prompt_of(64, 3)
UID, OTHER = SequenceId(1), SequenceId(2)


def prefilled(precision: StoragePrecision = "exact", dtype: mx.Dtype = mx.float32) -> MlxModelRunner:
    model = build("llama")
    model.set_dtype(dtype)
    runner = MlxModelRunner(
        model, fingerprint=ModelFingerprint("00" * 32), block_tokens=16, precision=precision
    )
    runner.open(UID, prefix=(), state=None, capacity_tokens=256)
    runner.prefill(UID, PROMPT[:48])
    return runner


SPANS = [(0, 16), (16, 32), (32, 48)]


@pytest.mark.parametrize("precision", ["exact", "q8"])
def test_all_blocks_of_a_chunk_are_one_evaluation(
    precision: StoragePrecision, monkeypatch: pytest.MonkeyPatch
) -> None:
    # bfloat16 takes the way of a GPU: nothing is copied by numpy.
    runner = prefilled(precision, mx.bfloat16)
    with watched(monkeypatch) as device:
        blocks = runner.copy_blocks(UID, SPANS)
    assert device.seen["wait"] == 1
    assert len(blocks) == 3


@pytest.mark.parametrize("precision", ["exact", "q8"])
def test_a_block_is_appended_in_one_evaluation(
    precision: StoragePrecision, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = prefilled(precision, mx.bfloat16)
    blocks = runner.copy_blocks(UID, SPANS)
    runner.open(OTHER, prefix=(PrefixPart(blocks[0], 16),), state=None, capacity_tokens=256)
    with watched(monkeypatch) as device:
        runner.append(OTHER, PrefixPart(blocks[1], 16))
    assert device.seen["wait"] == 1
    runner.append(OTHER, PrefixPart(blocks[2], 16))
    (copied,) = runner.copy_blocks(OTHER, [(16, 48)])
    for name, tensor in copied.tensors.items():  # type: ignore[attr-defined]
        parts = [block.tensors[name] for block in blocks[1:]]  # type: ignore[attr-defined]
        if precision == "exact":
            assert mx.array_equal(tensor, mx.concatenate(parts, axis=2))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_a_blocks_bytes_are_a_view_that_stays_what_it_was(dtype: mx.Dtype) -> None:
    runner = prefilled(dtype=dtype)
    (block,) = runner.copy_blocks(UID, [(0, 16)])
    assert isinstance(block, KvPayload)
    records = runner.dump(block)
    before = [bytes(record.data) for record in records]
    for record in records:
        assert isinstance(record.data, memoryview)
        assert record.data.readonly
        tensor = block.tensors[record.name]
        bits = tensor.view(mx.uint16) if dtype == mx.bfloat16 else tensor
        assert np.shares_memory(np.asarray(record.data), np.array(bits, copy=False))
    again = runner.restore(records)
    del block
    runner.prefill(UID, PROMPT[48:])
    runner.close(UID)
    runner.release()
    mx.clear_cache()
    assert [bytes(record.data) for record in records] == before
    assert [bytes(record.data) for record in runner.dump(again)] == before


def test_bytes_of_a_snapshot_stay_what_they_were_while_its_sequence_goes_on() -> None:
    model = build("gemma3_text")
    runner = MlxModelRunner(model, fingerprint=ModelFingerprint("00" * 32), block_tokens=16)
    runner.open(UID, prefix=(), state=None, capacity_tokens=256)
    runner.prefill(UID, PROMPT[:20])
    state = runner.copy_state(UID)
    assert state is not None
    records = runner.dump(state)
    before = [bytes(record.data) for record in records]
    for start in range(20, 60, 5):
        runner.prefill(UID, PROMPT[start : start + 5])
    assert [bytes(record.data) for record in records] == before
