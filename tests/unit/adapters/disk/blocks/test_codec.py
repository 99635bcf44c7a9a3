"""The block file's codec: what was written comes back, anything else is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semanticd.adapters.disk.blocks.codec import (
    DATA_ALIGNMENT,
    BrokenBlockError,
    decode,
    decode_header,
    encode,
)
from semanticd.application.ports.warm_store import BlockRecord, TensorBytes
from semanticd.domain.block import Block, hash_block
from semanticd.domain.ids import BlockHash, ModelFingerprint
from tests.fakes.blocks import FINGERPRINT, LAYOUT, make_record, names, root, same

FIXTURE = Path(__file__).resolve().parents[4] / "data" / "disk" / "block-v1.safetensors"


def file_of(record: BlockRecord) -> bytes:
    return b"".join(encode(record).pieces)


def test_a_record_survives_the_file() -> None:
    record = make_record(range(256), num_bytes=4096)
    data = file_of(record)
    assert len(data) == encode(record).num_bytes
    assert same(decode(data, expected=record.block.block_hash), record)


def test_the_file_is_valid_safetensors() -> None:
    record = make_record((1, 2, 3))
    data = file_of(record)
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert all(isinstance(value, str) for value in metadata.values())
    assert metadata["token_ids"] == "1 2 3"
    assert (8 + length) % DATA_ALIGNMENT == 0
    assert [entry["data_offsets"] for entry in header.values()] == [[0, 128], [128, 256]]
    assert len(data) == 8 + length + 256


def test_the_official_reader_agrees(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    tensor = TensorBytes("k", "F32", (2, 3), struct.pack("<6f", *range(6)))
    name = hash_block(fingerprint=FINGERPRINT, layout=LAYOUT, parent=root(), token_ids=(1,))
    record = BlockRecord(Block(name, root(), (1,), 24), FINGERPRINT, LAYOUT, (tensor,))
    assert safetensors.load(file_of(record))["k"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_every_flipped_bit_is_noticed() -> None:
    record = make_record((1, 2, 3, 4), num_bytes=64)
    data = bytearray(file_of(record))
    expected = record.block.block_hash
    for position in range(len(data)):
        for bit in range(8):
            data[position] ^= 1 << bit
            with pytest.raises(BrokenBlockError):
                decode(data, expected=expected)
            data[position] ^= 1 << bit
    assert same(decode(data, expected=expected), record)


def test_every_truncation_and_any_growth_is_noticed() -> None:
    record = make_record((1, 2), num_bytes=64)
    data = file_of(record)
    for length in range(len(data)):
        with pytest.raises(BrokenBlockError):
            decode(data[:length], expected=record.block.block_hash)
    with pytest.raises(BrokenBlockError):
        decode(data + b"\0", expected=record.block.block_hash)


def test_another_block_under_this_name_is_noticed() -> None:
    one, other = make_record((1,)), make_record((2,))
    with pytest.raises(BrokenBlockError, match="content is that of block"):
        decode(file_of(other), expected=one.block.block_hash)


@pytest.mark.parametrize("field", ["fingerprint", "layout", "parent", "token_ids", "kind"])
def test_each_part_of_the_name_is_checked_without_reading_the_tensors(field: str) -> None:
    record = make_record((1, 2))
    changed = {
        "fingerprint": ("ab" * 32, "cd" * 32),
        "layout": (LAYOUT, LAYOUT[:-1] + "x"),
        "parent": (root().hex(), "00" * 32),
        "token_ids": ('"1 2"', '"1 3"'),
        "kind": ('"kind":"kv"', '"kind":"k "'),
    }[field]
    data = file_of(record).replace(changed[0].encode(), changed[1].encode())
    assert data != file_of(record)
    with pytest.raises(BrokenBlockError):
        decode_header(data, file_bytes=len(data), expected=record.block.block_hash)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("__metadata__", "token_ids"), "+1 2 3"),
        (("__metadata__", "token_ids"), "1 2  3"),
        (("__metadata__", "token_ids"), "1 2 0_3"),
        (("__metadata__", "token_ids"), "1 2 \N{ARABIC-INDIC DIGIT THREE}"),
        (("__metadata__", "more"), None),
        (("k", "shape", 0), "1"),
        (("k", "shape", 0), True),
        (("k", "shape", 0), 1.5),
        (("k", "shape"), "1"),
        (("k", "data_offsets", 0), 0.0),
        (("k", "data_offsets", 0), False),
        (("k", "data_offsets"), {"0": 0, "1": 4}),
    ],
)
def test_no_field_of_the_header_takes_a_value_of_another_type_or_spelling(
    path: tuple[str | int, ...], wrong: object
) -> None:
    tensor = TensorBytes("k", "F32", (1,), bytes(4))
    name = hash_block(fingerprint=FINGERPRINT, layout=LAYOUT, parent=root(), token_ids=(1, 2, 3))
    data = file_of(BlockRecord(Block(name, root(), (1, 2, 3), 4), FINGERPRINT, LAYOUT, (tensor,)))
    header = json.loads(data[8:-4])
    place: Any = header
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = wrong
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    made = struct.pack("<Q", len(text)) + text + data[-4:]
    with pytest.raises(BrokenBlockError, match="the header cannot be read"):
        decode_header(made, file_bytes=len(made), expected=name)


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_garbage_is_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(BrokenBlockError):
        decode(data, expected=BlockHash(b"\0" * 32))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda x: st.lists(x) | st.dictionaries(st.text(max_size=5), x),
        max_leaves=8,
    )
)
def test_any_json_in_the_header_is_refused_and_nothing_else_happens(value: object) -> None:
    header = (
        b'{"__metadata__":{"checksum":"' + b"0" * 32 + b'","format":' + json.dumps(value).encode() + b"}}"
    )
    with pytest.raises(BrokenBlockError):
        decode(struct.pack("<Q", len(header)) + header, expected=BlockHash(b"\0" * 32))


@given(
    tokens=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20),
    layout=st.text(max_size=10),
    name=st.text(min_size=1, max_size=10).filter(lambda n: n != "__metadata__"),
    data=st.binary(max_size=64),
    kind=st.sampled_from(["kv", "state"]),
)
def test_any_record_survives_the_file(
    tokens: list[int], layout: str, name: str, data: bytes, kind: str
) -> None:
    fingerprint = ModelFingerprint("f0")
    digest = hash_block(fingerprint=fingerprint, layout=layout, parent=root(), token_ids=tokens, kind=kind)  # type: ignore[arg-type]
    block = Block(digest, root(), tuple(tokens), len(data), kind)  # type: ignore[arg-type]
    record = BlockRecord(block, fingerprint, layout, (TensorBytes(name, "U8", (len(data),), data),))
    assert same(decode(file_of(record), expected=digest), record)


def test_tensors_are_views_of_the_bytes_that_were_read() -> None:
    record = make_record()
    data = file_of(record)
    for tensor in decode(data, expected=record.block.block_hash).tensors:
        assert isinstance(tensor.data, memoryview)
        assert tensor.data.obj is data
        assert tensor.data.readonly


def test_tensors_may_be_views_of_any_shape_and_empty() -> None:
    name = hash_block(fingerprint=FINGERPRINT, layout=LAYOUT, parent=root(), token_ids=(1,))
    numbers = memoryview(bytes(range(48))).cast("H").cast("B").cast("H", (2, 3, 4))
    tensors = (
        TensorBytes("k", "BF16", (2, 3, 4), numbers),
        TensorBytes("none", "F32", (0, 4), memoryview(b"").cast("f")),
    )
    record = BlockRecord(Block(name, root(), (1,), 48), FINGERPRINT, LAYOUT, tensors)
    read = decode(file_of(record), expected=name)
    assert [bytes(tensor.data) for tensor in read.tensors] == [bytes(range(48)), b""]


def test_a_tensor_that_does_not_fit_its_shape_is_not_written() -> None:
    record = make_record()
    wrong = TensorBytes("k", "F32", (3,), b"\0" * 8)
    with pytest.raises(ValueError, match="not F32 of shape"):
        encode(BlockRecord(record.block, record.fingerprint, record.layout, (wrong,)))


def test_a_file_of_format_1_still_loads() -> None:
    record = make_record((11, 12, 13), num_bytes=64)
    assert same(decode(FIXTURE.read_bytes(), expected=names([record])[0]), record)
