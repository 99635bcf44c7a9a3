"""What another machine says it has counts as far as its names are those of one's own tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from semanticd.domain.block_tree import NamedTree, OfferedBlock, fitting_blocks
from semanticd.domain.ids import BlockHash, ModelFingerprint
from semanticd.domain.model_cache_spec import LayerSpec, ModelCacheSpec
from semanticd.domain.prefix_index import match_prefix
from semanticd.domain.snapshots import state_name

SPEC = ModelCacheSpec(
    fingerprint=ModelFingerprint("ab" * 32),
    layers=(LayerSpec("attention", "a", bytes_per_token=8), LayerSpec("state", "s", state_bytes=100)),
    block_tokens=4,
    precision="exact",
    running_bytes_per_token=8,
)
TOKENS = tuple(range(1, 11))
CHAIN = SPEC.chain(TOKENS).hashes


def offers() -> list[OfferedBlock]:
    """Return the offers of the two full blocks, and of a snapshot behind them."""
    return [
        OfferedBlock(CHAIN[0], SPEC.root, 4),
        OfferedBlock(CHAIN[1], CHAIN[0], 4),
        OfferedBlock(state_name(SPEC, CHAIN[1]), CHAIN[1], 0, "state"),
    ]


def test_offers_of_ones_own_prompt_become_blocks_with_its_tokens_and_sizes() -> None:
    found = fitting_blocks(offers(), tree=SPEC, token_ids=TOKENS)
    assert list(found.by_name) == [offer.name for offer in offers()]
    assert [block.token_ids for block in found.by_name.values()] == [(1, 2, 3, 4), (5, 6, 7, 8), ()]
    assert [block.num_bytes for block in found.by_name.values()] == [32, 32, 100]
    match = match_prefix(
        TOKENS,
        spec=SPEC,
        limit=9,
        get=found.by_name.get,
        children=lambda parent: found.by_parent.get(parent, []),
    )
    assert match.num_tokens == 8
    assert match.state is not None


@pytest.mark.parametrize(
    "change",
    [
        {"name": BlockHash(b"\0" * 32)},
        {"parent": BlockHash(b"\0" * 32)},
        {"num_tokens": 3},
        {"num_tokens": 0},
        {"num_tokens": -4},
        {"num_tokens": 4000},
        {"kind": "state"},
    ],
    ids=str,
)
def test_a_false_offer_is_dropped_with_all_that_follows_it(change: dict[str, object]) -> None:
    first, *others = offers()
    assert not fitting_blocks([replace(first, **change), *others], tree=SPEC, token_ids=TOKENS)  # type: ignore[arg-type]


def test_a_block_that_ends_beyond_the_prompt_is_dropped() -> None:
    assert len(fitting_blocks(offers(), tree=SPEC, token_ids=TOKENS[:7]).by_name) == 1


def test_a_tree_by_name_has_the_root_of_the_model() -> None:
    tree = NamedTree(SPEC.fingerprint, SPEC.layout, SPEC.block_tokens, SPEC.cuts_anywhere)
    assert tree.root == SPEC.root
