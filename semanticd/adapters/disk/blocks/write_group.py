"""Groups of blocks on their way to the disk: cut small, and summed up afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semanticd.adapters.disk.blocks.codec import encode
from semanticd.adapters.disk.files.atomic import NewFile
from semanticd.adapters.disk.files.folder import CacheFolder
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.ids import BlockHash

MAX_GROUP_FILES = 32
MAX_GROUP_BYTES = 48 * 1024 * 1024
"""Bounds of a group: they keep few files open, and let others have the disk soon."""


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
    """What became of a group: how many were written or already there, how many bytes, and who was refused."""

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
