"""Other machines' warm tiers, as the application sees them: blocks by name, over a link.

Nothing here waits: questions and reads are futures, which hold what came within their deadline and never an exception.
A block that a peer has not, or does not bring whole and in time, is `None`: the caller computes instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.block import Block
from semanticd.domain.block_tree import NamedTree, OfferedBlock
from semanticd.domain.ids import BlockHash


@dataclass(frozen=True, slots=True)
class PeerQuestion:
    """Query for the blocks of a prompt that a peer has."""

    tree: NamedTree
    token_ids: tuple[int, ...]
    max_block_bytes: int
    """Tensor bytes of the largest block that the prompt may have."""


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """One peer in numbers, since the start; bytes are of block files."""

    address: str
    state: str
    """`ready`, or `resting` after a failure: it is not asked for a while."""
    num_asked: int = 0
    """Prompts that it was asked about."""
    num_found: int = 0
    """Blocks that it said it has."""
    num_blocks: int = 0
    """Blocks that it brought."""
    num_bytes: int = 0
    num_failures: int = 0
    bytes_per_s: float | None = None
    """The measured rate of the link; None: nothing was measured."""
    last_failure: str | None = None


class Peers(Protocol):
    """The machines that were named as peers."""

    def look_up(self, question: PeerQuestion) -> Future[tuple[OfferedBlock, ...]]:
        """Query all peers that are not resting, each once, and record which blocks each has.

        Parents come before children. The answer comes within `LOOK_UP_S`, with what was said by then.
        """

    def read(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
        """Read a block from a peer that offered it, and verify it as a file; None: no peer sent it in time."""

    def holds(self, block_hash: BlockHash) -> bool:
        """Return whether a peer offered this block."""

    def expected_s(self, blocks: Iterable[Block]) -> float:
        """Return the estimated seconds to read these blocks, by measured rates; 0 if nothing was measured."""

    def forgive(self) -> None:
        """Reduce the weight of past measurements: a link that was slow once must not be avoided permanently."""

    def facts(self) -> tuple[PeerFacts, ...]:
        """Return the peers in the order of the settings."""

    def close(self) -> None:
        """End all questions and reads. Idempotent."""


LOOK_UP_S = 1.0
"""Seconds that a prompt waits for peers' replies to a look-up."""
READ_S = 8.0
"""Seconds that a peer has for one block once its turn has come; less than a disk's read deadline with the look-up."""


class BlockFiles(Protocol):
    """The part of the warm tier that peers may read; callable from any thread, may take as long as the disk does."""

    def get(self, block_hash: BlockHash) -> Block | None:
        """Return a block's facts if it is stored and not about to be deleted."""

    def children(self, parent: BlockHash) -> list[Block]:
        """Return the stored blocks that directly follow `parent`."""

    def read_file(self, block_hash: BlockHash) -> bytes | None:
        """Return a verified block file; None when it is missing, broken or about to be deleted."""
