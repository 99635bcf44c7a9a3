"""Batches of blocks on their way to the disk: they wait, bounded in bytes, and are written in small groups.

A waiting block that is deleted is left out. Groups are cut small, and what happened to them is summed up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from semanticd.adapters.disk.blocks.codec import encode
from semanticd.adapters.disk.files.atomic import NewFile
from semanticd.adapters.disk.files.folder import CacheFolder
from semanticd.application.ports.warm_store import BlockRecord, WriteResult
from semanticd.domain.ids import BlockHash

MAX_GROUP_FILES = 32
MAX_GROUP_BYTES = 48 * 1024 * 1024
"""Bounds of a group: they keep few files open, and let others have the disk soon."""


@dataclass(slots=True, eq=False)
class PendingWrite:
    """Records waiting to be written, and the future that says what happened to them."""

    records: tuple[BlockRecord, ...]
    result: Future[WriteResult]
    refused: tuple[BlockHash, ...] = ()
    """Blocks of the same call that the write policy kept back."""
    reason: str = ""
    cancelled: set[BlockHash] = field(default_factory=set)
    """Blocks deleted while they waited."""

    @property
    def num_bytes(self) -> int:
        """Tensor bytes held."""
        return sum(record.block.num_bytes for record in self.records)

    @property
    def wanted(self) -> list[BlockRecord]:
        """The blocks that are not yet written."""
        return [record for record in self.records if record.block.block_hash not in self.cancelled]

    @property
    def everyone(self) -> tuple[BlockHash, ...]:
        """All blocks of the call, kept back or not."""
        return (*self.refused, *(record.block.block_hash for record in self.records))


class PendingWrites:
    """All writes not yet done. Safe to call from any thread; waits for nothing."""

    def __init__(self, *, max_bytes: int) -> None:
        """Hold at most `max_bytes`, or any one write when nothing else waits."""
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._writes: list[PendingWrite] = []
        self._lock = threading.Lock()

    def add(self, write: PendingWrite) -> bool:
        """Take a write in; False when too much waits already."""
        with self._lock:
            if self._num_bytes > 0 and self._num_bytes + write.num_bytes > self._max_bytes:
                return False
            self._writes.append(write)
            self._num_bytes += write.num_bytes
            return True

    def remove(self, write: PendingWrite) -> None:
        """Forget a write that is done."""
        with self._lock:
            self._writes.remove(write)
            self._num_bytes -= write.num_bytes

    def cancel(self, doomed: Callable[[BlockRecord], bool]) -> None:
        """Keep these blocks from being written, as far as that has not begun."""
        with self._lock:
            for write in self._writes:
                write.cancelled.update(r.block.block_hash for r in write.records if doomed(r))

    @property
    def num_records(self) -> int:
        """Blocks waiting."""
        with self._lock:
            return sum(len(write.records) for write in self._writes)


class PendingTouches:
    """Uses of blocks not yet written to the index."""

    def __init__(self) -> None:
        self._uses: dict[BlockHash, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._uses)

    def add(self, hashes: Iterable[BlockHash], *, when: float) -> None:
        """Note one use of each block, at `when` seconds since the epoch."""
        with self._lock:
            for block_hash in hashes:
                _, uses = self._uses.get(block_hash, (0.0, 0))
                self._uses[block_hash] = (when, uses + 1)

    def take(self) -> Sequence[tuple[BlockHash, float, int]]:
        """Hand all over as (block, when last, how often) and start again."""
        with self._lock:
            uses, self._uses = self._uses, {}
        return [(block_hash, when, count) for block_hash, (when, count) in uses.items()]


@dataclass(frozen=True, slots=True)
class OutgoingBlock:
    """A record and the file it will be."""

    record: BlockRecord
    file: NewFile
    num_bytes: int

    @classmethod
    def of(cls, record: BlockRecord, folder: CacheFolder) -> OutgoingBlock:
        """Encode a record for its place in the folder."""
        encoded = encode(record)
        path = folder.block_path(record.fingerprint, record.block.block_hash)
        return cls(record, NewFile(path=path, pieces=encoded.pieces), encoded.num_bytes)

    @property
    def block_hash(self) -> BlockHash:
        """The block's name."""
        return self.record.block.block_hash


@dataclass(frozen=True, slots=True)
class Stored:
    """The result of a group: numbers of written and already stored blocks, bytes, and the refused blocks."""

    num_written: int = 0
    num_present: int = 0
    bytes_written: int = 0
    refused: tuple[BlockHash, ...] = ()
    reason: str = ""

    def __add__(self, other: Stored) -> Stored:
        """Sum up two groups; the later reason counts."""
        return Stored(
            num_written=self.num_written + other.num_written,
            num_present=self.num_present + other.num_present,
            bytes_written=self.bytes_written + other.bytes_written,
            refused=self.refused + other.refused,
            reason=other.reason or self.reason,
        )


def groups_of(blocks: Sequence[OutgoingBlock]) -> Iterator[list[OutgoingBlock]]:
    """Cut blocks into groups within the bounds, in order."""
    group: list[OutgoingBlock] = []
    num_bytes = 0
    for block in blocks:
        if group and (len(group) == MAX_GROUP_FILES or num_bytes + block.num_bytes > MAX_GROUP_BYTES):
            yield group
            group, num_bytes = [], 0
        group.append(block)
        num_bytes += block.num_bytes
    if group:
        yield group


def leading(blocks: Sequence[OutgoingBlock], room_bytes: int) -> list[OutgoingBlock]:
    """Return the blocks from the first on that fit together."""
    fitting = []
    for block in blocks:
        room_bytes -= block.num_bytes
        if room_bytes < 0:
            break
        fitting.append(block)
    return fitting


def total_bytes(blocks: Sequence[OutgoingBlock]) -> int:
    """Return the size of all files together."""
    return sum(block.num_bytes for block in blocks)
