"""BlockPool: what is hot, who holds it, what it costs, and what goes next when room is needed.

Pure metadata: tensors are kept beside it by whoever owns the pool, under the same hashes. One ledger counts
everything that competes for the byte budget:

```
budget = hot blocks (pinned | locked | evictable) + running batches as padded + promised + writes in flight + free
```
Least recently used goes first. Uses are stamped tail first, so that of one conversation the tail goes before the
shared head. Blocks of *kept* agents (a client asked to cache them) go after all others; blocks of *pinned* agents (an
operator's choice) never go.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from semanticd.domain.block import Block
from semanticd.domain.ids import AgentId, BlockHash


@dataclass(slots=True)
class _Entry:
    block: Block
    dirty: bool
    last_used: int = 0
    num_locks: int = 0


@dataclass(frozen=True, slots=True)
class PoolLedger:
    """The budget's parts in bytes."""

    budget_bytes: int
    hot_bytes: int
    pinned_bytes: int
    locked_bytes: int
    dirty_bytes: int
    running_bytes: int
    in_flight_bytes: int
    promised_bytes: int = 0
    """Set aside for sequences that are being restored."""

    @property
    def used_bytes(self) -> int:
        """All that counts against the budget."""
        return self.hot_bytes + self.running_bytes + self.in_flight_bytes + self.promised_bytes

    @property
    def free_bytes(self) -> int:
        """What is left; negative when the budget is overdrawn."""
        return self.budget_bytes - self.used_bytes


class BlockPool:
    """The hot tier's book-keeping."""

    def __init__(self, *, budget_bytes: int) -> None:
        """Begin empty with a budget in bytes."""
        self.budget_bytes = budget_bytes
        self.running_bytes = 0
        self.in_flight_bytes = 0
        self.promised_bytes = 0
        """Set aside by reservations."""
        self._entries: OrderedDict[BlockHash, _Entry] = OrderedDict()
        """Hot blocks, least recently used first."""
        self._dirty: dict[BlockHash, None] = {}
        """Blocks that are not on disk, oldest first."""
        self._children: dict[BlockHash, set[BlockHash]] = {}
        self._tables: dict[AgentId, tuple[BlockHash, ...]] = {}
        self._holders: dict[BlockHash, set[AgentId]] = {}
        self._pinned: set[AgentId] = set()
        self._kept: set[AgentId] = set()
        self._hot_bytes = 0
        self._locked_bytes = 0
        self._dirty_bytes = 0
        self._tick = 0

    def __len__(self) -> int:
        """Count the hot blocks."""
        return len(self._entries)

    def __contains__(self, block_hash: BlockHash) -> bool:
        """Whether the block is hot."""
        return block_hash in self._entries

    def __iter__(self) -> Iterator[Block]:
        """Iterate over the hot blocks, least recently used first."""
        return (entry.block for entry in self._entries.values())

    # What is hot.

    def get(self, block_hash: BlockHash) -> Block | None:
        """Return a hot block's facts."""
        entry = self._entries.get(block_hash)
        return entry.block if entry else None

    def children(self, parent: BlockHash) -> list[Block]:
        """Return the hot blocks that directly follow `parent`."""
        return [self._entries[h].block for h in self._children.get(parent, ())]

    def insert(self, block: Block, *, dirty: bool) -> bool:
        """Add a block (`dirty`: not on disk yet); False when it is hot already."""
        if block.block_hash in self._entries:
            self.touch([block.block_hash])
            return False
        entry = _Entry(block, dirty)
        self._entries[block.block_hash] = entry
        self._children.setdefault(block.parent, set()).add(block.block_hash)
        self._hot_bytes += block.num_bytes
        if dirty:
            self._dirty[block.block_hash] = None
            self._dirty_bytes += block.num_bytes
        self.touch([block.block_hash])
        return True

    def remove(self, block_hash: BlockHash) -> Block:
        """Take a block out; raises `KeyError` when it is not hot, `ValueError` when it is locked."""
        entry = self._entries[block_hash]
        if entry.num_locks:
            raise ValueError(f"block {block_hash.hex()[:12]} is locked by {entry.num_locks} user(s)")
        self.mark_clean(block_hash)
        del self._entries[block_hash]
        siblings = self._children[entry.block.parent]
        siblings.discard(block_hash)
        if not siblings:
            del self._children[entry.block.parent]
        self._hot_bytes -= entry.block.num_bytes
        return entry.block

    def is_dirty(self, block_hash: BlockHash) -> bool:
        """Whether the block is hot and not on disk."""
        entry = self._entries.get(block_hash)
        return entry is not None and entry.dirty

    def mark_clean(self, block_hash: BlockHash) -> None:
        """Note that the block is on disk."""
        entry = self._entries.get(block_hash)
        if entry and entry.dirty:
            entry.dirty = False
            del self._dirty[block_hash]
            self._dirty_bytes -= entry.block.num_bytes

    def mark_dirty(self, block_hash: BlockHash) -> None:
        """Note that a hot block is not on disk any more."""
        entry = self._entries.get(block_hash)
        if entry and not entry.dirty:
            entry.dirty = True
            self._dirty[block_hash] = None
            self._dirty_bytes += entry.block.num_bytes

    def dirty_blocks(self) -> list[Block]:
        """Return blocks that are not on disk, oldest first and parents before children."""
        ordered: dict[BlockHash, Block] = {}
        for block_hash in self._dirty:
            entry = self._entries[block_hash]
            chain: list[Block] = []
            current: _Entry | None = entry if entry.dirty else None
            while current and current.dirty and current.block.block_hash not in ordered:
                chain.append(current.block)
                current = self._entries.get(current.block.parent)
            ordered.update((block.block_hash, block) for block in reversed(chain))
        return list(ordered.values())

    # Use.

    def touch(self, hashes: Sequence[BlockHash]) -> None:
        """Stamp a chain (first to last) as just used; its head becomes the most recent."""
        for block_hash in reversed(hashes):
            entry = self._entries.get(block_hash)
            if entry:
                self._tick += 1
                entry.last_used = self._tick
                self._entries.move_to_end(block_hash)

    def lock(self, hashes: Iterable[BlockHash]) -> None:
        """Keep these hot blocks from leaving while they are copied or written; counts nest."""
        for block_hash in hashes:
            entry = self._entries[block_hash]
            if not entry.num_locks:
                self._locked_bytes += entry.block.num_bytes
            entry.num_locks += 1

    def unlock(self, hashes: Iterable[BlockHash]) -> None:
        """Undo `lock`; raises `ValueError` when a block was not locked."""
        for block_hash in hashes:
            entry = self._entries[block_hash]
            if entry.num_locks < 1:
                raise ValueError(f"block {block_hash.hex()[:12]} is not locked")
            entry.num_locks -= 1
            if not entry.num_locks:
                self._locked_bytes -= entry.block.num_bytes

    def is_locked(self, block_hash: BlockHash) -> bool:
        """Whether the block is in use and must stay."""
        entry = self._entries.get(block_hash)
        return entry is not None and entry.num_locks > 0

    # Who holds what.

    def set_table(self, agent: AgentId, hashes: Sequence[BlockHash]) -> None:
        """Replace the agent's block table; blocks need not be hot."""
        old, new = set(self._tables.get(agent, ())), set(hashes)
        for block_hash in old - new:
            holders = self._holders[block_hash]
            holders.discard(agent)
            if not holders:
                del self._holders[block_hash]
        for block_hash in new - old:
            self._holders.setdefault(block_hash, set()).add(agent)
        if hashes:
            self._tables[agent] = tuple(hashes)
        else:
            self._tables.pop(agent, None)

    def table(self, agent: AgentId) -> tuple[BlockHash, ...]:
        """Return the agent's block table."""
        return self._tables.get(agent, ())

    def drop_agent(self, agent: AgentId) -> None:
        """Forget the agent's table and pin; its blocks stay until room is needed."""
        self.set_table(agent, ())
        self._pinned.discard(agent)
        self._kept.discard(agent)

    @property
    def num_agents(self) -> int:
        """Agents with a table."""
        return len(self._tables)

    def agents(self) -> list[AgentId]:
        """Return the agents with a table."""
        return list(self._tables)

    def holders(self, block_hash: BlockHash) -> frozenset[AgentId]:
        """Return the agents whose table names this block, hot or not."""
        return frozenset(self._holders.get(block_hash, ()))

    def pin(self, agent: AgentId) -> None:
        """Keep the agent's blocks hot once they are."""
        self._pinned.add(agent)

    def unpin(self, agent: AgentId) -> None:
        """Let the agent's blocks go again."""
        self._pinned.discard(agent)

    def keep(self, agent: AgentId) -> None:
        """Let the agent's blocks go after those of agents that are not kept."""
        self._kept.add(agent)

    def release(self, agent: AgentId) -> None:
        """Undo `keep`."""
        self._kept.discard(agent)

    def is_kept_agent(self, agent: AgentId) -> bool:
        """Whether the agent's blocks go after others."""
        return agent in self._kept

    def is_kept(self, block_hash: BlockHash) -> bool:
        """Whether a kept agent holds this block."""
        return bool(self._kept) and not self._kept.isdisjoint(self._holders.get(block_hash, ()))

    def is_pinned_agent(self, agent: AgentId) -> bool:
        """Whether the agent is pinned."""
        return agent in self._pinned

    def is_pinned(self, block_hash: BlockHash) -> bool:
        """Whether a pinned agent holds this block."""
        return bool(self._pinned) and not self._pinned.isdisjoint(self._holders.get(block_hash, ()))

    def hot_agents(self) -> list[AgentId]:
        """Return the agents that hold at least one hot block, least recently used first."""
        recency: dict[AgentId, int] = {}
        for agent, table in self._tables.items():
            ticks = [self._entries[h].last_used for h in table if h in self._entries]
            if ticks:
                # The tail tells: shared heads are young because of others.
                recency[agent] = min(ticks)
        return sorted(recency, key=lambda agent: recency[agent])

    def agent_bytes(self, agent: AgentId) -> int:
        """Bytes of the agent's hot blocks, shared ones counted in full."""
        return sum(self._entries[h].block.num_bytes for h in self.table(agent) if h in self._entries)

    def exclusive_blocks(self, agent: AgentId) -> list[Block]:
        """Return the agent's hot blocks that no other agent holds, last to first."""
        found = []
        for block_hash in reversed(self.table(agent)):
            entry = self._entries.get(block_hash)
            if entry and self._holders[block_hash] == {agent}:
                found.append(entry.block)
        return found

    # Budget.

    @property
    def hot_bytes(self) -> int:
        """Bytes of all hot blocks."""
        return self._hot_bytes

    @property
    def free_bytes(self) -> int:
        """Bytes left in the budget; negative when overdrawn."""
        used = self._hot_bytes + self.running_bytes + self.in_flight_bytes + self.promised_bytes
        return self.budget_bytes - used

    @property
    def pinned_bytes(self) -> int:
        """Bytes of hot blocks that a pinned agent holds."""
        if not self._pinned:
            return 0
        names = {name for agent in self._pinned for name in self._tables.get(agent, ())}
        return sum(self._entries[name].block.num_bytes for name in names if name in self._entries)

    def ledger(self) -> PoolLedger:
        """Return the budget's parts."""
        return PoolLedger(
            budget_bytes=self.budget_bytes,
            hot_bytes=self._hot_bytes,
            pinned_bytes=self.pinned_bytes,
            locked_bytes=self._locked_bytes,
            dirty_bytes=self._dirty_bytes,
            running_bytes=self.running_bytes,
            in_flight_bytes=self.in_flight_bytes,
            promised_bytes=self.promised_bytes,
        )

    def num_shared(self) -> int:
        """Count the hot blocks that more than one agent holds."""
        return sum(1 for block_hash in self._entries if len(self._holders.get(block_hash, ())) > 1)

    def evictable_bytes(self) -> int:
        """Bytes of hot blocks that may leave now."""
        if not self._pinned:
            return self._hot_bytes - self._locked_bytes
        return sum(e.block.num_bytes for e in self._entries.values() if self._may_leave(e))

    def victims(self, num_bytes: int) -> list[Block]:
        """Choose least recently used blocks worth at least `num_bytes`, as far as there are any; kept ones last."""
        chosen: list[Block] = []
        total = 0
        for want_kept in (False, True) if self._kept else (False,):
            for block_hash, entry in self._entries.items():
                if total >= num_bytes:
                    return chosen
                if self.is_kept(block_hash) is want_kept and self._may_leave(entry):
                    chosen.append(entry.block)
                    total += entry.block.num_bytes
        return chosen

    def can_leave(self, block_hash: BlockHash) -> bool:
        """Whether the block is hot and neither locked nor pinned."""
        entry = self._entries.get(block_hash)
        return entry is not None and self._may_leave(entry)

    def _may_leave(self, entry: _Entry) -> bool:
        return entry.num_locks == 0 and not self.is_pinned(entry.block.block_hash)

    def check_integrity(self) -> None:
        """Raise `AssertionError` naming the first broken invariant. Runs when the engine idles and in tests."""
        total = sum(entry.block.num_bytes for entry in self._entries.values())
        assert total == self._hot_bytes, f"hot bytes {self._hot_bytes} != sum of blocks {total}"
        dirty = {name for name, entry in self._entries.items() if entry.dirty}
        assert dirty == set(self._dirty), "dirty blocks differ from the dirty list"
        for what, counted, entries in (
            ("dirty", self._dirty_bytes, [self._entries[name] for name in dirty]),
            ("locked", self._locked_bytes, [e for e in self._entries.values() if e.num_locks]),
        ):
            expected_bytes = sum(entry.block.num_bytes for entry in entries)
            assert counted == expected_bytes, f"{what} bytes {counted} != {expected_bytes}"
        for block_hash, entry in self._entries.items():
            name = block_hash.hex()[:12]
            assert entry.block.block_hash == block_hash, f"{name} filed under another hash"
            assert entry.num_locks >= 0, f"{name} has {entry.num_locks} locks"
            assert block_hash in self._children.get(entry.block.parent, ()), f"{name} unknown to its parent"
        expected: dict[BlockHash, set[AgentId]] = {}
        for agent, table in self._tables.items():
            for block_hash in table:
                expected.setdefault(block_hash, set()).add(agent)
        assert self._holders == expected, "block holders differ from the agents' tables"
        for parent, children in self._children.items():
            assert children, f"empty child set of {parent.hex()[:12]}"
            for child in children:
                assert child in self._entries, f"child {child.hex()[:12]} is not hot"
        assert self.running_bytes >= 0, f"running bytes {self.running_bytes}"
        assert self.in_flight_bytes >= 0, f"in-flight bytes {self.in_flight_bytes}"
        assert self.promised_bytes >= 0, f"promised bytes {self.promised_bytes}"
