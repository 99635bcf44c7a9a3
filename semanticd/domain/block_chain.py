"""BlockChain: the names of a prompt's full blocks, computed once when it arrives.

With them two prompts are compared, and blocks are looked up, without reading the prompts' tokens again.
"""

from __future__ import annotations

from dataclasses import dataclass

from semanticd.domain.ids import BlockHash


@dataclass(frozen=True, slots=True)
class BlockChain:
    """Names of the full blocks that a prompt begins with, first to last; `root` is the parent of the first."""

    root: BlockHash
    block_tokens: int
    hashes: tuple[BlockHash, ...]

    def name_at(self, position: int, parent: BlockHash) -> BlockHash | None:
        """Return the name of the full block at a position (tokens) below `parent`; None where it is another."""
        at, beyond = divmod(position, self.block_tokens)
        if beyond or at >= len(self.hashes):
            return None
        return self.hashes[at] if parent == (self.hashes[at - 1] if at else self.root) else None
