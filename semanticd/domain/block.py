"""A block: the KV of a run of tokens in all layers, named by its content and everything before it.

The name (block hash) is SHA-256 over the model's fingerprint, the storage layout, the parent's hash and the token
ids, so equal prefixes of equal models have equal names wherever they were computed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from semanticd.domain.ids import BlockHash, ModelFingerprint

BlockKind = Literal["kv", "state"]
"""`kv`: keys and values of `token_ids`. `state`: a snapshot of the layers that cannot be cut by position
(sliding window, recurrent), taken right after its parent block's last token; it holds no tokens of its own."""
LostFile = Literal["missing", "damaged", "pruned"]
"""Loss of a block's file: it is missing, damaged, or was removed to make room or by request."""


def root_hash(fingerprint: ModelFingerprint, layout: str, *, salt: str = "") -> BlockHash:
    """Return the parent of every first block of this model in this layout (32 bytes).

    With a `salt` it is a root that only those who know the salt share: no block below it has a name that others make.
    """
    private = f"\0{salt}" if salt else ""
    return BlockHash(hashlib.sha256(f"semanticd.root\0{fingerprint}\0{layout}{private}".encode()).digest())


def pack_token_ids(token_ids: Sequence[int]) -> bytes:
    """Return token ids as little-endian int32, the form that is hashed and stored."""
    return struct.pack(f"<{len(token_ids)}i", *token_ids)


def unpack_token_ids(data: bytes) -> tuple[int, ...]:
    """Undo `pack_token_ids`.

    Raises:
        struct.error: The length is not a multiple of four.
    """
    return struct.unpack(f"<{len(data) // 4}i", data)


def hash_block(
    *,
    fingerprint: ModelFingerprint,
    layout: str,
    parent: BlockHash,
    token_ids: Sequence[int],
    kind: BlockKind = "kv",
) -> BlockHash:
    """Name a block (32 bytes). Full and tail blocks are named alike; their lengths differ."""
    digest = hashlib.sha256(f"semanticd.{kind}\0{fingerprint}\0{layout}\0".encode())
    digest.update(parent)
    digest.update(pack_token_ids(token_ids))
    return BlockHash(digest.digest())


@dataclass(frozen=True, slots=True)
class Block:
    """The metadata of a block, without its tensors."""

    block_hash: BlockHash
    parent: BlockHash
    token_ids: tuple[int, ...]
    num_bytes: int
    """Bytes of its tensors in storage precision."""
    kind: BlockKind = "kv"

    @property
    def num_tokens(self) -> int:
        """Tokens whose keys and values it holds."""
        return len(self.token_ids)
