"""Blocks cost one evaluation each way, and their bytes are views that nothing changes afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from semanticd.adapters.disk.blocks.codec import decode
from semanticd.adapters.mlx.model.kv_codec import KvCodec, KvPayload
from semanticd.adapters.mlx.model.runner import MlxModelRunner
from semanticd.application.ports.inference import PrefixPart
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import BlockHash, ModelFingerprint, SequenceId
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


@pytest.mark.parametrize("precision", get_args(StoragePrecision))
def test_all_blocks_of_a_chunk_are_one_evaluation(
    precision: StoragePrecision, monkeypatch: pytest.MonkeyPatch
) -> None:
    # bfloat16 takes the way of a GPU: nothing is copied by numpy.
    runner = prefilled(precision, mx.bfloat16)
    with watched(monkeypatch) as device:
        blocks = runner.copy_blocks(UID, SPANS)
    assert device.seen["wait"] == 1
    assert len(blocks) == 3


@pytest.mark.parametrize("precision", get_args(StoragePrecision))
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


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_what_was_read_is_copied_once_into_the_running_cache(dtype: mx.Dtype) -> None:
    runner = prefilled(dtype=dtype)
    (block,) = runner.copy_blocks(UID, [(0, 32)])
    # As they are in a file: bytes that nothing else holds.
    read = [replace(record, data=bytes(record.data)) for record in runner.dump(block)]
    again = runner.restore(read)
    assert isinstance(again, KvPayload)
    files = [np.frombuffer(record.data, np.uint8) for record in read]
    kept = [name for name, one in again.tensors.items() if any(shares_memory(one, file) for file in files)]
    is_numpys = mx.default_device() == mx.Device(mx.cpu) and dtype != mx.bfloat16
    assert kept == ([record.name for record in read] if is_numpys else [])
    assert again.num_bytes == sum(len(record.data) for record in read)
    assert runner.dump(again) == tuple(read)
    for number, payload in enumerate((block, again), start=2):
        runner.open(SequenceId(number), prefix=[PrefixPart(payload, 29)], state=None, capacity_tokens=64)
        runner.append(SequenceId(number), PrefixPart(payload, 5))
    one, other = (runner.copy_blocks(SequenceId(number), [(0, 34)])[0] for number in (2, 3))
    assert runner.dump(one) == runner.dump(other)


def shares_memory(tensor: object, file: np.ndarray[Any, Any]) -> bool:
    return isinstance(tensor, np.ndarray) and np.shares_memory(tensor, file)


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


OLD_NAME = BlockHash(bytes.fromhex("b13537b8f3819653fda6ae51aaf46d77bdfe187b58d8edb78ed28b376fe82a23"))
OLD_BLOCK = Path(__file__).resolve().parents[4] / "data" / "disk" / "block-q4-v1.safetensors"


@pytest.mark.parametrize("precision", get_args(StoragePrecision))
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "deepseek_v2"])
def test_blocks_take_what_the_layout_says_and_come_back_from_bytes(
    family: str, precision: StoragePrecision
) -> None:
    model: Any = build(family)
    runner = MlxModelRunner(
        model, fingerprint=ModelFingerprint("00" * 32), block_tokens=80, precision=precision
    )
    prompt = prompt_of(200, 5)
    runner.open(UID, prefix=(), state=None, capacity_tokens=256)
    runner.prefill(UID, prompt)
    spans = [(0, 80), (80, 160), (160, 200)]
    blocks = runner.copy_blocks(UID, spans)
    for block, (start, end) in zip(blocks, spans, strict=True):
        assert block.num_bytes == runner.spec.stored_bytes(end - start, begins=not start)
    again = [runner.restore(runner.dump(block)) for block in blocks]
    state = runner.copy_state(UID)
    for number, parts in enumerate((blocks, again), start=2):
        prefix = [PrefixPart(part, end - start) for part, (start, end) in zip(parts, spans, strict=True)]
        runner.open(SequenceId(number), prefix=prefix, state=state, capacity_tokens=256)
    hot, warm = (runner.copy_blocks(SequenceId(number), [(0, 200)])[0] for number in (2, 3))
    assert isinstance(hot, KvPayload)
    assert isinstance(warm, KvPayload)
    assert hot.tensors.keys() == warm.tensors.keys()
    for name, tensor in hot.tensors.items():
        assert mx.array_equal(tensor, warm.tensors[name])


@pytest.mark.parametrize("precision", ["q8", "q6", "q4"])
def test_a_block_is_used_up_to_any_token(precision: StoragePrecision) -> None:
    runner = prefilled(precision)
    runner.prefill(UID, prompt_of(120, 6))
    (block,) = runner.copy_blocks(UID, [(0, 150)])
    probed = make_prompt_cache(runner.model)
    mx.eval(runner.model(mx.array([[0]]), cache=probed))
    codec = KvCodec(probed, precision=precision)

    def decoded(num_tokens: int) -> list[mx.array]:
        """Return what a running cache holds of the block's first tokens."""
        caches = codec.assemble(
            make_prompt_cache(runner.model),
            prefix=[PrefixPart(block, num_tokens)],
            state=None,
            capacity=256,
        )
        return [array[:, :, :num_tokens] for leaf in caches for array in leaf.state]

    whole = decoded(150)
    for used in (1, 63, 64, 65, 149):
        for array, first in zip(decoded(used), whole, strict=True):
            assert mx.array_equal(array, first[:, :, :used])


def test_a_block_of_the_old_four_bits_is_refused_and_not_misread() -> None:
    # Written by the code of 519bb42 with the same model: q4 was affine, by token, of unrotated numbers.
    record = decode(OLD_BLOCK.read_bytes(), expected=OLD_NAME)
    runner = prefilled("q4")
    assert record.layout.startswith("v1-q4-b16-")
    assert runner.spec.layout.startswith("v2-q4-b16-")
    with pytest.raises(CacheError, match=r"cannot restore g0\.k: expected .* found q \(3, 2, 16, 4\)"):
        runner.restore(record.tensors)
