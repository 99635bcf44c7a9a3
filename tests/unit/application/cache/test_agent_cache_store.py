"""The store's single promises, one at a time; the random walk is in tests/property."""

from __future__ import annotations

from collections.abc import Callable

from semanticd.application.cache import write_behind
from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.domain.ids import AgentId, BlockHash, SequenceId
from tests.fakes.model_runner import BYTES_PER_TOKEN, HashRunner
from tests.fakes.telemetry import RecordingLog, RecordingMetrics
from tests.fakes.warm_store import MemoryWarmStore

A, B = AgentId("a"), AgentId("b")


class Rig:
    """A store, its model and its disk; what is posted runs when told."""

    def __init__(
        self,
        *,
        budget_tokens: int = 1000,
        max_agents: int = 10,
        has_state: bool = False,
        write_policy: str = "always",
    ) -> None:
        self.warm = MemoryWarmStore(write_policy=write_policy)
        self.runner = HashRunner(block_tokens=4, has_state=has_state)
        self.posted: list[Callable[[], None]] = []
        self.metrics = RecordingMetrics()
        self.log = RecordingLog()
        self.store = AgentCacheStore(
            budget_bytes=BYTES_PER_TOKEN * budget_tokens,
            max_agents_in_memory=max_agents,
            warm=self.warm,
            post=self.posted.append,
            metrics=self.metrics,
            log=self.log,
        )
        self.store.register_model(self.runner)
        self._number = 0

    def publish(self, agent: AgentId, ids: list[int]) -> list[BlockHash]:
        """Compute tokens and keep them as the agent's blocks of four."""
        self._number += 1
        sequence_id = SequenceId(self._number)
        self.runner.open(sequence_id, prefix=(), state=None, capacity_tokens=len(ids))
        self.runner.prefill(sequence_id, ids)
        table: list[BlockHash] = []
        for start in range(0, len(ids), 4):
            parent = table[-1] if table else self.runner.spec.root
            part = tuple(ids[start : start + 4])
            table += self.store.publish(self.runner, sequence_id, parent=parent, blocks=[part], start=start)
        self.runner.close(sequence_id)
        self.store.set_table(agent, table, pinned=False)
        return table

    def pump(self) -> None:
        """Run what was posted."""
        while self.posted:
            self.posted.pop(0)()


def test_a_block_is_written_once_and_parents_first() -> None:
    rig = Rig()
    table = rig.publish(A, list(range(12)))
    assert rig.store.persist() == 12 * BYTES_PER_TOKEN
    assert rig.store.persist() == 0
    rig.pump()
    rig.publish(A, list(range(12)))
    assert rig.store.persist() == 0
    assert rig.warm.writes == table


def test_what_is_known_on_disk_is_not_written_again_after_it_was_computed_again() -> None:
    rig = Rig()
    rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.pump()
    rig.store.evict_agent(A)
    assert len(rig.store.pool) == 0
    rig.publish(A, list(range(8)))
    assert rig.store.persist() == 0


def test_writing_pauses_while_much_is_on_its_way() -> None:
    rig = Rig()
    rig.warm.hold_writes = True
    rig.publish(A, list(range(40)))
    limit, write_behind.MAX_IN_FLIGHT_BYTES = write_behind.MAX_IN_FLIGHT_BYTES, 100
    try:
        assert rig.store.persist() == 96
        assert rig.store.num_writing == 3
    finally:
        write_behind.MAX_IN_FLIGHT_BYTES = limit
    assert rig.store.persist(limit_bytes=40) == 64


def test_copies_for_the_disk_are_made_piece_by_piece_when_memory_is_short() -> None:
    rig = Rig(budget_tokens=44)
    rig.warm.hold_writes = True
    rig.publish(A, list(range(40)))
    assert rig.store.persist() == 4 * BYTES_PER_TOKEN
    assert rig.store.ledger().free_bytes >= 0
    rig.warm.hold_writes = False
    rig.warm.catch_up()
    rig.pump()
    while rig.store.persist():
        assert rig.store.ledger().free_bytes >= 0
        rig.pump()
    assert len(rig.warm.writes) == 10


def test_nothing_leaves_before_it_is_on_disk() -> None:
    rig = Rig()
    rig.warm.hold_writes = True
    rig.publish(A, list(range(8)))
    assert rig.store.evict_agent(A) == 0
    assert len(rig.store.pool) == 2
    assert rig.store.evict_agent(A) == 0
    rig.warm.catch_up()
    rig.pump()
    assert len(rig.store.pool) == 0
    assert rig.store.counters.lost_blocks == 0


def test_a_block_that_is_used_again_while_it_is_written_stays() -> None:
    rig = Rig()
    rig.warm.hold_writes = True
    table = rig.publish(A, list(range(8)))
    rig.store.evict_agent(A)
    rig.store.touch(table)
    rig.warm.catch_up()
    rig.pump()
    assert len(rig.store.pool) == 2


def test_a_block_that_is_being_copied_when_it_should_leave_stays() -> None:
    rig = Rig()
    rig.warm.hold_writes = True
    table = rig.publish(A, list(range(8)))
    rig.store.evict_agent(A)
    rig.store.pool.lock(table[:1])
    rig.warm.catch_up()
    rig.pump()
    assert [name in rig.store.pool for name in table] == [True, False]
    rig.store.delete_agent(A, rig.store.blocks_of(A))
    assert table[0] in rig.store.pool
    rig.store.pool.unlock(table[:1])
    assert rig.warm.get(table[0]) is None
    assert rig.store.make_room(1000 * BYTES_PER_TOKEN)
    assert rig.store.counters.lost_blocks == 0


def test_what_the_disk_refuses_leaves_only_when_room_is_needed_and_is_counted() -> None:
    rig = Rig()
    rig.warm.refuse = "the disk is full"
    rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.pump()
    assert rig.store.make_room(1000 * BYTES_PER_TOKEN)
    assert rig.store.counters.lost_blocks == 2
    assert rig.metrics.counters[("cache_lost_blocks_total",)] == 2


def test_what_the_policy_never_writes_is_not_turned_into_bytes_and_leaves_at_once_when_room_is_needed() -> (
    None
):
    rig = Rig(budget_tokens=8, write_policy="off")
    table = rig.publish(A, list(range(8)))
    for _ in range(3):
        assert rig.store.persist() == 0
        rig.store.touch(table)
    assert rig.runner.calls["dump"] == 0
    assert rig.store.make_room(8 * BYTES_PER_TOKEN)
    assert (len(rig.store.pool), rig.store.counters.lost_blocks) == (0, 2)


def test_a_block_that_is_written_at_its_second_use_is_turned_into_bytes_once() -> None:
    rig = Rig(write_policy="second_use")
    table = rig.publish(A, list(range(8)))
    assert rig.store.persist() == 0
    rig.store.touch(table)
    assert rig.store.persist() == 8 * BYTES_PER_TOKEN
    rig.pump()
    assert (rig.runner.calls["dump"], rig.warm.writes) == (2, table)


def test_deleting_takes_blocks_that_are_on_their_way_to_disk_along() -> None:
    rig = Rig()
    rig.warm.hold_writes = True
    rig.publish(A, list(range(8)))
    rig.publish(B, [0, 1, 2, 3, 9, 9])
    rig.store.persist()
    rig.store.delete_agent(A, rig.store.blocks_of(A))
    rig.warm.catch_up()
    rig.pump()
    assert len(rig.store.pool) == 2
    assert rig.warm.stats().num_blocks == 2
    rig.store.check_integrity()


def test_the_least_recently_used_agents_are_demoted_but_never_pinned_or_spared_ones() -> None:
    rig = Rig(max_agents=1, budget_tokens=24)
    for agent, first in ((A, 0), (B, 20), (AgentId("c"), 40)):
        rig.publish(agent, list(range(first, first + 8)))
        while rig.store.persist():
            rig.pump()
    rig.store.set_pinned(A, True)
    rig.store.limit_agents(sparing=frozenset([AgentId("c")]))
    assert sorted(rig.store.pool.hot_agents()) == [A, "c"]


def test_pins_keep_half_of_the_budget_at_most_and_what_is_beyond_is_protected_on_disk() -> None:
    rig = Rig(budget_tokens=32)
    rig.publish(A, list(range(12)))
    rig.publish(B, list(range(20, 28)))
    assert rig.store.set_pinned(A, True)
    assert not rig.store.could_pin(B)
    assert not rig.store.set_pinned(B, True)
    while rig.store.persist():
        rig.pump()
    assert rig.store.make_room(20 * BYTES_PER_TOKEN)
    assert rig.store.pool.hot_agents() == [A]
    rig.store.set_pinned(A, False)
    assert rig.store.set_pinned(B, True), "there is room for its pin now"
    rig.store.check_integrity()


def test_a_pinned_agent_that_outgrows_the_share_of_pins_lets_its_blocks_go_last() -> None:
    rig = Rig(budget_tokens=160)
    rig.publish(A, list(range(72)))
    rig.store.set_table(A, rig.store.pool.table(A), pinned=True)
    assert rig.store.ledger().pinned_bytes == 72 * BYTES_PER_TOKEN
    rig.publish(A, list(range(84)))
    rig.store.set_table(A, rig.store.pool.table(A), pinned=True)
    assert rig.store.ledger().pinned_bytes == 0
    assert rig.store.is_kept(A)
    rig.store.set_table(A, rig.store.pool.table(A), pinned=False)
    assert not rig.store.is_kept(A)


def test_where_ram_is_free_more_agents_than_the_limit_stay_hot() -> None:
    rig = Rig(max_agents=1, budget_tokens=1000)
    for number in range(20):
        rig.publish(AgentId(f"agent-{number}"), [number, 1, 2, 3])
        rig.store.persist()
        rig.pump()
        rig.store.limit_agents()
    assert rig.store.pool.num_hot_agents == 20


def test_room_that_a_demoted_agent_will_leave_counts_so_that_no_more_than_needed_go() -> None:
    rig = Rig(max_agents=1, budget_tokens=24)
    rig.warm.hold_writes = True
    for agent, first in ((A, 0), (B, 20), (AgentId("c"), 40)):
        rig.publish(agent, list(range(first, first + 8)))
    rig.store.limit_agents()
    rig.warm.hold_writes = False
    rig.warm.catch_up()
    rig.pump()
    while rig.store.persist():
        rig.pump()
    assert sorted(rig.store.pool.hot_agents()) == [B, "c"]


def test_the_head_of_a_chain_outlives_its_tail() -> None:
    rig = Rig(budget_tokens=12)
    table = rig.publish(A, list(range(12)))
    while rig.store.persist():
        rig.pump()
    rig.store.touch(table)
    rig.store.make_room(4 * BYTES_PER_TOKEN)
    assert [name in rig.store.pool for name in table] == [True, True, False]


def test_a_model_that_leaves_takes_its_hot_blocks_along_and_they_stay_on_disk() -> None:
    rig = Rig()
    table = rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.pump()
    record = rig.store.read(table[0]).result()
    rig.store.forget_model(rig.runner)
    assert len(rig.store.pool) == 0
    assert sum(rig.store.stored(table).values()) == 8 * BYTES_PER_TOKEN
    assert record is not None
    assert not rig.store.promote(record), "its model is gone"


def test_a_block_that_is_used_again_after_its_writing_was_called_off_is_written_after_all() -> None:
    rig = Rig()
    rig.warm.hold_writes = True
    table = rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.store.delete_agent(A, rig.store.blocks_of(A))
    rig.store.touch(table)
    rig.warm.hold_writes = False
    rig.warm.catch_up()
    rig.pump()
    rig.store.persist()
    rig.pump()
    assert rig.warm.writes == table
    assert rig.store.evict_agent(B) == 0
    assert rig.store.make_room(1000 * BYTES_PER_TOKEN)
    assert rig.store.counters.lost_blocks == 0


def test_what_was_called_off_and_should_leave_is_written_first() -> None:
    rig = Rig()
    rig.warm.hold_writes = True
    table = rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.store.delete_agent(A, rig.store.blocks_of(A))
    rig.store.touch(table)
    rig.store.set_table(B, table, pinned=False)
    rig.store.evict_agent(B)
    rig.warm.hold_writes = False
    rig.warm.catch_up()
    rig.pump()
    assert rig.warm.writes == table
    assert len(rig.store.pool) == 0
    assert rig.store.counters.lost_blocks == 0


def test_what_the_disk_refuses_is_not_given_up_for_a_command() -> None:
    rig = Rig(max_agents=1)
    rig.warm.refuse = "the disk is full"
    rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.pump()
    assert rig.store.evict_agent(A) == 0
    rig.publish(B, list(range(20, 28)))
    rig.store.limit_agents(sparing=frozenset([B]))
    assert len(rig.store.pool) == 4
    assert rig.store.counters.lost_blocks == 0


def test_a_block_that_the_disk_lost_is_written_again_when_it_is_computed_again() -> None:
    rig = Rig()
    table = rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.pump()
    rig.warm.lose_block(table[1])
    assert rig.publish(B, list(range(8))) == table
    assert rig.store.persist() == 4 * BYTES_PER_TOKEN
    rig.pump()
    assert rig.warm.writes == [*table, table[1]]


def test_what_is_given_up_leaves_both_tiers_unless_an_agent_holds_it() -> None:
    rig = Rig()
    own, shared = rig.publish(A, list(range(8))), rig.publish(B, [7] * 8)
    rig.store.persist()
    rig.pump()
    rig.store.set_table(A, own[:1], pinned=False)
    rig.store.discard([own[1], *shared])
    assert sorted(rig.warm.stored()) == sorted([own[0], *shared])
    assert len(rig.store.pool) == 3


def test_a_deleted_agent_takes_along_what_follows_its_blocks_in_nobodys_table() -> None:
    rig = Rig()
    head = list(range(8))
    rig.publish(A, [*head, 1, 2, 3, 4])
    table = rig.publish(A, [*head, 5, 6, 7, 8])
    rig.publish(B, [*head, 9])
    rig.store.persist()
    rig.pump()
    names = rig.store.blocks_of(A)
    assert len(names) == 1, (
        "what is before is another's, and what was before that is reached through it alone"
    )
    assert names == table[2:]
    rig.store.delete_agent(B, rig.store.blocks_of(B))
    assert len(rig.store.blocks_of(A)) == 4
