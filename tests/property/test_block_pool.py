"""The block pool against a plain model of itself: the ledger is exact and the invariants hold after every step."""

from __future__ import annotations

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from semanticd.domain.block import Block
from semanticd.domain.block_pool import BlockPool, HotShare
from semanticd.domain.ids import AgentId, BlockHash

NAMES = [BlockHash(bytes([n + 1]) * 32) for n in range(12)]
AGENTS = [AgentId(name) for name in "abc"]
# A chain of four and its branches: block n follows block n // 2.
BLOCKS = {
    name: Block(name, NAMES[n // 2] if n else BlockHash(bytes(32)), (n,), 10 + n)
    for n, name in enumerate(NAMES)
}

names = st.sampled_from(NAMES)
agents = st.sampled_from(AGENTS)


class PoolMachine(RuleBasedStateMachine):
    """Does to a pool what the cache store does, and keeps its own simple books."""

    locked = Bundle("locked")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(budget_bytes=100)
        self.hot: dict[BlockHash, bool] = {}
        self.locks: dict[BlockHash, int] = {}
        self.tables: dict[AgentId, tuple[BlockHash, ...]] = {}
        self.pinned: set[AgentId] = set()
        self.running: dict[BlockHash, int] = {}
        """How many running sequences have a block's bytes."""
        self.order: list[BlockHash] = []

    def used(self, chain: list[BlockHash]) -> None:
        for name in reversed(chain):
            if name in self.hot:
                if name in self.order:
                    self.order.remove(name)
                self.order.append(name)

    def held_by_pinned(self, name: BlockHash) -> bool:
        return any(name in self.tables.get(agent, ()) for agent in self.pinned)

    def can_leave(self, name: BlockHash) -> bool:
        return not self.locks.get(name) and not self.held_by_pinned(name)

    @rule(name=names, dirty=st.booleans())
    def insert(self, name: BlockHash, dirty: bool) -> None:
        assert self.pool.insert(BLOCKS[name], dirty=dirty) == (name not in self.hot)
        self.hot.setdefault(name, dirty)
        self.used([name])

    @rule(name=names)
    def remove(self, name: BlockHash) -> None:
        if name not in self.hot:
            assert self.pool.get(name) is None
            return
        if self.locks.get(name):
            try:
                self.pool.remove(name)
            except ValueError as error:
                assert "locked" in str(error)  # noqa: PT017
            else:
                raise AssertionError("a locked block was removed")
            return
        assert self.pool.remove(name) == BLOCKS[name]
        del self.hot[name]
        self.order.remove(name)

    @rule(name=names)
    def write(self, name: BlockHash) -> None:
        self.pool.mark_clean(name)
        if name in self.hot:
            self.hot[name] = False

    @rule(target=locked, name=names)
    def lock(self, name: BlockHash) -> BlockHash | None:
        if name not in self.hot:
            return None
        self.pool.lock([name])
        self.locks[name] = self.locks.get(name, 0) + 1
        return name

    @rule(name=locked)
    def unlock(self, name: BlockHash | None) -> None:
        if name is None or name not in self.hot:
            return
        if not self.locks.get(name):
            try:
                self.pool.unlock([name])
            except ValueError as error:
                assert "not locked" in str(error)  # noqa: PT017
            else:
                raise AssertionError("an unlocked block was unlocked")
            return
        self.pool.unlock([name])
        self.locks[name] -= 1

    @rule(name=names)
    def begin_to_run(self, name: BlockHash) -> None:
        self.pool.note_running_copy(name)
        self.running[name] = self.running.get(name, 0) + 1

    @rule(name=names)
    def end_running(self, name: BlockHash) -> None:
        if self.running.get(name):
            self.pool.forget_running_copy(name)
            self.running[name] -= 1
        assert self.pool.has_running_copy(name) == bool(self.running.get(name))

    @rule(name=names)
    def lose_file(self, name: BlockHash) -> None:
        self.pool.mark_dirty(name)
        if name in self.hot:
            self.hot[name] = True

    @rule(agent=agents, chain=st.lists(names, max_size=5, unique=True))
    def set_table(self, agent: AgentId, chain: list[BlockHash]) -> None:
        self.pool.set_table(agent, chain)
        self.tables[agent] = tuple(chain)

    @rule(agent=agents)
    def drop(self, agent: AgentId) -> None:
        self.pool.drop_agent(agent)
        self.tables.pop(agent, None)
        self.pinned.discard(agent)

    @rule(agent=agents)
    def pin(self, agent: AgentId) -> None:
        self.pool.pin(agent)
        self.pinned.add(agent)

    @rule(agent=agents)
    def unpin(self, agent: AgentId) -> None:
        self.pool.unpin(agent)
        self.pinned.discard(agent)

    @rule(chain=st.lists(names, max_size=5, unique=True))
    def touch(self, chain: list[BlockHash]) -> None:
        self.pool.touch(chain)
        self.used(chain)

    def followers(self, name: BlockHash) -> set[BlockHash]:
        """Return the hot blocks that follow a block without a gap."""
        direct = {n for n in self.hot if BLOCKS[n].parent == name}
        return direct.union(*map(self.followers, direct))

    def is_held_by_followers(self, name: BlockHash) -> bool:
        """Whether a block is not on disk, and one that directly follows it cannot leave."""
        direct = [n for n in self.hot if BLOCKS[n].parent == name]
        return self.hot[name] and any(not self.can_leave(n) or self.is_held_by_followers(n) for n in direct)

    @rule(num_bytes=st.integers(-5, 200), at_any_cost=st.booleans())
    def choose_victims(self, num_bytes: int, at_any_cost: bool) -> None:
        victims = [block.block_hash for block in self.pool.victims(num_bytes, at_any_cost=at_any_cost)]
        assert all(self.can_leave(name) for name in victims), "nothing locked or pinned"
        assert len(victims) == len(set(victims))
        held = {n for n in self.hot if self.is_held_by_followers(n)}
        twice = {n for n in self.hot if self.running.get(n) and not self.hot[n] and self.can_leave(n)}
        num_first = len(twice.intersection(victims))
        others = victims[num_first:]
        assert twice.issuperset(victims[:num_first]), "what is in RAM twice before all others"
        assert not others or twice.issubset(victims), "and all of it"
        for at, name in enumerate(others):
            staying = set(self.hot) - set(victims[: num_first + at + 1])
            useless = {n for n in staying if BLOCKS[n].parent == name}
            assert not any(self.can_leave(n) and n not in held for n in useless), "the tail first"
            assert at_any_cost or not self.hot[name] or not useless, "of no use without their parent"
        first = [n for n in self.order if self.can_leave(n) and n not in held | twice]
        if others and first:
            assert others[0] in {first[0], *self.followers(first[0])}, "least recently used first"
        total = sum(BLOCKS[name].num_bytes for name in victims)
        allowed = {n for n in self.hot if self.can_leave(n) and (at_any_cost or n not in held)}
        assert total >= num_bytes or set(victims) == allowed
        if victims:
            assert total - BLOCKS[victims[-1]].num_bytes < num_bytes, "no more than needed"

    @rule(num_bytes=st.integers(-5, 200), pinned_bytes=st.integers(1, 200), at_any_cost=st.booleans())
    def choose_pinned_victims_too(self, num_bytes: int, pinned_bytes: int, at_any_cost: bool) -> None:
        plain = [block.block_hash for block in self.pool.victims(num_bytes, at_any_cost=at_any_cost)]
        blocks = self.pool.victims(num_bytes, at_any_cost=at_any_cost, pinned_bytes=pinned_bytes)
        victims = [block.block_hash for block in blocks]
        assert victims[: len(plain)] == plain, "pinned blocks go after all others"
        pinned = victims[len(plain) :]
        assert len(victims) == len(set(victims))
        assert all(self.held_by_pinned(name) and not self.locks.get(name) for name in pinned)
        sizes = [BLOCKS[name].num_bytes for name in pinned]
        if pinned:
            assert sum(sizes[:-1]) < pinned_bytes, "no more of them than may leave"
            assert sum(BLOCKS[name].num_bytes for name in victims[:-1]) < num_bytes, "no more than needed"

    @rule(running=st.integers(0, 50), in_flight=st.integers(0, 50))
    def run(self, running: int, in_flight: int) -> None:
        self.pool.running_bytes = running
        self.pool.in_flight_bytes = in_flight

    @precondition(lambda self: any(self.hot.values()))
    @rule()
    def dirty_ones_are_listed_parents_first(self) -> None:
        listed = []
        for block in self.pool.to_write():
            listed.append(block.block_hash)
            self.pool.set_aside(block.block_hash)
        assert not list(self.pool.to_write())
        for name in listed:
            self.pool.offer_again(name)
        assert set(self.pool.dirty_names()) == set(listed)
        assert set(listed) == {name for name, dirty in self.hot.items() if dirty}
        assert len(listed) == len(set(listed))
        for at, name in enumerate(listed):
            parent = BLOCKS[name].parent
            assert parent not in listed[at + 1 :]

    @invariant()
    def books_agree(self) -> None:
        pool = self.pool
        pool.check_integrity()
        assert {block.block_hash for block in pool} == set(self.hot)
        assert len(pool) == len(self.hot)
        ledger = pool.ledger()

        def total(chosen: list[BlockHash]) -> int:
            return sum(BLOCKS[name].num_bytes for name in chosen)

        assert ledger.hot_bytes == pool.hot_bytes == total(list(self.hot))
        assert ledger.dirty_bytes == total([n for n, dirty in self.hot.items() if dirty])
        assert ledger.locked_bytes == total([n for n in self.hot if self.locks.get(n)])
        assert ledger.pinned_bytes == total([n for n in self.hot if self.held_by_pinned(n)])
        assert pool.evictable_bytes() == total([n for n in self.hot if self.can_leave(n)])
        pinned = total([n for n in self.hot if self.held_by_pinned(n) and not self.locks.get(n)])
        unlocked = total([n for n in self.hot if not self.locks.get(n)])
        for wanted in (0, 50, 1000):
            missing = ledger.running_bytes + wanted + ledger.pinned_bytes - 100
            assert pool.pins_in_the_way(wanted) == min(max(missing, 0), pinned)
            missing = wanted - ledger.free_bytes - pool.evictable_bytes()
            assert pool.pins_in_the_way(wanted, at_once=True) == min(max(missing, 0), pinned)
        assert pool.room_over_pins >= ledger.free_bytes + unlocked
        assert ledger.free_bytes == pool.free_bytes == 100 - ledger.used_bytes
        assert all(pool.can_leave(n) == (n in self.hot and self.can_leave(n)) for n in NAMES)
        for agent in AGENTS:
            table = self.tables.get(agent, ())
            assert pool.table(agent) == table
            hot = [n for n in table if n in self.hot]
            shared_hot = [n for n in hot if len(pool.holders(n)) > 1]
            assert pool.share(agent) == HotShare(len(hot), total(hot), total(shared_hot))
            assert pool.agent_bytes(agent) == total(hot)
            alone = [n for n in reversed(table) if n in self.hot and pool.holders(n) == frozenset([agent])]
            assert [block.block_hash for block in pool.exclusive_blocks(agent)] == alone
            assert pool.is_pinned_agent(agent) == (agent in self.pinned)
            others = {n for other in self.pinned - {agent} for n in self.tables.get(other, ())}
            alone_pinned = total([n for n in hot if n not in others])
            assert pool.pin_frees(agent) == (alone_pinned if agent in self.pinned else 0)
            assert pool.pin_adds(agent) == (0 if agent in self.pinned else alone_pinned)
            assert pool.could_pin(agent) == (ledger.pinned_bytes + pool.pin_adds(agent) <= 50)
        assert set(pool.hot_agents()) == {
            agent for agent, table in self.tables.items() if any(n in self.hot for n in table)
        }
        alone = [n for n in self.order if pool.num_holders(n) == 1]
        assert pool.coldest_agents(99) == list(dict.fromkeys(min(pool.holders(n)) for n in alone))
        shared = [n for n in self.hot if sum(n in table for table in self.tables.values()) > 1]
        assert pool.num_shared() == len(shared)
        for parent in NAMES:
            expected = {n for n in self.hot if BLOCKS[n].parent == parent}
            assert {block.block_hash for block in pool.children(parent)} == expected


TestBlockPool = PoolMachine.TestCase
TestBlockPool.settings = settings(
    max_examples=60 if settings.get_current_profile_name() == "ci" else 30,
    stateful_step_count=50,
    # Explaining a failure traces every line from the beginning, which makes every run ten times as slow.
    phases=set(Phase) - {Phase.explain},
)
