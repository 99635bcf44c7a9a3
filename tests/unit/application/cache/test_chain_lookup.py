"""A prompt's blocks are looked up with few questions to the disk's index, and its tokens are not read from there."""

from __future__ import annotations

from collections.abc import Sequence

from semanticd.application.cache.chain_lookup import ChainLookup
from semanticd.domain.block import Block
from semanticd.domain.block_pool import BlockPool
from semanticd.domain.block_tree import OfferedBlocks
from semanticd.domain.ids import BlockHash
from semanticd.domain.prefix_index import match_prefix
from tests.fakes.model_runner import HashRunner
from tests.fakes.warm_store import MemoryWarmStore

SPEC = HashRunner(block_tokens=16).spec


class SizedStore(MemoryWarmStore):
    """A warm store that has the sizes of some blocks, and counts the questions."""

    def __init__(self, sizes: dict[BlockHash, int]) -> None:
        super().__init__()
        self._sizes = sizes
        self.num_questions = 0

    def block_bytes(self, hashes: Sequence[BlockHash]) -> dict[BlockHash, int]:
        """Answer, and count."""
        self.num_questions += 1
        return {name: self._sizes[name] for name in hashes if name in self._sizes}

    def get(self, block_hash: BlockHash) -> Block | None:
        """Answer, and count."""
        self.num_questions += 1
        return None


def test_a_long_prompt_is_found_with_a_few_questions() -> None:
    ids = tuple(range(16 * 500 + 5))
    chain = SPEC.chain(ids)
    warm = SizedStore(dict.fromkeys(chain.hashes[:400], 7))
    pool = BlockPool(budget_bytes=1000)
    pool.insert(Block(chain.hashes[0], chain.root, ids[:16], 3), dirty=True)
    lookup = ChainLookup(pool=pool, warm=warm, token_ids=ids, chain=chain)
    match = match_prefix(
        ids, spec=SPEC, limit=len(ids) - 1, get=lookup.get, children=lambda _: (), chain=chain
    )
    assert match.num_tokens == 400 * 16
    assert [m.block.block_hash for m in match.blocks] == list(chain.hashes[:400])
    assert match.blocks[3].block == Block(chain.hashes[3], chain.hashes[2], ids[48:64], 7)
    assert warm.num_questions <= 6


def test_a_prompt_that_misses_at_once_asks_once() -> None:
    ids = tuple(range(16 * 500))
    warm = SizedStore({})
    lookup = ChainLookup(pool=BlockPool(budget_bytes=1), warm=warm, token_ids=ids, chain=SPEC.chain(ids))
    assert match_prefix(ids, spec=SPEC, limit=8000, get=lookup.get, children=lambda _: ()).num_tokens == 0
    assert warm.num_questions == 1


def test_names_of_other_prompts_are_asked_for_one_by_one() -> None:
    ids = tuple(range(64))
    warm = SizedStore({})
    lookup = ChainLookup(pool=BlockPool(budget_bytes=1), warm=warm, token_ids=ids, chain=SPEC.chain(ids))
    assert lookup.get(BlockHash(b"\2" * 32)) is None
    assert warm.num_questions == 1


def test_what_follows_a_block_is_what_is_hot_then_stored_then_offered_each_once() -> None:
    ids = tuple(range(32))
    chain = SPEC.chain(ids)
    first = Block(chain.hashes[0], chain.root, ids[:16], 3)
    full = Block(chain.hashes[1], first.block_hash, ids[16:], 3)
    stored, offered = (Block(BlockHash(bytes([n]) * 32), first.block_hash, (n,), 3) for n in (1, 2))

    class Store(SizedStore):
        def children(self, parent: BlockHash) -> list[Block]:
            """Answer."""
            return [full, stored] if parent == first.block_hash else []

    pool = BlockPool(budget_bytes=1000)
    pool.insert(full, dirty=True)
    peers = OfferedBlocks()
    for block in (first, full, stored, offered):
        peers.add(block)
    lookup = ChainLookup(pool=pool, warm=Store({}), token_ids=ids, chain=chain, offered=peers)
    assert lookup.children(first.block_hash) == [full, stored, offered]
    assert lookup.children(offered.block_hash) == []
    assert lookup.get(first.block_hash) is first, "it is at a peer only"
    assert lookup.get(full.block_hash) is full
    assert ChainLookup(pool=pool, warm=None, token_ids=ids, chain=chain).children(first.block_hash) == [full]
