"""The write policy: it can spare the disk blocks that are used only once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Literal

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
