"""The tree that blocks form, apart from any loaded model: how its names are made, and where it may be cut.

Another machine's tree is believed as far as its names can be computed from one's own tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from semanticd.domain.block import Block, BlockKind, hash_block, root_hash
from semanticd.domain.ids import BlockHash, ModelFingerprint


class BlockTree(Protocol):
    """The parameters of a tree that a prompt needs to be matched in it; a loaded model's `ModelCacheSpec` is one."""

    @property
    def fingerprint(self) -> ModelFingerprint:
        """The model's."""

    @property
    def layout(self) -> str:
        """Layout of the stored bytes."""

    @property
    def block_tokens(self) -> int:
        """Tokens of a full block."""

    @property
    def cuts_anywhere(self) -> bool:
        """Whether a prefix is usable up to any token; if not, only up to a snapshot."""

    @property
    def root(self) -> BlockHash:
        """The parent of every first block."""


@dataclass(frozen=True, slots=True)
class NamedTree:
    """The tree of a model that need not be loaded here."""

    fingerprint: ModelFingerprint
    layout: str
    block_tokens: int
    cuts_anywhere: bool

    @property
    def root(self) -> BlockHash:
        """The parent of every first block."""
        return root_hash(self.fingerprint, self.layout)


class SizedTree(BlockTree, Protocol):
    """A tree whose blocks have known sizes."""

    @property
    def state_bytes(self) -> int:
        """Bytes of a snapshot."""

    def stored_bytes(self, num_tokens: int, *, begins: bool = False) -> int:
        """Return the tensor bytes of this number of tokens; `begins`: the first ones of a sequence."""


@dataclass(frozen=True, slots=True)
class OfferedBlock:
    """A block that another machine says it has; its tokens are the asker's own."""

    name: BlockHash
    parent: BlockHash
    num_tokens: int
    """0 for a snapshot."""
    kind: BlockKind = "kv"


@dataclass(frozen=True, slots=True)
class OfferedBlocks:
    """Blocks of one prompt that others have, by name and below their parents."""

    by_name: dict[BlockHash, Block] = field(default_factory=dict)
    by_parent: dict[BlockHash, list[Block]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.by_name)

    def add(self, block: Block) -> None:
        """Take a block in, once."""
        if block.block_hash not in self.by_name:
            self.by_name[block.block_hash] = block
            self.by_parent.setdefault(block.parent, []).append(block)


def fitting_blocks(
    offers: Iterable[OfferedBlock], *, tree: SizedTree, token_ids: Sequence[int]
) -> OfferedBlocks:
    """Return the offers whose names are those of these tokens' blocks in this tree, with what they must hold.

    Each comes after its parent, as far as that was offered; all others are dropped, whatever they claim. About 10
    microseconds a block: not on the engine thread.
    """
    found = OfferedBlocks()
    ends = {tree.root: 0}
    for offer in offers:
        start = ends.get(offer.parent)
        is_state = offer.kind == "state"
        if start is None or not _is_length(offer.num_tokens, is_state, tree.block_tokens):
            continue
        end = start + offer.num_tokens
        ids = tuple(token_ids[start:end])
        name = hash_block(
            fingerprint=tree.fingerprint,
            layout=tree.layout,
            parent=offer.parent,
            token_ids=ids,
            kind=offer.kind,
        )
        if end > len(token_ids) or name != offer.name:
            continue
        num_bytes = tree.state_bytes if is_state else tree.stored_bytes(offer.num_tokens, begins=not start)
        found.add(Block(name, offer.parent, ids, num_bytes, offer.kind))
        if not is_state:
            ends[name] = end
    return found


def _is_length(num_tokens: int, is_state: bool, block_tokens: int) -> bool:
    return num_tokens == 0 if is_state else 0 < num_tokens <= block_tokens
