"""The layout of one model's KV cache: which layers can be cut, the bytes of a token, the name of the layout."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from semanticd.domain.block import hash_block, root_hash
from semanticd.domain.block_chain import BlockChain
from semanticd.domain.chunk_policy import ChunkTraits
from semanticd.domain.ids import BlockHash, ModelFingerprint

StoragePrecision = Literal["exact", "q8", "q6", "q4"]

_REVISIONS: dict[StoragePrecision, int] = {"exact": 1, "q8": 2, "q6": 2, "q4": 2}
"""Of the form in which each is stored. A block of another revision has another name: it is never asked for, and leaves
the disk as one that was not used for longest."""

LayerKind = Literal["attention", "sliding", "chunked", "state"]
"""`attention` keeps every position and can be cut anywhere; the others are kept as state snapshots."""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer's cache: its kind, a name for its exact shape, and its cost.

    `bytes_per_token` counts stored bytes per position for an attention layer, 0 for the others, and
    `first_token_bytes` what the block that begins a sequence takes in addition;
    `state_bytes` counts a snapshot's bytes for the others (an upper bound for windows), 0 for attention.
    """

    kind: LayerKind
    shape: str
    bytes_per_token: int = 0
    state_bytes: int = 0
    first_token_bytes: int = 0


@dataclass(frozen=True)
class ModelCacheSpec:
    """The cache layout of one loaded model; what it comes to over all layers is added up once."""

    fingerprint: ModelFingerprint
    layers: tuple[LayerSpec, ...]
    block_tokens: int
    precision: StoragePrecision
    running_bytes_per_token: int
    """Bytes per position in a running batch (the model's own dtype)."""
    compute_revision: str = ""
    """Short name of the software and the kind of chip that compute the KV: other ones round otherwise."""
    chunks: ChunkTraits = field(default_factory=ChunkTraits)
    """Effect of the prefill chunk length on the model's speed."""

    @property
    def layout(self) -> str:
        """Short stable name of everything that decides how stored bytes are read."""
        text = "|".join(f"{layer.kind}:{layer.shape}" for layer in self.layers)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        parts = [
            f"v{_REVISIONS[self.precision]}-{self.precision}-b{self.block_tokens}-{digest}",
            self.compute_revision,
        ]
        return "-".join(part for part in parts if part)

    @property
    def root(self) -> BlockHash:
        """The parent of every first block."""
        return root_hash(self.fingerprint, self.layout)

    def root_of(self, salt: str) -> BlockHash:
        """The parent of every first block of agents with this salt; without one, of all others."""
        return root_hash(self.fingerprint, self.layout, salt=salt)

    def chain(self, token_ids: Sequence[int], *, root: BlockHash | None = None) -> BlockChain:
        """Return the names of the full blocks of these tokens, below `root` (None: the root that all share).

        About 8 microseconds a block: not on the engine thread.
        """
        fingerprint, layout = self.fingerprint, self.layout
        root = root or self.root
        hashes: list[BlockHash] = []
        for end in range(self.block_tokens, len(token_ids) + 1, self.block_tokens):
            hashes.append(
                hash_block(
                    fingerprint=fingerprint,
                    layout=layout,
                    parent=hashes[-1] if hashes else root,
                    token_ids=token_ids[end - self.block_tokens : end],
                )
            )
        return BlockChain(root, self.block_tokens, tuple(hashes))

    @cached_property
    def bytes_per_token(self) -> int:
        """Stored bytes per token over all attention layers."""
        return sum(layer.bytes_per_token for layer in self.layers)

    @cached_property
    def state_bytes(self) -> int:
        """Bytes of one snapshot of the layers that cannot be cut (0 when all can)."""
        return sum(layer.state_bytes for layer in self.layers)

    @cached_property
    def cuts_anywhere(self) -> bool:
        """Whether a cached prefix is usable up to any token; if not, only up to a snapshot."""
        return all(layer.kind == "attention" for layer in self.layers)

    def stored_bytes(self, num_tokens: int, *, begins: bool = False) -> int:
        """Bytes that the blocks of this many tokens take in storage precision; `begins`: from the first token on."""
        first = sum(layer.first_token_bytes for layer in self.layers) if begins else 0
        return num_tokens * self.bytes_per_token + first
