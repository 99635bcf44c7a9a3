"""Blocks for tests: small, and identified by their tokens."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from semanticd.application.ports.warm_store import BlockRecord, TensorBytes
from semanticd.domain.block import Block, BlockKind, hash_block, root_hash
from semanticd.domain.ids import BlockHash, ModelFingerprint

FINGERPRINT = ModelFingerprint("ab" * 32)
LAYOUT = "v1-exact-b4-test"


def root(fingerprint: ModelFingerprint = FINGERPRINT) -> BlockHash:
    """Return the parent of first blocks."""
    return root_hash(fingerprint, LAYOUT)


def make_record(
    token_ids: Sequence[int] = (1, 2, 3, 4),
    *,
    parent: BlockHash | None = None,
    fingerprint: ModelFingerprint = FINGERPRINT,
    num_bytes: int = 256,
    kind: BlockKind = "kv",
) -> BlockRecord:
    """Return a block of two tensors of together `num_bytes` (a multiple of 8) that follow from its name."""
    parent = root(fingerprint) if parent is None else parent
    name = hash_block(fingerprint=fingerprint, layout=LAYOUT, parent=parent, token_ids=token_ids, kind=kind)
    source = random.Random(name)
    half = num_bytes // 2
    tensors = (
        TensorBytes("layers.0.keys", "F32", (half // 4,), source.randbytes(half)),
        TensorBytes("layers.0.values", "BF16", (1, half // 2), source.randbytes(half)),
    )
    block = Block(name, parent, tuple(token_ids), 2 * half, kind)
    return BlockRecord(block=block, fingerprint=fingerprint, layout=LAYOUT, tensors=tensors)


def iter_chain(
    *, start: int = 0, parent: BlockHash | None = None, num_bytes: int = 256
) -> Iterator[BlockRecord]:
    """Yield blocks that follow one another, for ever; other `start`s give other chains."""
    for at in itertools.count():
        tokens = tuple(range(1000 * start + 4 * at, 1000 * start + 4 * at + 4))
        record = make_record(tokens, parent=parent, num_bytes=num_bytes)
        parent = record.block.block_hash
        yield record


def make_chain(
    length: int, *, start: int = 0, parent: BlockHash | None = None, num_bytes: int = 256
) -> list[BlockRecord]:
    """Return the first blocks of a chain."""
    return list(itertools.islice(iter_chain(start=start, parent=parent, num_bytes=num_bytes), length))


def names(records: Sequence[BlockRecord]) -> list[BlockHash]:
    """Return the records' hashes."""
    return [record.block.block_hash for record in records]


def same(a: BlockRecord | None, b: BlockRecord) -> bool:
    """Whether a record read back is the one that was written, byte for byte."""
    return (
        a is not None
        and (a.block, a.fingerprint, a.layout) == (b.block, b.fingerprint, b.layout)
        and [(t.name, t.dtype, t.shape, bytes(t.data)) for t in a.tensors]
        == [(t.name, t.dtype, t.shape, bytes(t.data)) for t in b.tensors]
    )
