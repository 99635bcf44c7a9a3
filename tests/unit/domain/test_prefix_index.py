from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanticd.domain.block import Block, hash_block
from semanticd.domain.ids import BlockHash, ModelFingerprint
from semanticd.domain.model_cache_spec import LayerSpec, ModelCacheSpec
from semanticd.domain.prefix_index import (
    MAX_QUESTIONS,
    PrefixMatch,
    common_prefix_length,
    match_prefix,
    next_boundary,
)

BLOCK = 4


def make_spec(*, cuts_anywhere: bool = True) -> ModelCacheSpec:
    layers = [LayerSpec("attention", "a", bytes_per_token=8)]
    if not cuts_anywhere:
        layers.append(LayerSpec("state", "s", state_bytes=16))
    return ModelCacheSpec(ModelFingerprint("ab" * 32), tuple(layers), BLOCK, "exact", 8)


class Tree:
    """Blocks by hash and by parent."""

    def __init__(self, spec: ModelCacheSpec) -> None:
        self.spec = spec
        self.blocks: dict[BlockHash, Block] = {}

    def name(self, parent: BlockHash, token_ids: Sequence[int], kind: str = "kv") -> BlockHash:
        return hash_block(
            fingerprint=self.spec.fingerprint,
            layout=self.spec.layout,
            parent=parent,
            token_ids=token_ids,
            kind=kind,  # type: ignore[arg-type]
        )

    def add(self, *runs: Sequence[int], state: bool = False) -> BlockHash:
        """Add a chain of blocks with these tokens, and a snapshot behind the last if wanted."""
        parent = self.spec.root
        for run in runs:
            name = self.name(parent, run)
            self.blocks[name] = Block(name, parent, tuple(run), 8 * len(run))
            parent = name
        if state:
            name = self.name(parent, (), "state")
            self.blocks[name] = Block(name, parent, (), 16, "state")
        return parent

    def children(self, parent: BlockHash) -> list[Block]:
        return [block for block in self.blocks.values() if block.parent == parent]

    def match(self, token_ids: Sequence[int], limit: int | None = None) -> PrefixMatch:
        return match_prefix(
            tuple(token_ids),
            spec=self.spec,
            limit=len(token_ids) if limit is None else limit,
            get=self.blocks.get,
            children=self.children,
        )


def runs(match: PrefixMatch) -> list[tuple[int, ...]]:
    return [matched.block.token_ids[: matched.num_tokens] for matched in match.blocks]


@given(left=st.lists(st.integers(0, 2)), right=st.lists(st.integers(0, 2)))
def test_the_common_prefix_is_as_long_as_counting_says(left: list[int], right: list[int]) -> None:
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    assert common_prefix_length(left, right) == count


@pytest.mark.parametrize(("position", "boundary"), [(0, 4), (1, 4), (3, 4), (4, 8), (9, 12)])
def test_the_next_boundary_lies_behind_the_position(position: int, boundary: int) -> None:
    assert next_boundary(position, 4) == boundary


def test_nothing_known_matches_nothing() -> None:
    match = Tree(make_spec()).match([1, 2, 3])
    assert (match.num_tokens, match.blocks, match.diverged) == (0, (), None)


def test_full_blocks_then_a_tail_then_part_of_a_block_are_found() -> None:
    tree = Tree(make_spec())
    tree.add([1, 2, 3, 4], [5, 6, 7, 8], [9, 10], [11, 12])
    match = tree.match([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 99])
    assert runs(match) == [(1, 2, 3, 4), (5, 6, 7, 8), (9, 10), (11,)]
    assert [matched.whole for matched in match.blocks] == [True, True, True, False]
    assert match.diverged is not None
    assert match.diverged.token_ids == (11, 12)


def test_a_match_stops_at_the_limit_inside_a_block() -> None:
    tree = Tree(make_spec())
    tree.add([1, 2, 3, 4], [5, 6, 7, 8])
    match = tree.match([1, 2, 3, 4, 5, 6, 7, 8], limit=7)
    assert runs(match) == [(1, 2, 3, 4), (5, 6, 7)]
    assert match.diverged is None


def test_a_tail_with_followers_wins_over_a_full_block_that_agrees_as_far() -> None:
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    for order in (0, 1):
        tree = Tree(make_spec())
        chains = [([1, 2, 99, 98],), ([1, 2], [3, 4], [5, 6, 7, 8])]
        for chain in chains[::-1] if order else chains:
            tree.add(*chain)
        assert tree.match(prompt).num_tokens == 8


def test_a_full_block_that_agrees_further_loses_to_a_tail_whose_followers_agree_further_still() -> None:
    tree = Tree(make_spec())
    tree.add([1, 2, 3, 99])
    tree.add([1], [2, 3, 4], [5, 6, 7, 8])
    assert tree.match([1, 2, 3, 4, 5, 6, 7, 8, 9]).num_tokens == 8


def test_what_the_prompt_left_is_named() -> None:
    tree = Tree(make_spec())
    tree.add([1, 2, 3, 4], [5, 6, 7, 8])
    match = tree.match([1, 2, 3, 4, 5, 9, 9, 9, 9])
    assert match.num_tokens == 5
    assert match.diverged is not None
    assert match.diverged.token_ids == (5, 6, 7, 8)


def test_where_a_layer_cannot_be_cut_only_a_snapshot_ends_a_match() -> None:
    tree = Tree(make_spec(cuts_anywhere=False))
    tree.add([1, 2, 3, 4], state=True)
    tree.add([1, 2, 3, 4], [5, 6], state=True)
    tree.add([1, 2, 3, 4], [5, 6], [7, 8])
    match = tree.match([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert match.num_tokens == 6
    assert match.state is not None
    assert match.state.parent == match.blocks[-1].block.block_hash
    assert tree.match([1, 2, 3, 4, 5, 9]).num_tokens == 4
    assert tree.match([1, 2, 3]).num_tokens == 0
    assert tree.match([1, 2, 3, 4, 5, 6], limit=5).num_tokens == 4


@pytest.mark.parametrize("cuts_anywhere", [True, False])
def test_the_chain_of_a_tail_is_found_next_to_a_full_block(cuts_anywhere: bool) -> None:
    tree = Tree(make_spec(cuts_anywhere=cuts_anywhere))
    prompt = list(range(24))
    tree.add(prompt[:4], prompt[4:6], prompt[6:8], prompt[8:12], prompt[12:16], prompt[16:18], state=True)
    tree.add(prompt[:4], prompt[4:8], state=True)
    assert tree.match(prompt).num_tokens == 18


def test_what_is_known_without_a_snapshot_is_counted() -> None:
    tree = Tree(make_spec(cuts_anywhere=False))
    tree.add([1, 2, 3, 4], state=True)
    tree.add([1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12])
    match = tree.match([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0])
    assert (match.num_tokens, match.num_known) == (4, 10)


@pytest.mark.parametrize("cuts_anywhere", [True, False])
def test_a_long_conversation_is_found_with_few_questions(cuts_anywhere: bool) -> None:
    tree = Tree(make_spec(cuts_anywhere=cuts_anywhere))
    prompt = list(range(4000))
    blocks = [prompt[at : at + BLOCK] for at in range(0, 4000, BLOCK)]
    tree.add(*blocks[:-10], state=True)
    for length in range(5, len(blocks) - 10, 5):
        tree.add(*blocks[:length], blocks[length][:2], state=True)
    by_parent: dict[BlockHash, list[Block]] = {}
    for block in tree.blocks.values():
        by_parent.setdefault(block.parent, []).append(block)
    asked: list[BlockHash] = []

    def children(parent: BlockHash) -> list[Block]:
        asked.append(parent)
        return by_parent.get(parent, [])

    match = match_prefix(
        tuple(prompt), spec=tree.spec, limit=len(prompt), get=tree.blocks.get, children=children
    )
    assert match.num_tokens == 4000 - 10 * BLOCK
    assert len(asked) <= MAX_QUESTIONS + 10


def brute_force(tree: Tree, prompt: Sequence[int], limit: int) -> int:
    """Follow every way there is."""
    cuts = tree.spec.cuts_anywhere

    def longest(parent: BlockHash, position: int) -> int:
        children = tree.children(parent)
        best = position if cuts or any(child.kind == "state" for child in children) else 0
        for block in children:
            if block.kind != "kv":
                continue
            agreed = min(common_prefix_length(block.token_ids, prompt[position:]), limit - position)
            if agreed == block.num_tokens:
                best = max(best, longest(block.block_hash, position + agreed))
            elif cuts:
                best = max(best, position + agreed)
        return best

    return longest(tree.spec.root, 0)


@st.composite
def chains(draw: st.DrawFn) -> list[list[list[int]]]:
    """Conversations cut as the engine cuts them: at block boundaries, and at the ends of turns."""
    found = []
    for _ in range(draw(st.integers(1, 6))):
        tokens = draw(st.lists(st.integers(0, 1), min_size=1, max_size=14))
        ends = draw(st.sets(st.integers(1, len(tokens)), max_size=3))
        bounds = sorted({0, len(tokens), *ends, *range(0, len(tokens), BLOCK)})
        found.append([tokens[a:b] for a, b in zip(bounds, bounds[1:], strict=False)])  # noqa: RUF007
    return found


@given(
    chains=chains(),
    prompt=st.lists(st.integers(0, 1), max_size=16),
    cuts_anywhere=st.booleans(),
    data=st.data(),
)
def test_a_match_agrees_with_the_prompt_and_no_other_is_longer(
    chains: list[list[list[int]]], prompt: list[int], cuts_anywhere: bool, data: st.DataObject
) -> None:
    tree = Tree(make_spec(cuts_anywhere=cuts_anywhere))
    for chain in chains:
        tree.add(*chain, state=data.draw(st.booleans()))
    limit = data.draw(st.integers(0, len(prompt)))
    match = tree.match(prompt, limit)
    joined = [token for run in runs(match) for token in run]
    assert joined == prompt[: len(joined)]
    assert len(joined) == match.num_tokens <= limit
    assert all(matched.whole for matched in match.blocks[:-1])
    parents = [tree.spec.root, *(matched.block.block_hash for matched in match.blocks)]
    assert all(m.block.parent == parent for m, parent in zip(match.blocks, parents, strict=False))
    if not cuts_anywhere and match.blocks:
        assert match.state is not None
        assert match.state.parent == parents[-1]
        assert match.blocks[-1].whole
    best = brute_force(tree, tuple(prompt), limit)
    assert match.num_tokens <= best <= match.num_known
    if match.num_tokens < best:
        # Where something was found, less than a block is not worth a question more.
        assert 0 < limit - match.num_tokens < BLOCK
