"""WriteBehind: selects the dirty blocks to write next, and tracks those in flight.

Pure book-keeping: the store copies tensors and calls the disk. A block that shall leave RAM while it is dirty leaves
once it is on disk. A block that the warm store refuses is not offered again before it is used again, or
`retry_refused` is called.
Every method is called under the cache store's lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from semanticd.application.ports.warm_store import WarmStore
from semanticd.domain.block import Block
from semanticd.domain.block_pool import BlockPool
from semanticd.domain.ids import BlockHash

MAX_IN_FLIGHT_BYTES = 512 * 1024 * 1024
"""Write-behind pauses while so many bytes wait for the disk, or `MAX_IN_FLIGHT_SHARE` of the budget if that is less."""
MAX_IN_FLIGHT_SHARE = 1 / 8
"""Share of the budget that a hanging disk can use twice: as blocks and as their copies."""

LEAVES_UNWRITTEN = frozenset({"deleted", "cleared", "model_unloaded"})
"""Reasons for which a block leaves RAM even if the disk did not take it."""


class WriteBehind:
    """The write path from RAM to disk, as far as it is decided in RAM."""

    def __init__(self, *, pool: BlockPool, warm: WarmStore) -> None:
        """Write this pool's blocks to this store."""
        self._pool = pool
        self._warm = warm
        self._writing: dict[BlockHash, int] = {}
        """Blocks handed over and not yet durable, with their bytes."""
        self._leaving: dict[BlockHash, str] = {}
        """Blocks that leave RAM, and why, once they are on disk."""
        self._refused: dict[BlockHash, int] = {}
        """Dirty blocks that the store did not take, with their bytes."""
        self._refused_bytes = 0
        self._called_off: set[BlockHash] = set()
        """Blocks whose writing was called off because their agent was deleted; some other may still use them."""
        self._deleted: set[BlockHash] = set()
        """Hot blocks that were deleted while a sequence had them locked: on no disk, and not to be written as yet."""

    @property
    def num_writing(self) -> int:
        """Blocks handed over and not yet durable."""
        return len(self._writing)

    @property
    def in_flight_bytes(self) -> int:
        """Bytes handed over and not yet durable."""
        return sum(self._writing.values())

    @property
    def has_leaving(self) -> bool:
        """Whether a block waits for its write before it can leave RAM."""
        return bool(self._leaving)

    def is_writing(self, block_hash: BlockHash) -> bool:
        """Return whether the block was handed over and is not yet durable."""
        return block_hash in self._writing

    @property
    def refused_bytes(self) -> int:
        """Bytes of hot blocks that the warm store refused: they are evicted without being written."""
        return self._refused_bytes

    def check_integrity(self) -> None:
        """Raise `AssertionError` where a sum is wrong; looks at everything, for tests."""
        dirty = [name for name in self._refused if self._pool.is_dirty(name)]
        expected = sum(self._refused[name] for name in dirty)
        assert self._refused_bytes == expected, f"refused bytes {self._refused_bytes} != {expected}"

    def is_refused(self, block_hash: BlockHash) -> bool:
        """Return whether the warm store refused the block's last write."""
        return block_hash in self._refused

    def next_batch(self, *, limit_bytes: int | None = None) -> list[Block]:
        """Choose dirty blocks to write now, parents first, and count them as in flight.

        At least one block is chosen if there is any; then at most `limit_bytes` (None: what fits the budget).
        """
        chosen: list[Block] = []
        num_bytes = 0
        most = min(MAX_IN_FLIGHT_BYTES, int(self._pool.budget_bytes * MAX_IN_FLIGHT_SHARE))
        for block in self._pool.to_write():
            name = block.block_hash
            if name in self._writing:
                self._pool.set_aside(name)
                continue
            if self._pool.in_flight_bytes + num_bytes + block.num_bytes > most and (chosen or self._writing):
                break
            if num_bytes + block.num_bytes > self._pool.free_bytes and (chosen or self._writing):
                # Bytes on their way to the disk count as well: write piece by piece rather than overdraw.
                break
            if limit_bytes is not None and num_bytes >= limit_bytes:
                break
            if not self._warm.wants(name):
                # Asked before its tensors are turned into bytes: a policy may refuse a block at every turn.
                self._refuse(name)
                continue
            self._pool.set_aside(name)
            chosen.append(block)
            self._writing[name] = block.num_bytes
            num_bytes += block.num_bytes
        self._pool.lock([block.block_hash for block in chosen])
        self._pool.in_flight_bytes += num_bytes
        return chosen

    def ended(self, names: Iterable[BlockHash]) -> list[tuple[Block, str]]:
        """Take the end of these blocks' writing, one way or another; returns the blocks that now leave, and why."""
        leaving: list[tuple[Block, str]] = []
        for name in names:
            self._pool.in_flight_bytes -= self._writing.pop(name)
            self._pool.unlock([name])
            reason = self._leaving.pop(name, None)
            called_off = name in self._called_off
            self._called_off.discard(name)
            durable = self._warm.get(name) is not None
            if reason == "deleted" or durable:
                self._pool.mark_clean(name)
            elif called_off:
                self._pool.offer_again(name)
            else:
                self._refuse(name)
            block = self._pool.get(name)
            if reason is None or block is None:
                continue
            lost = name in self._refused and reason == "budget"
            if durable or lost or reason in LEAVES_UNWRITTEN:
                if self._pool.can_leave(name):
                    leaving.append((block, reason))
                elif reason == "deleted":
                    self.note_deleted(name)
            elif name not in self._refused:
                # Its writing was called off, and it was asked for since: it leaves once it is written after all.
                self._leaving[name] = reason
        return leaving

    def leave_once_written(self, block_hash: BlockHash, reason: str) -> None:
        """Let a block leave RAM when its writing has ended."""
        self._leaving[block_hash] = reason

    def call_off(self, block_hash: BlockHash) -> None:
        """Let a block that is being written leave RAM as deleted: it is not wanted on disk any more."""
        self._leaving[block_hash] = "deleted"
        self._called_off.add(block_hash)

    def note_deleted(self, block_hash: BlockHash) -> None:
        """Note that a block is deleted and stays hot for a sequence: it leaves unwritten, unless it is used again."""
        self._pool.mark_clean(block_hash)
        self._take_back_refusal(block_hash)
        self._deleted.add(block_hash)

    def is_deleted(self, block_hash: BlockHash) -> bool:
        """Return whether the block was deleted and is hot only because it was in use."""
        return block_hash in self._deleted

    def undelete(self, block_hash: BlockHash) -> None:
        """Let a block that was deleted while it was in use, and was asked for since, stay and be written."""
        if self._leaving.get(block_hash) == "deleted":
            del self._leaving[block_hash]
        if block_hash in self._deleted:
            self._deleted.discard(block_hash)
            self._pool.mark_dirty(block_hash)

    def retry_refused(self) -> None:
        """Offer refused blocks again: a disk has room again, a new day a new budget."""
        refused, self._refused, self._refused_bytes = self._refused, {}, 0
        for name in refused:
            self._pool.offer_again(name)

    def _refuse(self, block_hash: BlockHash) -> None:
        self._pool.set_aside(block_hash)
        block = self._pool.get(block_hash)
        if block is not None and block_hash not in self._refused:
            self._refused[block_hash] = block.num_bytes
            self._refused_bytes += block.num_bytes

    def _take_back_refusal(self, block_hash: BlockHash) -> None:
        self._refused_bytes -= self._refused.pop(block_hash, 0)

    def used_again(self, names: Sequence[BlockHash]) -> None:
        """Note that blocks are in use: they need not leave, and the disk may want them by now."""
        for name in names:
            self.undelete(name)
            self._leaving.pop(name, None)
            if name in self._refused:
                self._take_back_refusal(name)
                self._pool.offer_again(name)

    def forget(self, block_hash: BlockHash) -> None:
        """Drop the records of an evicted block."""
        self._leaving.pop(block_hash, None)
        self._take_back_refusal(block_hash)
        self._deleted.discard(block_hash)
