"""The block file: one block as a valid safetensors file in which every byte is covered by a checksum.

A pure codec, bytes in and bytes out: it opens nothing and knows no array library. The format is specified in
docs/formats/block-file.md. Rule: whatever bytes are given to `decode`, it returns the block that was asked
for or raises `BrokenBlockError`; it never returns another block's tensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import msgspec
import xxhash

from semanticd.application.ports.warm_store import BlockRecord, TensorBytes
from semanticd.domain.block import Block, BlockKind, hash_block
from semanticd.domain.ids import BlockHash, ModelFingerprint

FORMAT_VERSION = 1
MAX_HEADER_BYTES = 16 * 1024 * 1024
DATA_ALIGNMENT = 64
"""Tensor data starts at a multiple of this many bytes, so that it can be mapped or copied in whole words."""

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip

# The checksum stands at a fixed place, so it can be blanked for its own computation without parsing anything.
_HEADER_START = b'{"__metadata__":{"checksum":"'
_CHECKSUM_AT = 8 + len(_HEADER_START)
_CHECKSUM_CHARS = 32
_BLANK = b"0" * _CHECKSUM_CHARS


class BrokenBlockError(Exception):
    """The bytes are not the requested block; the message names the difference."""


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """A block file in pieces, to be written one after the other without joining them."""

    pieces: tuple[bytes | memoryview, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """Byte range of a tensor; offsets count from the start of the data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """Everything a block file says before its tensors; the block's name has been recomputed and agrees."""

    block: Block
    fingerprint: ModelFingerprint
    layout: str
    checksum: str
    spans: tuple[TensorSpan, ...]
    data_offset: int
    """Bytes before the data section."""

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return self.data_offset + self.block.num_bytes


def encode(record: BlockRecord) -> EncodedBlock:
    """Return the file of a block.

    Raises:
        ValueError: A tensor's bytes do not fit its shape and dtype.
    """
    block = record.block
    views = [_flat(tensor.data) for tensor in record.tensors]
    entries: dict[str, Any] = {}
    position = 0
    for tensor, view in zip(record.tensors, views, strict=True):
        if tensor.name in entries or tensor.name == "__metadata__":
            raise ValueError(
                f"cannot encode block {block.block_hash.hex()}: two tensors named {tensor.name!r}"
            )
        if len(view) != prod(tensor.shape) * ITEM_BYTES.get(tensor.dtype, -1):
            raise ValueError(
                f"cannot encode block {block.block_hash.hex()}: tensor {tensor.name!r} has {len(view)} "
                f"bytes, which is not {tensor.dtype} of shape {tensor.shape}"
            )
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + len(view)],
        }
        position += len(view)
    metadata = {
        "checksum": _BLANK.decode(),
        "format": "semanticd.block",
        "version": str(FORMAT_VERSION),
        "fingerprint": record.fingerprint,
        "layout": record.layout,
        "kind": block.kind,
        "parent": block.parent.hex(),
        "token_ids": " ".join(map(str, block.token_ids)),
    }
    header = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % DATA_ALIGNMENT)
    head = bytearray(struct.pack("<Q", len(header)) + header)
    digest = _digest([head, *views])
    head[_CHECKSUM_AT : _CHECKSUM_AT + _CHECKSUM_CHARS] = digest
    return EncodedBlock((bytes(head), *views), len(head) + position)


def decode(data: bytes | memoryview, *, expected: BlockHash) -> BlockRecord:
    """Return the block held by a file's bytes; its tensors are views into `data` (nothing is copied).

    Raises:
        BrokenBlockError: The block's recomputed name is not `expected`, or a byte differs from what was written.
    """
    view = memoryview(data).cast("B")
    header = decode_header(view, file_bytes=len(view), expected=expected)
    checksum = bytes(view[_CHECKSUM_AT : _CHECKSUM_AT + _CHECKSUM_CHARS])
    after = view[_CHECKSUM_AT + _CHECKSUM_CHARS :]
    digest = _digest([view[:_CHECKSUM_AT], _BLANK, after])
    if digest != checksum:
        raise BrokenBlockError(
            f"the checksum is {checksum.decode('latin-1')}, the bytes give {digest.decode()}"
        )
    body = view[header.data_offset :].toreadonly()
    tensors = tuple(
        TensorBytes(name=s.name, dtype=s.dtype, shape=s.shape, data=body[s.start : s.end])
        for s in header.spans
    )
    return BlockRecord(
        block=header.block, fingerprint=header.fingerprint, layout=header.layout, tensors=tensors
    )


def decode_foreign(data: bytes, expected: BlockHash) -> BlockRecord | None:
    """Return the block held by bytes from another machine; None unless they are wholly that block."""
    try:
        return decode(data, expected=expected)
    except BrokenBlockError:
        return None


def header_bytes(start: bytes | memoryview) -> int:
    """Return how many bytes precede the tensors, from a file's first 8.

    Raises:
        BrokenBlockError: The length is missing or too large.
    """
    if len(start) < 8:
        raise BrokenBlockError(f"the file ends after {len(start)} bytes, in the header's length")
    (length,) = struct.unpack_from("<Q", start)
    if length > MAX_HEADER_BYTES:
        raise BrokenBlockError(f"the header claims {length} bytes, more than {MAX_HEADER_BYTES}")
    return 8 + cast("int", length)


def decode_header(start: bytes | memoryview, *, file_bytes: int, expected: BlockHash) -> BlockHeader:
    """Read the header from a file's first bytes and check it against its name and the file's size.

    This proves which tokens, parent and model the file is for; that the tensors are whole is `decode`'s to
    check.

    Raises:
        BrokenBlockError: The header is not that of the named block, or does not fit the file's size.
    """
    end = header_bytes(start)
    if len(start) < end:
        raise BrokenBlockError(f"the file ends after {len(start)} bytes, in a header of {end}")
    text = bytes(start[8:end])
    if not text.startswith(_HEADER_START):
        raise BrokenBlockError("the header is not that of a block file")
    try:
        header = _parse_header(text, data_offset=end)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
        struct.error,
        msgspec.ValidationError,
    ) as error:
        raise BrokenBlockError(f"the header cannot be read: {error!r}") from error
    if header.file_bytes != file_bytes:
        raise BrokenBlockError(f"the file has {file_bytes} bytes, its header describes {header.file_bytes}")
    if header.block.block_hash != expected:
        raise BrokenBlockError(f"the content is that of block {header.block.block_hash.hex()}")
    return header


def _parse_header(text: bytes, *, data_offset: int) -> BlockHeader:
    entries = json.loads(text)
    metadata = msgspec.convert(entries.pop("__metadata__"), dict[str, str])
    if metadata["format"] != "semanticd.block" or metadata["version"] != str(FORMAT_VERSION):
        raise ValueError(f"format {metadata['format']} version {metadata['version']} is not known")
    kind = metadata["kind"]
    if kind not in ("kv", "state"):
        raise ValueError(f"kind {kind!r} is not known")
    fingerprint = ModelFingerprint(metadata["fingerprint"])
    parent = BlockHash(bytes.fromhex(metadata["parent"]))
    token_ids = tuple(map(int, metadata["token_ids"].split()))
    if " ".join(map(str, token_ids)) != metadata["token_ids"]:
        raise ValueError("the token ids are not in canonical form")
    spans = tuple(_parse_span(name, entry) for name, entry in entries.items())
    num_bytes = _contiguous_bytes(spans)
    block_hash = hash_block(
        fingerprint=fingerprint,
        layout=metadata["layout"],
        parent=parent,
        token_ids=token_ids,
        kind=cast("BlockKind", kind),
    )
    block = Block(block_hash, parent, token_ids, num_bytes, cast("BlockKind", kind))
    return BlockHeader(
        block=block,
        fingerprint=fingerprint,
        layout=metadata["layout"],
        checksum=metadata["checksum"],
        spans=spans,
        data_offset=data_offset,
    )


def _parse_span(name: str, entry: dict[str, Any]) -> TensorSpan:
    shape = msgspec.convert(entry["shape"], tuple[int, ...])
    start, end = msgspec.convert(entry["data_offsets"], tuple[int, int])
    if min(shape, default=0) < 0 or end - start != prod(shape) * ITEM_BYTES[entry["dtype"]]:
        raise ValueError(f"tensor {name!r} does not fit its shape")
    return TensorSpan(name=name, dtype=entry["dtype"], shape=shape, start=start, end=end)


def _contiguous_bytes(spans: Sequence[TensorSpan]) -> int:
    position = 0
    for span in spans:
        if span.start != position:
            raise ValueError(f"tensor {span.name!r} begins at {span.start} and not at {position}")
        position = span.end
    return position


def _flat(data: bytes | memoryview) -> memoryview:
    view = memoryview(data)
    return (
        view.cast("B") if view.nbytes else memoryview(b"")
    )  # an empty view of several dimensions has no cast


def _digest(pieces: Iterable[bytes | bytearray | memoryview]) -> bytes:
    # xxhash lets go of the interpreter lock while it reads a large piece.
    digest = xxhash.xxh3_128()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest().encode()
