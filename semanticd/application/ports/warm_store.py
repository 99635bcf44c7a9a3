"""The warm tier as the application sees it: blocks by hash, on disk.

Index questions are answered at once (memory or SQLite, well under a millisecond each); bytes are read and written
by the store's own small I/O pool and come back as futures. A missing or broken record is `None`, never an
exception: the caller computes instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from semanticd.domain.block import Block, LostFile
from semanticd.domain.ids import BlockHash, ModelFingerprint


@dataclass(frozen=True, slots=True)
class TensorBytes:
    """One tensor as bytes: C order, little-endian; `dtype` in safetensors words (F32, F16, BF16, U32, ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """A stored block with its tensors."""

    block: Block
    fingerprint: ModelFingerprint
    layout: str
    tensors: tuple[TensorBytes, ...]


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Outcome of writing a group of records: written, already present, or refused with the reason."""

    num_written: int
    num_present: int
    num_refused: int
    bytes_written: int
    reason: str = ""
    refused: tuple[BlockHash, ...] = ()
    """Blocks that were refused: the caller still holds the only copy."""


@dataclass(frozen=True, slots=True)
class WarmStats:
    """The warm tier in numbers; bytes are file sizes."""

    num_blocks: int = 0
    bytes_stored: int = 0
    cap_bytes: int | None = None
    reserve_bytes: int = 0
    """Bytes to keep free on the volume: nothing is written below this."""
    num_refused: int = 0
    bytes_written: int = 0
    bytes_read: int = 0
    num_writes: int = 0
    num_reads: int = 0
    num_quarantined: int = 0
    num_pruned: int = 0
    num_write_errors: int = 0
    pending_writes: int = 0
    write_budget_bytes: int | None = None
    written_today_bytes: int = 0
    free_disk_bytes: int | None = None
    """Free bytes of the volume; None before the first check, and while the folder is gone."""
    folder_problem: str | None = None
    """Reason and remedy while the folder is gone from its path: nothing is stored, or removed on request."""
    recovered_share: float | None = None
    """Share of the folder that was scanned after an unclean end, from 0 to 1; None if no scan runs."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The disk space of one model's blocks in one layout; bytes are file sizes."""

    fingerprint: ModelFingerprint
    layout: str
    num_blocks: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result of checking the stored files."""

    num_checked: int
    num_broken: int
    num_missing: int
    num_orphaned: int


class WarmStore(Protocol):
    """Blocks on disk, across all models, under one byte cap."""

    def get(self, block_hash: BlockHash) -> Block | None:
        """Return a block's facts if it is stored (index only)."""

    def get_many(self, hashes: Sequence[BlockHash]) -> list[Block]:
        """Return the facts of the leading hashes that are stored, stopping at the first that is not."""

    def block_bytes(self, hashes: Sequence[BlockHash]) -> dict[BlockHash, int]:
        """Return the tensor bytes of those of these blocks that are stored (index only)."""

    def children(self, parent: BlockHash) -> list[Block]:
        """Return the stored blocks that directly follow `parent` (any kind, any length)."""

    @property
    def knows_all_files(self) -> bool:
        """Whether the index lists every stored block.

        It does not after an unclean end, or when it was lost, until the folder was looked through.
        """

    def find_files(self, names: Iterable[BlockHash], fingerprint: ModelFingerprint) -> Future[int] | None:
        """Look for the files of these blocks of one model, which may lie on disk while the index does not know them.

        None: the index knows all that is stored. The names are taken, and the files read, by the I/O pool; the future
        gets how many blocks became known by it, never an exception.
        """

    def read(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
        """Read and verify a block; None when it is missing or broken (then it is quarantined and counted)."""

    def lost_file(self, names: Sequence[BlockHash]) -> LostFile | None:
        """Return what happened to the first of these blocks whose file was lost since the start, or None.

        Lost is a file that is gone though it was not removed here, or that could not be read as it was written, or that
        was removed to make room, or with all others. A block that was stored again since is not lost. Costs nothing
        where none was lost.
        """

    def wants(self, block_hash: BlockHash) -> bool:
        """Return whether the write policy accepts this block now; the query counts as a use of the block."""

    def write(self, records: Sequence[BlockRecord]) -> Future[WriteResult]:
        """Store records durably, parents before children, in one fsync group. Never raises through the future.

        Stored blocks are not written again. When the queue is full or the cap, the write policy or the
        daily budget forbids it, records are refused and counted.
        """

    def touch(self, hashes: Sequence[BlockHash]) -> None:
        """Mark blocks as just used, for the cap's LRU order."""

    def delete(self, hashes: Sequence[BlockHash], *, scrub: bool = True) -> Future[int]:
        """Remove blocks and their files soon, after the writes queued before; they are not found from now on.

        With `scrub` no file holds their tokens afterwards, which costs a flush of the disk. The future gets the bytes
        freed, never an exception.
        """

    def protect(self, hashes: Sequence[BlockHash], *, owner: str) -> None:
        """Replace the set of blocks that `owner` pins: the cap's pruning leaves them alone."""

    def verify(self, *, fix: bool) -> VerifyReport:
        """Check files against the index and their checksums; with `fix`, quarantine and reconcile. Slow."""

    def prune(self, *, target_bytes: int | None = None, dry_run: bool = False) -> int:
        """Remove least recently used unpinned blocks down to `target_bytes` (default: the cap); returns bytes freed.

        With `dry_run` nothing is removed, and the bytes are those that would be.

        Raises:
            CacheError: The folder is gone, or the index or the disk refuses.
            StorageFullError: The index cannot be changed because the disk is full (a CacheError).
        """

    def clear(self, fingerprint: ModelFingerprint | None = None) -> int:
        """Remove all blocks (of one model); returns bytes freed.

        Raises:
            CacheError: As in `prune`.
        """

    def stats(self) -> WarmStats:
        """Return the numbers above."""

    def sizes(self) -> tuple[ModelSize, ...]:
        """Return what each model's blocks take, largest first; the cost does not grow with the blocks."""

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything queued is durable; False when the time ran out."""

    def close(self) -> None:
        """Flush, stop the I/O pool and close the index. Idempotent."""
