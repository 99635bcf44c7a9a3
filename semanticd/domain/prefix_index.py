"""Finds how much of a prompt is covered by known blocks.

Blocks form a tree: each names its parent, and a child's tokens follow its parent's. A full block is found by
computing its hash; a tail block, or a block that agrees only at its beginning, by comparing token ids with the
children of the last match.

```
prompt   |0.........256|.........512|......600|.....650
blocks   [  full  A   ][  full  B  ][ tail C ][ tail D of C ... ]
match     whole          whole        whole     first 50 of D's tokens (only where every layer cuts anywhere)
```
Tails make the tree branch: what a prompt's next tokens agree with may begin a full block as well as be a tail with
followers of its own. Where the full block itself is not known, every way that agrees is followed; the longest counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from semanticd.domain.block import Block, hash_block
from semanticd.domain.block_chain import BlockChain
from semanticd.domain.ids import BlockHash
from semanticd.domain.model_cache_spec import ModelCacheSpec


@dataclass(frozen=True, slots=True)
class MatchedBlock:
    """A block of the match and how many of its leading tokens agree."""

    block: Block
    num_tokens: int

    @property
    def whole(self) -> bool:
        """Whether all of the block's tokens agree."""
        return self.num_tokens == self.block.num_tokens


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """The blocks that cover the beginning of a prompt, first to last."""

    blocks: tuple[MatchedBlock, ...] = ()
    state: Block | None = None
    """The snapshot taken at the end of the match, for models that need one."""
    diverged: Block | None = None
    """The block, if any, whose tokens were expected where the prompt left what is known."""

    @property
    def num_tokens(self) -> int:
        """Tokens covered."""
        return sum(matched.num_tokens for matched in self.blocks)


def common_prefix_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Count the leading items that two sequences share."""
    limit = min(len(left), len(right))
    if left[:limit] == right[:limit]:
        return limit
    low, high = 0, limit
    while low + 1 < high:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def next_boundary(position: int, block_tokens: int) -> int:
    """Return the first multiple of `block_tokens` after `position`."""
    return (position // block_tokens + 1) * block_tokens


def match_prefix(
    token_ids: tuple[int, ...],
    *,
    spec: ModelCacheSpec,
    limit: int,
    get: Callable[[BlockHash], Block | None],
    children: Callable[[BlockHash], Sequence[Block]],
    root: BlockHash | None = None,
    chain: BlockChain | None = None,
) -> PrefixMatch:
    """Return the longest usable match of at most `limit` tokens below `root` (None: the root that all share).

    `chain` spares computing the names of the prompt's full blocks. Where a layer cannot be cut, the match ends at the
    last block that has a state snapshot.
    """
    best = PrefixMatch()
    best_tokens = 0
    diverged: Block | None = None
    diverged_at = -1
    # Ways still to follow, the most promising last: where the way stands, and how it got there.
    ways: list[tuple[int, BlockHash, tuple[MatchedBlock, ...]]] = [(0, root or spec.root, ())]
    while ways and best_tokens < limit:
        position, parent, path = ways.pop()
        if position and not spec.cuts_anywhere and position > best_tokens:
            state = next((child for child in children(parent) if child.kind == "state"), None)
            if state is not None:
                best, best_tokens = PrefixMatch(path, state), position
        if spec.cuts_anywhere and position > best_tokens:
            best, best_tokens = PrefixMatch(path), position
        if position >= limit:
            continue
        full = _full_block(token_ids, position, parent, spec=spec, limit=limit, get=get, chain=chain)
        agreeing: list[tuple[int, BlockHash, tuple[MatchedBlock, ...]]] = []
        for block in [full] if full else children(parent):
            if block.kind != "kv" or not block.token_ids:
                continue
            agreed = min(
                common_prefix_length(block.token_ids, token_ids[position : position + block.num_tokens]),
                limit - position,
            )
            reached = position + agreed
            if agreed == block.num_tokens:
                agreeing.append((reached, block.block_hash, (*path, MatchedBlock(block, agreed))))
                continue
            if reached < limit and reached > diverged_at:
                diverged, diverged_at = block, reached
            if agreed and spec.cuts_anywhere and reached > best_tokens:
                best, best_tokens = PrefixMatch((*path, MatchedBlock(block, agreed))), reached
        ways += sorted(agreeing, key=lambda way: way[0])
    return PrefixMatch(best.blocks, best.state, diverged if diverged_at >= best_tokens else None)


def _full_block(
    token_ids: tuple[int, ...],
    position: int,
    parent: BlockHash,
    *,
    spec: ModelCacheSpec,
    limit: int,
    get: Callable[[BlockHash], Block | None],
    chain: BlockChain | None,
) -> Block | None:
    end = next_boundary(position, spec.block_tokens)
    if end > limit:
        return None
    known = chain.name_at(position, parent) if chain is not None else None
    return get(
        known
        or hash_block(
            fingerprint=spec.fingerprint, layout=spec.layout, parent=parent, token_ids=token_ids[position:end]
        )
    )
