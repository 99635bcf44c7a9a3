"""What may be written: the policy that spares the disk blocks nobody asks for twice, and the daily budget."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Literal

from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.ids import BlockHash

WritePolicy = Literal["always", "second_use", "off"]
"""`second_use` writes a block when it is offered, or touched before, a second time."""

MAX_HASHES_SEEN = 65_536


class SeenHashes:
    """Remembers the blocks offered or used lately, in bounded memory (about 10 MB); forgets the oldest."""

    def __init__(self, *, max_hashes: int = MAX_HASHES_SEEN) -> None:
        """Remember at most `max_hashes`."""
        self._max_hashes = max_hashes
        self._seen: OrderedDict[BlockHash, None] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, block_hash: BlockHash) -> bool:
        """Remember a block; returns whether it had been seen before."""
        with self._lock:
            known = block_hash in self._seen
            self._seen[block_hash] = None
            self._seen.move_to_end(block_hash)
            if len(self._seen) > self._max_hashes:
                self._seen.popitem(last=False)
            return known


def utc_day(now: float) -> str:
    """Return the date of a time in seconds since the epoch, as `YYYY-MM-DD`."""
    return datetime.fromtimestamp(now, tz=timezone.utc).strftime("%Y-%m-%d")


def parents_first(records: Sequence[BlockRecord]) -> list[BlockRecord]:
    """Return the records so that each comes after its parent where both are given; duplicates are dropped."""
    by_hash = {record.block.block_hash: record for record in records}
    ordered: dict[BlockHash, BlockRecord] = {}
    for record in by_hash.values():
        chain: list[BlockRecord] = []
        current: BlockRecord | None = record
        while current is not None and current.block.block_hash not in ordered:
            chain.append(current)
            current = by_hash.get(current.block.parent)
        for link in reversed(chain):
            ordered[link.block.block_hash] = link
    return list(ordered.values())
