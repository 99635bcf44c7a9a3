"""Finds how much of a prompt is covered by known blocks.

Blocks form a tree: each names its parent, and a child's tokens follow its parent's. A full block is found by
computing its hash; a tail block, or a block that agrees only at its beginning, by comparing token ids with the
children of the last match.

```
prompt   |0.........256|.........512|......600|.....650
blocks   [  full  A   ][  full  B  ][ tail C ][ tail D of C ... ]
match     whole          whole        whole     first 50 of D's tokens (only where every layer cuts anywhere)
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from semanticd.domain.block import Block, hash_block
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
) -> PrefixMatch:
    """Return the longest usable match of at most `limit` tokens.

    Where a layer cannot be cut, the match ends at the last block that has a state snapshot.
    """
    path: list[MatchedBlock] = []
    best_state: tuple[int, Block] | None = None
    parent = spec.root
    position = 0
    diverged: Block | None = None
    while position < limit:
        end = next_boundary(position, spec.block_tokens)
        block: Block | None = None
        if end <= limit:
            wanted = hash_block(
                fingerprint=spec.fingerprint,
                layout=spec.layout,
                parent=parent,
                token_ids=token_ids[position:end],
            )
            block = get(wanted)
        if block is None:
            block = _best_child(children(parent), token_ids, position)
        if block is None:
            break
        agreed = min(
            common_prefix_length(block.token_ids, token_ids[position : position + block.num_tokens]),
            limit - position,
        )
        if agreed < block.num_tokens:
            if position + agreed < limit:
                diverged = block
            if agreed and spec.cuts_anywhere:
                path.append(MatchedBlock(block, agreed))
            break
        path.append(MatchedBlock(block, agreed))
        position += agreed
        parent = block.block_hash
        if not spec.cuts_anywhere:
            state = next((child for child in children(parent) if child.kind == "state"), None)
            if state is not None:
                best_state = (len(path), state)
    if spec.cuts_anywhere:
        return PrefixMatch(tuple(path), None, diverged)
    if best_state is None:
        return PrefixMatch((), None, diverged)
    return PrefixMatch(tuple(path[: best_state[0]]), best_state[1], diverged)


def _best_child(candidates: Sequence[Block], token_ids: tuple[int, ...], position: int) -> Block | None:
    best: Block | None = None
    best_agreed = 0
    for block in candidates:
        if block.kind != "kv" or not block.token_ids:
            continue
        agreed = common_prefix_length(block.token_ids, token_ids[position : position + block.num_tokens])
        if agreed > best_agreed or (best is None and agreed == 0):
            best, best_agreed = block, agreed
    return best
