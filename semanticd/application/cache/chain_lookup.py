"""ChainLookup: a prompt's blocks by name, hot, warm or at a peer, with few questions to the disk's index.

A name is a hash over all tokens up to its end, so the index need only say that it is stored, and its size: the tokens
are the prompt's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from semanticd.application.ports.warm_store import WarmStore
from semanticd.domain.block import Block
from semanticd.domain.block_chain import BlockChain
from semanticd.domain.block_pool import BlockPool
from semanticd.domain.block_tree import OfferedBlocks
from semanticd.domain.ids import BlockHash

_FIRST_QUESTION = 16
_LARGEST_QUESTION = 512


class ChainLookup:
    """Blocks of one prompt; for one match, under the cache store's lock."""

    def __init__(
        self,
        *,
        pool: BlockPool,
        warm: WarmStore | None,
        token_ids: tuple[int, ...],
        chain: BlockChain | None,
        offered: OfferedBlocks | None = None,
        displaced: Mapping[BlockHash, Block] | None = None,
    ) -> None:
        """Look for the blocks of `token_ids`, whose full ones are named by `chain`.

        Peers have those `offered`; `displaced` are those that lie in running caches and not in the pool.
        """
        self._pool = pool
        self._warm = warm
        self._token_ids = token_ids
        self._chain = chain
        self._offered = offered or OfferedBlocks()
        self._displaced = displaced or {}
        self._places: dict[BlockHash, int] = {}
        self._warm_blocks: dict[BlockHash, Block] = {}
        self._num_asked = 0

    def get(self, block_hash: BlockHash) -> Block | None:
        """Return a block's facts."""
        return self._here(block_hash) or self._offered.by_name.get(block_hash)

    def children(self, parent: BlockHash) -> list[Block]:
        """Return the blocks that directly follow `parent`."""
        here = joined(self._pool.children(parent), self._warm.children(parent) if self._warm else ())
        return joined(here, self._offered.by_parent.get(parent, ()))

    def _here(self, block_hash: BlockHash) -> Block | None:
        here = self._pool.get(block_hash) or self._displaced.get(block_hash)
        if here is not None or self._warm is None:
            return here
        if self._chain is None:
            return self._warm.get(block_hash)
        if not self._places:
            self._places = {name: at for at, name in enumerate(self._chain.hashes)}
        at = self._places.get(block_hash)
        if at is None:
            return self._warm.get(block_hash)
        if at >= self._num_asked:
            self._ask(self._warm, self._chain, at)
        return self._warm_blocks.get(block_hash)

    def _ask(self, warm: WarmStore, chain: BlockChain, first: int) -> None:
        """Query the blocks from `first` on: only a few at first, because a miss usually occurs early."""
        end = min(first + max(_FIRST_QUESTION, 2 * self._num_asked), first + _LARGEST_QUESTION)
        names = chain.hashes[first:end]
        sizes = warm.block_bytes(names)
        self._num_asked = first + len(names)
        size = chain.block_tokens
        for at, name in enumerate(names, first):
            if name in sizes:
                parent = chain.hashes[at - 1] if at else chain.root
                tokens = self._token_ids[at * size : (at + 1) * size]
                self._warm_blocks[name] = Block(name, parent, tokens, sizes[name])


def joined(blocks: Iterable[Block], others: Iterable[Block]) -> list[Block]:
    """Return blocks, then those of the others that are not among them."""
    found = {block.block_hash: block for block in blocks}
    for block in others:
        found.setdefault(block.block_hash, block)
    return list(found.values())
