"""The store's single promises, one at a time; the random walk is in tests/property."""

from __future__ import annotations

import threading

import pytest

from semanticd.application.cache import write_behind
from semanticd.domain.ids import AgentId
from tests.fakes.cache_rig import CacheRig
from tests.fakes.engine_rig import PATIENCE_S
from tests.fakes.model_runner import BYTES_PER_TOKEN

A, B = AgentId("a"), AgentId("b")


def test_a_block_is_written_once_and_parents_first() -> None:
    rig = CacheRig()
    table = rig.publish(A, list(range(12)))
    assert rig.store.persist() == 12 * BYTES_PER_TOKEN
    assert rig.store.persist() == 0
    rig.pump()
    rig.publish(A, list(range(12)))
    assert rig.store.persist() == 0
    assert rig.warm.writes == table


def test_what_is_known_on_disk_is_not_written_again_after_it_was_computed_again() -> None:
    rig = CacheRig()
    rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.pump()
    written = list(rig.warm.writes)
    rig.tables.evict_agent(A)
    assert len(rig.store.pool) == 0
    rig.publish(A, list(range(8)))
    # The disk is asked all the same: a file that was lost since is written again.
    rig.store.persist()
    rig.pump()
    assert rig.warm.writes == written
    assert rig.store.ledger().dirty_bytes == 0


def test_writing_pauses_while_much_is_on_its_way() -> None:
    rig = CacheRig()
    rig.warm.hold_writes = True
    rig.publish(A, list(range(40)))
    limit, write_behind.MAX_IN_FLIGHT_BYTES = write_behind.MAX_IN_FLIGHT_BYTES, 100
    try:
        assert rig.store.persist() == 96
        assert rig.store.num_writing == 3
    finally:
        write_behind.MAX_IN_FLIGHT_BYTES = limit
    assert rig.store.persist(limit_bytes=40) == 64


def test_readers_on_other_threads_do_not_wait_while_tensors_become_bytes() -> None:
    rig = CacheRig()
    rig.publish(A, list(range(12)))
    seen: list[int] = []

    def read(operation: str) -> None:
        if operation == "dump":
            reader = threading.Thread(target=lambda: seen.append(rig.store.ledger().hot_bytes))
            reader.start()
            reader.join(PATIENCE_S)

    rig.runner.before = read
    rig.store.persist()
    assert seen == [12 * BYTES_PER_TOKEN] * 3, "the lock was free at each copy"


def test_copies_for_the_disk_are_made_piece_by_piece_when_memory_is_short() -> None:
    rig = CacheRig(budget_tokens=44)
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
    rig = CacheRig()
    rig.warm.hold_writes = True
    rig.publish(A, list(range(8)))
    assert rig.tables.evict_agent(A) == 0
    assert len(rig.store.pool) == 2
    assert rig.tables.evict_agent(A) == 0
    rig.warm.catch_up()
    rig.pump()
    assert len(rig.store.pool) == 0
    assert rig.store.counters.lost_blocks == 0


def test_a_block_that_is_used_again_while_it_is_written_stays() -> None:
    rig = CacheRig()
    rig.warm.hold_writes = True
    table = rig.publish(A, list(range(8)))
    rig.tables.evict_agent(A)
    rig.store.touch(table)
    rig.warm.catch_up()
    rig.pump()
    assert len(rig.store.pool) == 2


def test_a_block_that_is_being_copied_when_it_should_leave_stays() -> None:
    rig = CacheRig()
    rig.warm.hold_writes = True
    table = rig.publish(A, list(range(8)))
    rig.tables.evict_agent(A)
    rig.store.pool.lock(table[:1])
    rig.warm.catch_up()
    rig.pump()
    assert [name in rig.store.pool for name in table] == [True, False]
    rig.tables.delete_agent(A, rig.tables.blocks_of(A))
    assert table[0] in rig.store.pool
    rig.store.pool.unlock(table[:1])
    assert rig.warm.get(table[0]) is None
    assert rig.store.make_room(1000 * BYTES_PER_TOKEN)
    assert rig.store.counters.lost_blocks == 0


def test_what_the_disk_refuses_leaves_only_when_room_is_needed_and_is_counted() -> None:
    rig = CacheRig()
    rig.warm.refuse = "the disk is full"
    rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.pump()
    assert rig.store.make_room(1000 * BYTES_PER_TOKEN)
    assert rig.store.counters.lost_blocks == 2
    assert rig.metrics.counters[("cache_lost_blocks_total",)] == 2


def test_what_the_disk_refuses_leaves_after_what_follows_it() -> None:
    rig = CacheRig(budget_tokens=28)
    rig.warm.refuse = "the disk is full"
    table = rig.publish(A, list(range(12)))
    rig.store.persist(limit_bytes=1)
    rig.pump()
    rig.warm.hold_writes = True
    rig.store.persist()
    assert [rig.store.is_writing(name) for name in table] == [False, True, False]
    assert not rig.store.make_room(24 * BYTES_PER_TOKEN), "it waits for the end of that write"
    assert table[0] in rig.store.pool
    for _ in range(2):
        rig.warm.catch_up()
        rig.pump()
    for num_tokens, num_kept in ((20, 2), (24, 1), (28, 0)):
        assert rig.store.make_room(num_tokens * BYTES_PER_TOKEN)
        assert [name in rig.store.pool for name in table] == [at < num_kept for at in range(3)]


def test_what_leaves_as_the_disk_refuses_it_leaves_no_follower_behind() -> None:
    rig = CacheRig(budget_tokens=32)
    table = rig.publish(A, list(range(8)))
    rig.warm.hold_writes, rig.warm.refuse = True, "the disk is full"
    rig.store.persist()
    assert not rig.store.make_room(32 * BYTES_PER_TOKEN)
    table = rig.publish(A, list(range(12)))
    assert len(table) == 3
    for _ in range(3):
        rig.warm.catch_up()
        rig.pump()
    assert all(name in rig.store.pool for name in table)


def test_what_the_policy_never_writes_is_not_turned_into_bytes_and_leaves_at_once_when_room_is_needed() -> (
    None
):
    rig = CacheRig(budget_tokens=8, write_policy="off")
    table = rig.publish(A, list(range(8)))
    for _ in range(3):
        assert rig.store.persist() == 0
        rig.store.touch(table)
    assert rig.runner.calls["dump"] == 0
    assert rig.store.make_room(8 * BYTES_PER_TOKEN)
    assert (len(rig.store.pool), rig.store.counters.lost_blocks) == (0, 2)


def test_a_block_that_is_written_at_its_second_use_is_turned_into_bytes_once() -> None:
    rig = CacheRig(write_policy="second_use")
    table = rig.publish(A, list(range(8)))
    assert rig.store.persist() == 0
    rig.store.touch(table)
    assert rig.store.persist() == 8 * BYTES_PER_TOKEN
    rig.pump()
    assert (rig.runner.calls["dump"], rig.warm.writes) == (2, table)


def test_deleting_takes_blocks_that_are_on_their_way_to_disk_along() -> None:
    rig = CacheRig()
    rig.warm.hold_writes = True
    rig.publish(A, list(range(8)))
    rig.publish(B, [0, 1, 2, 3, 9, 9])
    rig.store.persist()
    rig.tables.delete_agent(A, rig.tables.blocks_of(A))
    rig.warm.catch_up()
    rig.pump()
    assert len(rig.store.pool) == 2
    assert rig.warm.stats().num_blocks == 2
    rig.store.check_integrity()


def test_the_head_of_a_chain_outlives_its_tail() -> None:
    rig = CacheRig(budget_tokens=12)
    table = rig.publish(A, list(range(12)))
    while rig.store.persist():
        rig.pump()
    rig.store.touch(table)
    rig.store.make_room(4 * BYTES_PER_TOKEN)
    assert [name in rig.store.pool for name in table] == [True, True, False]


def test_a_model_that_leaves_takes_its_hot_blocks_along_and_they_stay_on_disk() -> None:
    rig = CacheRig()
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
    rig = CacheRig()
    rig.warm.hold_writes = True
    table = rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.tables.delete_agent(A, rig.tables.blocks_of(A))
    rig.store.touch(table)
    rig.warm.hold_writes = False
    rig.warm.catch_up()
    rig.pump()
    rig.store.persist()
    rig.pump()
    assert rig.warm.writes == table
    assert rig.tables.evict_agent(B) == 0
    assert rig.store.make_room(1000 * BYTES_PER_TOKEN)
    assert rig.store.counters.lost_blocks == 0


@pytest.mark.parametrize("has_state", [False, True])
def test_a_block_computed_again_after_a_cancelled_write_is_written(
    has_state: bool,
) -> None:
    rig = CacheRig(has_state=has_state)
    rig.warm.hold_writes = True
    table = rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.tables.delete_agent(A, rig.tables.blocks_of(A))
    # Asked again by a client that leaves: published, and in no table.
    assert rig.publish(A, list(range(8))) == table
    rig.tables.drop_table(A)
    rig.warm.hold_writes = False
    rig.warm.catch_up()
    rig.pump()
    assert all(name in rig.store.pool for name in table)
    rig.store.persist()
    rig.pump()
    assert rig.warm.stored() == sorted(table)
    rig.store.check_integrity()


@pytest.mark.parametrize("is_writing", [False, True])
@pytest.mark.parametrize("is_used_again", [False, True])
def test_what_is_deleted_while_a_sequence_copies_it_is_written_if_it_is_used_again(
    is_writing: bool, is_used_again: bool
) -> None:
    rig = CacheRig()
    rig.warm.hold_writes = is_writing
    table = rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.pump()
    reservation = rig.store.reserve()
    reservation.lock_blocks(table)
    rig.tables.delete_agent(A, rig.tables.blocks_of(A))
    rig.warm.hold_writes = False
    rig.warm.catch_up()
    rig.pump()
    reservation.end()
    if is_used_again:
        rig.store.touch(table)
    rig.store.persist()
    rig.pump()
    assert rig.warm.stored() == (sorted(table) if is_used_again else [])
    assert rig.store.make_room(1000 * BYTES_PER_TOKEN)
    assert rig.store.counters.lost_blocks == 0
    rig.store.check_integrity()


def test_a_block_that_was_read_before_it_was_deleted_is_written_when_it_becomes_hot() -> None:
    rig = CacheRig()
    table = rig.publish(A, list(range(4)))
    rig.store.persist()
    rig.pump()
    rig.tables.evict_agent(A)
    record = rig.store.read(table[0]).result()
    assert record is not None
    rig.tables.delete_agent(A, rig.tables.blocks_of(A))
    assert rig.store.promote(record)
    rig.tables.set_table(B, table, pinned=False)
    rig.store.persist()
    rig.pump()
    assert rig.warm.stored() == table


def test_what_was_called_off_and_should_leave_is_written_first() -> None:
    rig = CacheRig()
    rig.warm.hold_writes = True
    table = rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.tables.delete_agent(A, rig.tables.blocks_of(A))
    rig.store.touch(table)
    rig.tables.set_table(B, table, pinned=False)
    rig.tables.evict_agent(B)
    rig.warm.hold_writes = False
    rig.warm.catch_up()
    rig.pump()
    assert rig.warm.writes == table
    assert len(rig.store.pool) == 0
    assert rig.store.counters.lost_blocks == 0


def test_what_the_disk_refuses_is_not_given_up_for_a_command() -> None:
    rig = CacheRig(max_agents=1)
    rig.warm.refuse = "the disk is full"
    rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.pump()
    assert rig.tables.evict_agent(A) == 0
    rig.publish(B, list(range(20, 28)))
    rig.tables.limit_agents(sparing=frozenset([B]))
    assert len(rig.store.pool) == 4
    assert rig.store.counters.lost_blocks == 0


def test_a_block_that_the_disk_lost_is_written_again_when_it_is_computed_again() -> None:
    rig = CacheRig()
    table = rig.publish(A, list(range(8)))
    rig.store.persist()
    rig.pump()
    rig.warm.lose_block(table[1])
    assert rig.publish(B, list(range(8))) == table
    assert rig.store.persist() == 4 * BYTES_PER_TOKEN
    rig.pump()
    assert rig.warm.writes == [*table, table[1]]


def test_what_is_given_up_leaves_both_tiers_unless_an_agent_holds_it() -> None:
    rig = CacheRig()
    own, shared = rig.publish(A, list(range(8))), rig.publish(B, [7] * 8)
    rig.store.persist()
    rig.pump()
    rig.tables.set_table(A, own[:1], pinned=False)
    rig.store.discard([own[1], *shared])
    assert sorted(rig.warm.stored()) == sorted([own[0], *shared])
    assert len(rig.store.pool) == 3
