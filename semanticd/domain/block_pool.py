"""BlockPool: the hot blocks, their holders, their bytes, and the order of eviction.

Pure metadata: the pool's owner keeps the tensors, under the same hashes. One ledger counts
everything that competes for the byte budget:

```
budget = hot blocks (pinned | locked | evictable) + running batches as padded + promised + writes in flight + free
```
Least recently used goes first, but none before the hot blocks that follow it: what stays of a chain is a prefix that
can be used. Uses are stamped tail first, so that of one conversation the tail goes before the shared head. A block
that is not on disk stays as long as one that follows it may not leave. Blocks of *kept* agents (a client asked to
cache them) go after all others; blocks of *pinned* agents (an operator's choice) stay, and go last of all where
what runs alone has no other room. Before all others go those that are in RAM twice: a running sequence has their
bytes in its running cache, from which they come back.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from semanticd.domain.agent_changes import AgentChanges
from semanticd.domain.block import Block
from semanticd.domain.ids import AgentId, BlockHash

MAX_PINNED_SHARE = 1 / 2
"""Maximum share of the budget for pins: requests need the rest, or they would always be refused."""
_PLAIN, _KEPT, _PINNED = range(3)
"""Standing of a block when room is needed: blocks of a lower standing are evicted first."""


@dataclass(slots=True)
class _Entry:
    block: Block
    dirty: bool
    last_used: int = 0
    num_locks: int = 0
    counts_as_stuck: bool = False
    """Whether its bytes are in the sum of those that may not leave."""


@dataclass(frozen=True, slots=True)
class AgentPlace:
    """An agent's block table, its share of RAM, and the agents that share blocks with it: some by name, all counted."""

    table: tuple[BlockHash, ...]
    share: HotShare
    sharing: tuple[AgentId, ...]
    num_sharing: int


@dataclass(frozen=True, slots=True)
class HotShare:
    """An agent's share of RAM: hot blocks, their bytes, and the part of these that other agents hold too."""

    num_blocks: int = 0
    num_bytes: int = 0
    shared_bytes: int = 0


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
        """The remaining bytes; negative when the budget is overdrawn."""
        return self.budget_bytes - self.used_bytes


@dataclass(frozen=True, slots=True)
class HotUse:
    """The hot part of an agent's table, and its overlap with each other agent."""

    num_blocks: int
    num_bytes: int
    shared_bytes: int
    sharing: Mapping[AgentId, tuple[int, int]]
    """Blocks and their bytes."""


class HotBlock(NamedTuple):
    """A hot block in the map of blocks; there are thousands."""

    state: str
    """pinned, dirty or hot."""
    num_agents: int
    num_bytes: int


class BlockPool:
    """The hot tier's book-keeping."""

    def __init__(self, *, budget_bytes: int, has_disk: bool = True) -> None:
        """Begin empty with a budget in bytes; without a disk, evicted blocks are lost."""
        self._has_disk = has_disk
        self.budget_bytes = budget_bytes
        self.running_bytes = 0
        self.in_flight_bytes = 0
        self.promised_bytes = 0
        """Set aside by reservations."""
        self._entries: OrderedDict[BlockHash, _Entry] = OrderedDict()
        """Hot blocks, least recently used first."""
        self._dirty: dict[BlockHash, None] = {}
        """Blocks that are not on disk, oldest first."""
        self._to_write: dict[BlockHash, None] = {}
        """Of these, those that are to be offered to the disk."""
        self._children: dict[BlockHash, set[BlockHash]] = {}
        self._tables: dict[AgentId, tuple[BlockHash, ...]] = {}
        self._holders: dict[BlockHash, set[AgentId]] = {}
        self._shares: dict[AgentId, HotShare] = {}
        """For agents with at least one hot block."""
        self._pinned: set[AgentId] = set()
        self._num_pins: dict[BlockHash, int] = {}
        """For blocks in a pinned agent's table, how many pinned agents hold them."""
        self._kept: set[AgentId] = set()
        self._num_running: dict[BlockHash, int] = {}
        """For blocks whose bytes running sequences have in their running caches, how many of them."""
        self._twice: dict[BlockHash, None] = {}
        """Of these, the hot blocks that are on disk too."""
        self._hot_bytes = 0
        self._locked_bytes = 0
        self._pinned_bytes = 0
        self._stuck_bytes = 0
        """Bytes of hot blocks that are locked or pinned."""
        self._dirty_bytes = 0
        self._num_shared = 0
        self.changes = AgentChanges()
        """Agents whose share of RAM changed."""
        self._states: OrderedDict[BlockHash, None] = OrderedDict()
        """Snapshots among the hot blocks, least recently used first."""
        self.state_bytes = 0
        """Bytes of the hot snapshots."""
        self._tick = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, block_hash: BlockHash) -> bool:
        return block_hash in self._entries

    def __iter__(self) -> Iterator[Block]:
        """Iterate over the hot blocks, least recently used first."""
        return (entry.block for entry in self._entries.values())

    # Hot blocks.

    def get(self, block_hash: BlockHash) -> Block | None:
        """Return a hot block's facts."""
        entry = self._entries.get(block_hash)
        return entry.block if entry else None

    def children(self, parent: BlockHash) -> list[Block]:
        """Return the hot blocks that directly follow `parent`."""
        return [self._entries[h].block for h in self._children.get(parent, ())]

    def has_children(self, parent: BlockHash) -> bool:
        """Return whether a hot block directly follows `parent`."""
        return parent in self._children

    def insert(self, block: Block, *, dirty: bool) -> bool:
        """Add a block (`dirty`: not on disk yet); False when it is hot already."""
        if block.block_hash in self._entries:
            self.touch([block.block_hash])
            return False
        entry = _Entry(block, dirty)
        self._entries[block.block_hash] = entry
        self._children.setdefault(block.parent, set()).add(block.block_hash)
        self._hot_bytes += block.num_bytes
        if block.kind == "state":
            self._states[block.block_hash] = None
            self.state_bytes += block.num_bytes
        if dirty:
            self._dirty[block.block_hash] = None
            self._to_write[block.block_hash] = None
            self._dirty_bytes += block.num_bytes
        if block.block_hash in self._num_pins:
            self._pinned_bytes += block.num_bytes
        self._note_twice(block.block_hash)
        self._count_stuck(entry)
        self._count_for_holders(block, 1)
        self.touch([block.block_hash])
        return True

    def _count_for_holders(self, block: Block, sign: int) -> None:
        """Add a block that has become hot to its holders' shares (`sign` 1), or take it out (-1)."""
        holders = self._holders.get(block.block_hash, ())
        is_shared = len(holders) > 1
        self._num_shared += sign if is_shared else 0
        for agent in holders:
            self._add_to_share(agent, sign * block.num_bytes, num_blocks=sign, is_shared=is_shared)

    def _add_to_share(self, agent: AgentId, num_bytes: int, *, num_blocks: int, is_shared: bool) -> None:
        old = self._shares.get(agent, _NOTHING_HOT)
        new = HotShare(
            old.num_blocks + num_blocks,
            old.num_bytes + num_bytes,
            old.shared_bytes + (num_bytes if is_shared else 0),
        )
        if new.num_blocks:
            self._shares[agent] = new
        else:
            self._shares.pop(agent, None)
        self.changes.note(agent)

    def _become_shared(self, agent: AgentId, num_bytes: int) -> None:
        """Count bytes of an agent's hot block as shared from now on; negative bytes as its own again."""
        old = self._shares[agent]
        self._shares[agent] = HotShare(old.num_blocks, old.num_bytes, old.shared_bytes + num_bytes)
        self.changes.note(agent)

    def _count_stuck(self, entry: _Entry) -> None:
        """Bring the sum of bytes that may not leave up to date after a lock or a pin changed."""
        is_stuck = entry.num_locks > 0 or entry.block.block_hash in self._num_pins
        if is_stuck is not entry.counts_as_stuck:
            entry.counts_as_stuck = is_stuck
            self._stuck_bytes += entry.block.num_bytes if is_stuck else -entry.block.num_bytes

    def remove(self, block_hash: BlockHash) -> Block:
        """Remove a block.

        Raises:
            KeyError: The block is not hot.
            ValueError: The block is locked.
        """
        entry = self._entries[block_hash]
        if entry.num_locks:
            raise ValueError(f"block {block_hash.hex()[:12]} is locked by {entry.num_locks} user(s)")
        self.mark_clean(block_hash)
        del self._entries[block_hash]
        self._twice.pop(block_hash, None)
        siblings = self._children[entry.block.parent]
        siblings.discard(block_hash)
        if not siblings:
            del self._children[entry.block.parent]
        self._hot_bytes -= entry.block.num_bytes
        if entry.counts_as_stuck:
            self._stuck_bytes -= entry.block.num_bytes
        if block_hash in self._num_pins:
            self._pinned_bytes -= entry.block.num_bytes
        self._count_for_holders(entry.block, -1)
        if entry.block.kind == "state":
            del self._states[block_hash]
            self.state_bytes -= entry.block.num_bytes
        return entry.block

    def is_dirty(self, block_hash: BlockHash) -> bool:
        """Return whether the block is hot and not on disk."""
        entry = self._entries.get(block_hash)
        return entry is not None and entry.dirty

    def mark_clean(self, block_hash: BlockHash) -> None:
        """Note that the block is on disk."""
        entry = self._entries.get(block_hash)
        if entry and entry.dirty:
            entry.dirty = False
            del self._dirty[block_hash]
            self._to_write.pop(block_hash, None)
            self._dirty_bytes -= entry.block.num_bytes
            self._note_twice(block_hash)

    def mark_dirty(self, block_hash: BlockHash) -> None:
        """Note that a hot block is not on disk any more."""
        entry = self._entries.get(block_hash)
        if entry and not entry.dirty:
            entry.dirty = True
            self._dirty[block_hash] = None
            self._to_write[block_hash] = None
            self._dirty_bytes += entry.block.num_bytes
            self._note_twice(block_hash)

    def dirty_names(self) -> Iterable[BlockHash]:
        """Return the names of the blocks that are not on disk; the pool must not change while they are read."""
        return self._dirty.keys()

    def to_write(self) -> Iterator[Block]:
        """Iterate over dirty blocks that are to be offered to the disk, oldest first and parents before children.

        The caller calls `set_aside` for each block before it asks for the next, and changes nothing else meanwhile.
        """
        while self._to_write:
            chain: list[Block] = []
            name = next(iter(self._to_write))
            while name in self._to_write:
                block = self._entries[name].block
                chain.append(block)
                name = block.parent
            yield from reversed(chain)

    def write_first(self, names: Iterable[BlockHash]) -> None:
        """Offer these blocks to the disk before all others, in this order; those that are not to be offered stay so."""
        first = {name: None for name in names if name in self._to_write}
        self._to_write = {**first, **self._to_write}

    def set_aside(self, block_hash: BlockHash) -> None:
        """Stop offering a dirty block to the disk: it is being written or was refused."""
        self._to_write.pop(block_hash, None)

    def offer_again(self, block_hash: BlockHash) -> None:
        """Undo `set_aside`; harmless for a block that is not dirty."""
        if block_hash in self._dirty:
            self._to_write[block_hash] = None

    # Use.

    def touch(self, hashes: Sequence[BlockHash]) -> None:
        """Stamp a chain (first to last) as just used; its head becomes the most recent."""
        for block_hash in reversed(hashes):
            entry = self._entries.get(block_hash)
            if entry:
                self._tick += 1
                entry.last_used = self._tick
                self._entries.move_to_end(block_hash)
                if block_hash in self._states:
                    self._states.move_to_end(block_hash)

    def lock(self, hashes: Iterable[BlockHash]) -> None:
        """Keep these hot blocks from leaving while they are copied or written; counts nest."""
        for block_hash in hashes:
            entry = self._entries[block_hash]
            if not entry.num_locks:
                self._locked_bytes += entry.block.num_bytes
            entry.num_locks += 1
            self._count_stuck(entry)

    def unlock(self, hashes: Iterable[BlockHash]) -> None:
        """Undo `lock`.

        Raises:
            ValueError: A block was not locked.
        """
        for block_hash in hashes:
            entry = self._entries[block_hash]
            if entry.num_locks < 1:
                raise ValueError(f"block {block_hash.hex()[:12]} is not locked")
            entry.num_locks -= 1
            if not entry.num_locks:
                self._locked_bytes -= entry.block.num_bytes
                self._count_stuck(entry)

    def is_locked(self, block_hash: BlockHash) -> bool:
        """Return whether the block is in use and must stay."""
        entry = self._entries.get(block_hash)
        return entry is not None and entry.num_locks > 0

    # Blocks that running caches hold too.

    def note_running_copy(self, block_hash: BlockHash) -> None:
        """Note that a running sequence has a block's bytes, hot or not, in its running cache; counts nest."""
        self._num_running[block_hash] = self._num_running.get(block_hash, 0) + 1
        self._note_twice(block_hash)

    def forget_running_copy(self, block_hash: BlockHash) -> None:
        """Undo `note_running_copy`."""
        left = self._num_running[block_hash] - 1
        if left:
            self._num_running[block_hash] = left
        else:
            del self._num_running[block_hash]
            self._twice.pop(block_hash, None)

    def has_running_copy(self, block_hash: BlockHash) -> bool:
        """Return whether a running sequence has the block's bytes."""
        return block_hash in self._num_running

    def _note_twice(self, block_hash: BlockHash) -> None:
        entry = self._entries.get(block_hash)
        is_on_disk = self._has_disk and entry is not None and not entry.dirty
        if is_on_disk and block_hash in self._num_running:
            self._twice[block_hash] = None
        else:
            self._twice.pop(block_hash, None)

    # Agents' block tables.

    def set_table(self, agent: AgentId, hashes: Sequence[BlockHash]) -> None:
        """Replace the agent's block table; blocks need not be hot."""
        old, new = set(self._tables.get(agent, ())), set(hashes)
        for block_hash in old - new:
            self._let_go(agent, block_hash)
        for block_hash in new - old:
            self._take_hold(agent, block_hash)
        if hashes:
            self._tables[agent] = tuple(hashes)
        else:
            self._tables.pop(agent, None)

    def _take_hold(self, agent: AgentId, block_hash: BlockHash) -> None:
        holders = self._holders.setdefault(block_hash, set())
        entry = self._entries.get(block_hash)
        if entry is not None:
            num_bytes = entry.block.num_bytes
            if len(holders) == 1:
                self._num_shared += 1
                self._become_shared(next(iter(holders)), num_bytes)
            self._add_to_share(agent, num_bytes, num_blocks=1, is_shared=bool(holders))
        holders.add(agent)
        if agent in self._pinned:
            self._pin_block(block_hash, 1)

    def _let_go(self, agent: AgentId, block_hash: BlockHash) -> None:
        holders = self._holders[block_hash]
        entry = self._entries.get(block_hash)
        if entry is not None:
            num_bytes = entry.block.num_bytes
            self._add_to_share(agent, -num_bytes, num_blocks=-1, is_shared=len(holders) > 1)
            if len(holders) == 2:
                self._num_shared -= 1
                self._become_shared(next(one for one in holders if one != agent), -num_bytes)
        holders.discard(agent)
        if not holders:
            del self._holders[block_hash]
        if agent in self._pinned:
            self._pin_block(block_hash, -1)

    def _pin_block(self, block_hash: BlockHash, sign: int) -> None:
        before = self._num_pins.get(block_hash, 0)
        if before + sign:
            self._num_pins[block_hash] = before + sign
        else:
            del self._num_pins[block_hash]
        entry = self._entries.get(block_hash)
        if entry is not None and (before == 0 or before + sign == 0):
            self._pinned_bytes += sign * entry.block.num_bytes
            self._count_stuck(entry)

    def table(self, agent: AgentId) -> tuple[BlockHash, ...]:
        """Return the agent's block table."""
        return self._tables.get(agent, ())

    def drop_agent(self, agent: AgentId) -> None:
        """Forget the agent's table and pin; its blocks stay until room is needed."""
        self.unpin(agent)
        self.set_table(agent, ())
        self._kept.discard(agent)

    def holders(self, block_hash: BlockHash) -> frozenset[AgentId]:
        """Return the agents whose table names this block, hot or not."""
        return frozenset(self._holders.get(block_hash, ()))

    def num_holders(self, block_hash: BlockHash) -> int:
        """Count the agents whose table names this block, hot or not."""
        return len(self._holders.get(block_hash, ()))

    @property
    def max_pinned_bytes(self) -> int:
        """Maximum size of pinned blocks in bytes: `MAX_PINNED_SHARE` of the budget."""
        return int(self.budget_bytes * MAX_PINNED_SHARE)

    def pin_adds(self, agent: AgentId) -> int:
        """Return how many bytes become pinned with this agent: its hot blocks that no other pin keeps."""
        return self._bytes_pinned_by(agent, num_others=0) if agent not in self._pinned else 0

    def pin_frees(self, agent: AgentId) -> int:
        """Return how many bytes only this agent's pin keeps pinned."""
        return self._bytes_pinned_by(agent, num_others=1) if agent in self._pinned else 0

    def _bytes_pinned_by(self, agent: AgentId, *, num_others: int) -> int:
        names = [name for name in set(self.table(agent)) if self._num_pins.get(name, 0) == num_others]
        return sum(self._entries[name].block.num_bytes for name in names if name in self._entries)

    def could_pin(self, agent: AgentId) -> bool:
        """Return whether the agent's and all pinned blocks together fit into `MAX_PINNED_SHARE` of the budget."""
        return self._pinned_bytes + self.pin_adds(agent) <= self.max_pinned_bytes

    def pin(self, agent: AgentId) -> None:
        """Keep the agent's blocks hot once they are."""
        if agent not in self._pinned:
            self._pinned.add(agent)
            for block_hash in set(self._tables.get(agent, ())):
                self._pin_block(block_hash, 1)

    def unpin(self, agent: AgentId) -> None:
        """Let the agent's blocks go again."""
        if agent in self._pinned:
            self._pinned.discard(agent)
            for block_hash in set(self._tables.get(agent, ())):
                self._pin_block(block_hash, -1)

    def keep(self, agent: AgentId) -> None:
        """Let the agent's blocks go after those of agents that are not kept."""
        self._kept.add(agent)

    def release(self, agent: AgentId) -> None:
        """Undo `keep`."""
        self._kept.discard(agent)

    def is_kept_agent(self, agent: AgentId) -> bool:
        """Return whether the agent's blocks are evicted after those of other agents."""
        return agent in self._kept

    def is_kept(self, block_hash: BlockHash) -> bool:
        """Return whether a kept agent holds this block."""
        return bool(self._kept) and not self._kept.isdisjoint(self._holders.get(block_hash, ()))

    def is_pinned_agent(self, agent: AgentId) -> bool:
        return agent in self._pinned

    def is_pinned(self, block_hash: BlockHash, *, but_by: AgentId | None = None) -> bool:
        """Return whether a pinned agent other than `but_by` holds this block."""
        own = but_by in self._pinned and but_by in self._holders.get(block_hash, ())
        return self._num_pins.get(block_hash, 0) > own

    @property
    def num_hot_agents(self) -> int:
        """Agents that hold at least one hot block."""
        return len(self._shares)

    def hot_agents(self) -> list[AgentId]:
        """Return the agents that hold at least one hot block, in no order."""
        return list(self._shares)

    def coldest_agents(self, number: int) -> list[AgentId]:
        """Return agents that alone hold a hot block, least recently used first, at most `number`.

        The tail decides: other agents keep shared heads young.
        """
        found: dict[AgentId, None] = {}
        for block_hash in self._entries:
            holders = self._holders.get(block_hash, ())
            if len(holders) == 1:
                found.update(dict.fromkeys(holders))
                if len(found) >= number:
                    break
        return list(found)

    def places(self, agents: Iterable[AgentId], *, max_sharing: int) -> list[AgentPlace]:
        """Return where these agents' blocks are, each with at most `max_sharing` of those that share them."""
        sharing: dict[BlockHash, list[AgentId]] = {}
        found = []
        for agent in agents:
            table = self.table(agent)
            # A table is a chain: an agent that shares any of its blocks shares the first one. Left out is who shares no
            # more than a snapshot within the first block: finding that would mean asking about every block.
            if table and table[0] not in sharing:
                sharing[table[0]] = sorted(self._holders[table[0]])
            others = sharing[table[0]] if table else []
            named = [one for one in others[: max_sharing + 1] if one != agent][:max_sharing]
            found.append(AgentPlace(table, self.share(agent), tuple(named), max(len(others) - 1, 0)))
        return found

    def share(self, agent: AgentId) -> HotShare:
        """Return the agent's share of RAM."""
        return self._shares.get(agent, _NOTHING_HOT)

    def agent_bytes(self, agent: AgentId) -> int:
        """Bytes of the agent's hot blocks, shared ones counted in full."""
        return self.share(agent).num_bytes

    def hot_use(self, agent: AgentId, table: Sequence[BlockHash]) -> HotUse:
        """Return what of an agent's table is hot; the table may be of an agent that is not in memory."""
        hot = [self._entries[name].block for name in dict.fromkeys(table) if name in self._entries]
        shared_bytes, sharing = 0, dict[AgentId, tuple[int, int]]()
        for block in hot:
            others = self._holders.get(block.block_hash, set()) - {agent}
            shared_bytes += block.num_bytes if others else 0
            for other in others:
                blocks, num_bytes = sharing.get(other, (0, 0))
                sharing[other] = (blocks + 1, num_bytes + block.num_bytes)
        return HotUse(len(hot), sum(block.num_bytes for block in hot), shared_bytes, sharing)

    def hot_blocks(self, limit: int) -> list[HotBlock]:
        """Return the hot blocks as a map shows them, at most `limit`."""
        return [
            HotBlock(
                "pinned" if self.is_pinned(name) else "dirty" if entry.dirty else "hot",
                len(self._holders.get(name, ())),
                entry.block.num_bytes,
            )
            for name, entry in itertools.islice(self._entries.items(), limit)
        ]

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
    def dirty_bytes(self) -> int:
        """Bytes of hot blocks that are not on disk."""
        return self._dirty_bytes

    @property
    def free_bytes(self) -> int:
        """Bytes left in the budget; negative when overdrawn."""
        used = self._hot_bytes + self.running_bytes + self.in_flight_bytes + self.promised_bytes
        return self.budget_bytes - used

    @property
    def pinned_bytes(self) -> int:
        """Bytes of hot blocks that a pinned agent holds."""
        return self._pinned_bytes

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
        return self._num_shared

    def evictable_bytes(self) -> int:
        """Bytes of hot blocks that may leave now."""
        return self._hot_bytes - self._stuck_bytes

    @property
    def room_over_pins(self) -> int:
        """Bytes that what runs could have in addition when all hot blocks had left but those that sequences lock."""
        in_use = max(self._locked_bytes - self.in_flight_bytes, 0)
        return self.budget_bytes - self.running_bytes - self.promised_bytes - in_use

    def pins_in_the_way(self, num_bytes: int, *, at_once: bool = False) -> int:
        """Return how many bytes of pinned blocks must be evicted before running caches can have `num_bytes` more.

        So much is missing when all others have left, also those that are written before; or, `at_once`, those that can
        leave now. Locked blocks are not counted.
        """
        if at_once:
            missing = num_bytes - self.free_bytes - self.evictable_bytes()
        else:
            needed = self.running_bytes + self.promised_bytes + num_bytes
            missing = needed + self._pinned_bytes - self.budget_bytes
        return max(min(missing, self._stuck_bytes - self._locked_bytes), 0)

    def victims(self, num_bytes: int, *, at_any_cost: bool = False, pinned_bytes: int = 0) -> list[Block]:
        """Choose least recently used blocks worth at least `num_bytes`, as far as there are any; kept ones last.

        First of all come those on disk that a running cache has too, the last of them first. Of the others a block
        comes after all hot ones that follow it. One that is not on disk is not chosen where one of those stays, unless
        that is worth it `at_any_cost`. Where all of them are not enough, pinned ones follow, of `pinned_bytes` and the
        rest of a block at most.
        """
        chosen = {block.block_hash: block for block in self._twice_held(num_bytes)}
        num_bytes -= sum(block.num_bytes for block in chosen.values())
        ways = (True, False) if at_any_cost else (True,)
        others = (_PLAIN, _KEPT) if self._kept else (_PLAIN,)
        for follows in ways:
            for standing in others:
                num_bytes -= self._choose(chosen, num_bytes, standing=standing, follows=follows)
        num_bytes = min(num_bytes, pinned_bytes)
        for follows in ways if num_bytes > 0 else ():
            num_bytes -= self._choose(chosen, num_bytes, standing=_PINNED, follows=follows)
        return list(chosen.values())

    def _twice_held(self, num_bytes: int) -> Iterator[Block]:
        """Iterate over blocks that are twice in RAM and on disk, up to at least `num_bytes` if available."""
        for block_hash in reversed(self._twice):
            if num_bytes <= 0:
                return
            entry = self._entries[block_hash]
            if self._may_leave(entry):
                yield entry.block
                num_bytes -= entry.block.num_bytes

    def _choose(self, chosen: dict[BlockHash, Block], num_bytes: int, *, standing: int, follows: bool) -> int:
        """Add blocks of this standing to those chosen, worth at least `num_bytes`; returns what they are worth."""
        total = 0
        staying: set[BlockHash] = set()
        for block_hash in self._entries:
            if total >= num_bytes:
                break
            for block in self._leaving_with(block_hash, chosen, staying, standing=standing, follows=follows):
                chosen[block.block_hash] = block
                total += block.num_bytes
                if total >= num_bytes:
                    break
        return total

    def _leaving_with(
        self,
        name: BlockHash,
        chosen: Mapping[BlockHash, Block],
        staying: set[BlockHash],
        *,
        standing: int,
        follows: bool,
    ) -> Iterator[Block]:
        """Iterate over a block and the hot ones that follow it, each after its own followers, as far as they may leave.

        Those that may not are added to `staying`, and are not looked at again. Without `follows` a block may leave
        though one that follows it stays. The caller adds each block to `chosen` before it asks for the next.
        """
        ways = [(name, False)]
        while ways:
            name, was_followed = ways.pop()
            if name in chosen or name in staying:
                continue
            children = self._children.get(name, ())
            entry = self._entries[name]
            if entry.num_locks or self._standing(name) != standing:
                staying.add(name)
                continue
            if not was_followed:
                ways.append((name, True))
                ways += [(child, False) for child in sorted(children, key=self._last_used, reverse=True)]
                continue
            is_lost = entry.dirty or not self._has_disk
            if follows and is_lost and any(child not in chosen for child in children):
                staying.add(name)
            else:
                yield entry.block

    def _standing(self, block_hash: BlockHash) -> int:
        if self.is_pinned(block_hash):
            return _PINNED
        return _KEPT if self.is_kept(block_hash) else _PLAIN

    def _last_used(self, block_hash: BlockHash) -> int:
        return self._entries[block_hash].last_used

    def state_victims(self, num_bytes: int) -> list[Block]:
        """Choose least recently used snapshots worth at least `num_bytes`, as far as there are any that may leave."""
        chosen: list[Block] = []
        for block_hash in self._states:
            if num_bytes <= 0:
                break
            entry = self._entries[block_hash]
            if self._may_leave(entry):
                chosen.append(entry.block)
                num_bytes -= entry.block.num_bytes
        return chosen

    def can_leave(self, block_hash: BlockHash) -> bool:
        """Return whether the block is hot and neither locked nor pinned."""
        entry = self._entries.get(block_hash)
        return entry is not None and self._may_leave(entry)

    def _may_leave(self, entry: _Entry) -> bool:
        return entry.num_locks == 0 and not self.is_pinned(entry.block.block_hash)

    def check_integrity(self) -> None:
        """Raise `AssertionError` naming the first broken invariant, after a look at everything. Runs in tests."""
        self._check_sums()
        for block_hash in self._entries:
            self.check_block(block_hash)
        for name in self._to_write:
            assert name in self._dirty, f"{name.hex()[:12]} is to be written and not dirty"
        clean = {name for name in self._num_running if name in self._entries and name not in self._dirty}
        twice = clean if self._has_disk else set()
        assert set(self._twice) == twice, "blocks that running caches have too differ from their list"
        expected: dict[BlockHash, set[AgentId]] = {}
        for agent, table in self._tables.items():
            for block_hash in table:
                expected.setdefault(block_hash, set()).add(agent)
        assert self._holders == expected, "block holders differ from the agents' tables"
        for parent, children in self._children.items():
            assert children, f"empty child set of {parent.hex()[:12]}"
            for child in children:
                assert child in self._entries, f"child {child.hex()[:12]} is not hot"
        shares: dict[AgentId, HotShare] = {}
        for agent in self._tables:
            share = self._counted_share(agent)
            if share.num_blocks:
                shares[agent] = share
        assert self._shares == shares, "the agents' shares of RAM differ from their blocks"

    def check_block(self, block_hash: BlockHash) -> None:
        """Raise `AssertionError` if the records of one hot block are inconsistent."""
        entry, name = self._entries[block_hash], block_hash.hex()[:12]
        assert entry.block.block_hash == block_hash, f"{name} filed under another hash"
        assert entry.num_locks >= 0, f"{name} has {entry.num_locks} locks"
        assert block_hash in self._children.get(entry.block.parent, ()), f"{name} unknown to its parent"
        assert entry.dirty == (block_hash in self._dirty), f"{name} and the dirty list differ"
        is_pinned = not self._pinned.isdisjoint(self._holders.get(block_hash, ()))
        assert is_pinned == (block_hash in self._num_pins), f"{name} and the pins differ"
        is_stuck = entry.num_locks > 0 or is_pinned
        assert entry.counts_as_stuck == is_stuck, f"{name} is counted wrongly among what may leave"

    def _check_sums(self) -> None:
        entries = self._entries.values()
        for what, counted, chosen in (
            ("hot", self._hot_bytes, list(entries)),
            ("dirty", self._dirty_bytes, [e for e in entries if e.dirty]),
            ("locked", self._locked_bytes, [e for e in entries if e.num_locks]),
            ("pinned", self._pinned_bytes, [e for e in entries if e.block.block_hash in self._num_pins]),
            ("stuck", self._stuck_bytes, [e for e in entries if e.counts_as_stuck]),
        ):
            expected = sum(entry.block.num_bytes for entry in chosen)
            assert counted == expected, f"{what} bytes {counted} != {expected}"
        assert all(name in self._entries for name in self._dirty), "a dirty block is not hot"
        states = [e.block for e in entries if e.block.kind == "state"]
        assert {block.block_hash for block in states} == set(self._states), "snapshots differ from their list"
        num_bytes = sum(block.num_bytes for block in states)
        assert self.state_bytes == num_bytes, f"snapshots' bytes {self.state_bytes} != {num_bytes}"
        num_shared = sum(len(self._holders.get(name, ())) > 1 for name in self._entries)
        assert self._num_shared == num_shared, f"shared blocks {self._num_shared} != {num_shared}"
        assert self.running_bytes >= 0, f"running bytes {self.running_bytes}"
        assert self.in_flight_bytes >= 0, f"in-flight bytes {self.in_flight_bytes}"
        assert self.promised_bytes >= 0, f"promised bytes {self.promised_bytes}"

    def _counted_share(self, agent: AgentId) -> HotShare:
        entries = {name: self._entries[name] for name in self._tables[agent] if name in self._entries}
        shared = [entry for name, entry in entries.items() if len(self._holders[name]) > 1]
        return HotShare(
            len(entries),
            sum(entry.block.num_bytes for entry in entries.values()),
            sum(entry.block.num_bytes for entry in shared),
        )


_NOTHING_HOT = HotShare()
