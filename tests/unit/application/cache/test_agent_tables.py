"""`semanticd.application.cache.agent_tables`: which blocks agents hold, and what keeps them in RAM."""

from __future__ import annotations

from semanticd.domain.ids import AgentId
from tests.fakes.cache_rig import CacheRig
from tests.fakes.model_runner import BYTES_PER_TOKEN

A, B = AgentId("a"), AgentId("b")


def test_the_least_recently_used_agents_are_demoted_but_never_pinned_or_spared_ones() -> None:
    rig = CacheRig(max_agents=1, budget_tokens=24)
    for agent, first in ((A, 0), (B, 20), (AgentId("c"), 40)):
        rig.publish(agent, list(range(first, first + 8)))
        while rig.store.persist():
            rig.pump()
    rig.tables.set_pinned(A, True)
    rig.tables.limit_agents(sparing=frozenset([AgentId("c")]))
    assert sorted(rig.store.pool.hot_agents()) == [A, "c"]


def test_pins_keep_half_of_the_budget_and_the_rest_on_disk() -> None:
    rig = CacheRig(budget_tokens=32)
    rig.publish(A, list(range(12)))
    rig.publish(B, list(range(20, 28)))
    assert rig.tables.set_pinned(A, True)
    assert not rig.tables.could_pin(B)
    assert not rig.tables.set_pinned(B, True)
    while rig.store.persist():
        rig.pump()
    assert rig.store.make_room(20 * BYTES_PER_TOKEN)
    assert rig.store.pool.hot_agents() == [A]
    rig.tables.set_pinned(A, False)
    assert rig.tables.set_pinned(B, True), "there is room for its pin now"
    rig.store.check_integrity()


def test_a_pinned_agent_that_outgrows_the_share_of_pins_lets_its_blocks_go_last() -> None:
    rig = CacheRig(budget_tokens=160)
    rig.publish(A, list(range(72)))
    rig.tables.set_table(A, rig.store.pool.table(A), pinned=True)
    assert rig.store.ledger().pinned_bytes == 72 * BYTES_PER_TOKEN
    rig.publish(A, list(range(84)))
    rig.tables.set_table(A, rig.store.pool.table(A), pinned=True)
    assert rig.store.ledger().pinned_bytes == 0
    assert rig.tables.is_kept(A)
    rig.tables.set_table(A, rig.store.pool.table(A), pinned=False)
    assert not rig.tables.is_kept(A)


def test_where_ram_is_free_more_agents_than_the_limit_stay_hot() -> None:
    rig = CacheRig(max_agents=1, budget_tokens=1000)
    for number in range(20):
        rig.publish(AgentId(f"agent-{number}"), [number, 1, 2, 3])
        rig.store.persist()
        rig.pump()
        rig.tables.limit_agents()
    assert rig.store.pool.num_hot_agents == 20


def test_room_that_a_demoted_agent_will_leave_counts_so_that_no_more_than_needed_go() -> None:
    rig = CacheRig(max_agents=1, budget_tokens=24)
    rig.warm.hold_writes = True
    for agent, first in ((A, 0), (B, 20), (AgentId("c"), 40)):
        rig.publish(agent, list(range(first, first + 8)))
    rig.tables.limit_agents()
    rig.warm.hold_writes = False
    rig.warm.catch_up()
    rig.pump()
    while rig.store.persist():
        rig.pump()
    assert sorted(rig.store.pool.hot_agents()) == [B, "c"]


def test_a_deleted_agent_takes_along_what_follows_its_blocks_in_nobodys_table() -> None:
    rig = CacheRig()
    head = list(range(8))
    rig.publish(A, [*head, 1, 2, 3, 4])
    table = rig.publish(A, [*head, 5, 6, 7, 8])
    rig.publish(B, [*head, 9])
    rig.store.persist()
    rig.pump()
    names = rig.tables.blocks_of(A)
    assert len(names) == 1, (
        "what is before is another's, and what was before that is reached through it alone"
    )
    assert names == table[2:]
    rig.tables.delete_agent(B, rig.tables.blocks_of(B))
    assert len(rig.tables.blocks_of(A)) == 4
