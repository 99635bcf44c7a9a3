"""Finds how much of a prompt is covered by known blocks.

Blocks form a tree: each names its parent, and a child's tokens follow its parent's. A full block is found by
computing its hash; a tail block, or a block that agrees only at its beginning, by comparing token ids with the
children of the last match.

```
prompt   |0.........256|.........512|......600|.....650
blocks   [  full  A   ][  full  B  ][ tail C ][ tail D of C ... ]
match     whole          whole        whole     first 50 of D's tokens (only where every layer cuts anywhere)
```
Tails make the tree branch: next to a full block there may be tails, some with followers of their own. The way of full
blocks is followed first, by name. Then the search goes back along it, from its end to the root, and follows each tail
that agrees, until so little is missing that it is not worth a question. The longest match counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

from semanticd.domain.block import Block, hash_block
from semanticd.domain.block_chain import BlockChain
from semanticd.domain.block_tree import BlockTree
from semanticd.domain.ids import BlockHash

MAX_QUESTIONS = 64
"""Maximum positions whose tails are searched for after a match: each costs an index lookup."""


@dataclass(frozen=True, slots=True)
class MatchedBlock:
    """A block of the match and how many of its leading tokens agree."""

    block: Block
    num_tokens: int

    @property
    def whole(self) -> bool:
        """Whether all tokens of the block match."""
        return self.num_tokens == self.block.num_tokens


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """The blocks that cover the beginning of a prompt, first to last."""

    blocks: tuple[MatchedBlock, ...] = ()
    state: Block | None = None
    """The snapshot taken at the end of the match, for models that need one."""
    diverged: Block | None = None
    """The block, if any, whose tokens were expected where the prompt diverged."""
    num_known: int = 0
    """Tokens whose blocks are known, whether or not there is a snapshot to continue from."""

    @property
    def num_tokens(self) -> int:
        """Tokens covered."""
        return sum(matched.num_tokens for matched in self.blocks)

    @property
    def all_blocks(self) -> list[Block]:
        """The blocks in order, the snapshot last."""
        return [matched.block for matched in self.blocks] + ([self.state] if self.state else [])


def common_prefix_length(left: Sequence[object], right: Sequence[object]) -> int:
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
    spec: BlockTree,
    limit: int,
    get: Callable[[BlockHash], Block | None],
    children: Callable[[BlockHash], Sequence[Block]],
    root: BlockHash | None = None,
    chain: BlockChain | None = None,
) -> PrefixMatch:
    """Return the longest usable match of at most `limit` tokens below `root` (None: the root that all share).

    `chain` spares computing the names of the prompt's full blocks. Where a layer cannot be cut, the match ends at the
    last block that has a state snapshot. A longer one may be missed where less than a block is missing, or after
    `MAX_QUESTIONS` questions about tails.
    """
    search = _Search(token_ids, spec=spec, limit=limit, get=get, children=children, chain=chain)
    return search.run(root or spec.root)


@dataclass(frozen=True, slots=True)
class _Way:
    """A place in the tree up to which the prompt agrees, and how it is reached."""

    position: int
    block_hash: BlockHash
    matched: MatchedBlock | None = None
    """The last block before this place; None at the root."""
    before: _Way | None = None
    full: BlockHash | None = None
    """The full block that follows, where there is one."""
    ends: bool = True
    """Whether no full block follows: where the search looks first."""

    def blocks(self) -> tuple[MatchedBlock, ...]:
        """Return the blocks from the root to this place."""
        found: list[MatchedBlock] = []
        way: _Way | None = self
        while way is not None and way.matched is not None:
            found.append(way.matched)
            way = way.before
        return tuple(reversed(found))


@dataclass(slots=True)
class _Search:
    token_ids: tuple[int, ...]
    _: KW_ONLY
    spec: BlockTree
    limit: int
    get: Callable[[BlockHash], Block | None]
    children: Callable[[BlockHash], Sequence[Block]]
    chain: BlockChain | None
    best: _Way | None = None
    state: Block | None = None
    best_tokens: int = 0
    known_tokens: int = 0
    part: MatchedBlock | None = None
    """A block that follows `best` and agrees at its beginning."""
    diverged: Block | None = None
    diverged_at: int = -1
    ways: list[_Way] = field(default_factory=list)
    """Positions whose children remain to be examined, the most promising last."""

    def run(self, root: BlockHash) -> PrefixMatch:
        self._follow(_Way(0, root))
        num_questions = 0
        while self.ways and self.best_tokens < self.limit and num_questions < MAX_QUESTIONS:
            way = self.ways.pop()
            if self._is_worth_asking(way):
                self._look(way)
                # While nothing is found, everything would be computed: then no query is one too many.
                num_questions += self.best_tokens > 0
        blocks = self.best.blocks() if self.best is not None else ()
        if self.part is not None:
            blocks = (*blocks, self.part)
        diverged = self.diverged if self.diverged_at >= self.best_tokens else None
        return PrefixMatch(blocks, self.state, diverged, self.known_tokens)

    def _is_worth_asking(self, way: _Way) -> bool:
        if way.ends and (self.spec.cuts_anywhere or way.position > self.best_tokens):
            return True
        return not self.best_tokens or self.limit - self.best_tokens >= self.spec.block_tokens

    def _follow(self, way: _Way) -> None:
        """Take the way of full blocks from here to its end; each place on it may have tails."""
        while True:
            self._reach(way)
            full = self._full_block(way)
            if full is None:
                self.ways.append(way)
                return
            self.ways.append(replace(way, full=full.block_hash, ends=False))
            end = way.position + full.num_tokens
            way = _Way(end, full.block_hash, MatchedBlock(full, full.num_tokens), before=way)

    def _reach(self, way: _Way) -> None:
        self.known_tokens = max(self.known_tokens, way.position)
        if self.spec.cuts_anywhere and way.position > self.best_tokens:
            self.best, self.best_tokens, self.part = way, way.position, None

    def _look(self, way: _Way) -> None:
        """Look at what follows a place besides its full block."""
        agreeing: list[_Way] = []
        for block in self.children(way.block_hash):
            if block.kind == "state":
                if not self.spec.cuts_anywhere and way.position > self.best_tokens:
                    self.best, self.best_tokens, self.state = way, way.position, block
            elif block.token_ids and block.block_hash != way.full:
                agreed = self._agreed(block, way.position)
                if agreed == block.num_tokens:
                    matched = MatchedBlock(block, agreed)
                    agreeing.append(_Way(way.position + agreed, block.block_hash, matched, before=way))
                else:
                    self._note_part(way, block, agreed)
        for tail in sorted(agreeing, key=lambda tail: tail.position):
            self._follow(tail)

    def _note_part(self, way: _Way, block: Block, agreed: int) -> None:
        reached = way.position + agreed
        self.known_tokens = max(self.known_tokens, reached)
        if reached < self.limit and reached > self.diverged_at:
            self.diverged, self.diverged_at = block, reached
        if agreed and self.spec.cuts_anywhere and reached > self.best_tokens:
            self.best, self.best_tokens, self.part = way, reached, MatchedBlock(block, agreed)

    def _agreed(self, block: Block, position: int) -> int:
        """Count the leading tokens of a block that agree with the prompt at a position."""
        ids = self.token_ids[position : position + block.num_tokens]
        return min(common_prefix_length(block.token_ids, ids), self.limit - position)

    def _full_block(self, way: _Way) -> Block | None:
        end = next_boundary(way.position, self.spec.block_tokens)
        if end > self.limit:
            return None
        name = self.chain.name_at(way.position, way.block_hash) if self.chain is not None else None
        return self.get(
            name
            or hash_block(
                fingerprint=self.spec.fingerprint,
                layout=self.spec.layout,
                parent=way.block_hash,
                token_ids=self.token_ids[way.position : end],
            )
        )
