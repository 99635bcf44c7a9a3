"""Agent files made by hand: an exported one with another manifest or other tensors, its checksums right."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from semanticd.adapters.disk.blocks import codec
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.ids import BlockHash

_HEAD = struct.Struct("<16sIIQ")
_FRAME = struct.Struct("<Q")
_DIGEST_BYTES = 32


def forge(
    path: Path,
    edit: Callable[[dict[str, Any]], object] = lambda manifest: None,
    edit_block: Callable[[BlockRecord], BlockRecord] = lambda record: record,
) -> None:
    """Rewrite an exported file with its manifest and blocks as `edit` and `edit_block` leave them."""
    data = path.read_bytes()
    magic, version, num_blocks, manifest_bytes = _HEAD.unpack_from(data)
    at = _HEAD.size + manifest_bytes
    manifest = json.loads(data[_HEAD.size : at])
    frames = b""
    for name in manifest["blocks"]:
        (num_bytes,) = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        record = codec.decode(data[at : at + num_bytes], expected=BlockHash(bytes.fromhex(name)))
        at += num_bytes
        encoded = codec.encode(edit_block(record))
        frames += _FRAME.pack(encoded.num_bytes) + b"".join(bytes(piece) for piece in encoded.pieces)
    assert at == len(data) - _DIGEST_BYTES
    edit(manifest)
    document = json.dumps(manifest, separators=(",", ":")).encode()
    forged = _HEAD.pack(magic, version, num_blocks, len(document)) + document + frames
    path.write_bytes(forged + hashlib.sha256(forged).digest())


def with_zeros(record: BlockRecord) -> BlockRecord:
    """Return a block whose tensors hold nothing but zeros."""
    return replace(
        record, tensors=tuple(replace(one, data=bytes(len(bytes(one.data)))) for one in record.tensors)
    )
