"""A conversation that runs is in RAM twice only while nothing else wants the room.

Blocks that a running cache has too leave first, and come back from it: between two steps, for another sequence, and as
the turn ends.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from semanticd.domain.ids import AgentId, BlockHash
from tests.fakes.engine_rig import Ask, EngineRig, wait_until
from tests.fakes.model_runner import BYTES_PER_TOKEN, HashRunner, continuation

BUDGET = 4000 * BYTES_PER_TOKEN
PROMPT_TOKENS, OTHER_TOKENS = 1500, 700
"""The running cache of the one and twice the other leave no room for all blocks of the one."""
ANSWER_TOKENS = 90


def prompt(number: int, length: int = PROMPT_TOKENS) -> list[int]:
    return [(number * 31 + at * 7) % 89 + 1 for at in range(length)]


def truth(rig: EngineRig, ids: list[int]) -> str:
    return rig.tokenizer.decode(continuation(ids, ANSWER_TOKENS))


def test_what_made_way_while_it_ran_is_hot_again_before_its_next_turn() -> None:
    with EngineRig(budget_bytes=BUDGET) as rig:
        ids, other = prompt(0), prompt(1, OTHER_TOKENS)
        others: list[Ask] = []
        first = begin(
            rig, ids, lambda: others.append(rig.ask(other, agent="second", max_tokens=4)), max_tokens=400
        )
        said = first.answer()
        others[0].answer()
        rig.idle()
        assert rig.store.counters.evictions["budget"] > 20, (
            "the second needed the room of the first one's blocks"
        )
        rig.on_engine(lambda: hot_as_on_disk(rig))
        more = [*ids, *continuation(ids, 400), 5, 6, 7]
        again = rig.ask(more, agent="first", max_tokens=ANSWER_TOKENS).answer()
        assert said.text == rig.tokenizer.decode(continuation(ids, 400))
        assert again.text == truth(rig, more)
        assert again.cache.reused_hot_tokens >= PROMPT_TOKENS


def hot_as_on_disk(rig: EngineRig) -> None:
    """Check that each block that lies in both tiers has the same bytes in both."""
    for block in rig.store.pool:
        record = rig.warm.read(block.block_hash).result()
        if record is not None:
            assert rig.runner.dump(rig.store.payload(block.block_hash)) == record.tensors


def chain(rig: EngineRig, ids: list[int]) -> tuple[BlockHash, ...]:
    return tuple(rig.runner.spec.chain(ids).hashes)


def all_hot(rig: EngineRig, ids: list[int]) -> bool:
    return rig.on_engine(lambda: all(map(rig.store.is_hot, chain(rig, ids))))


def begin(
    rig: EngineRig, ids: list[int], act: Callable[[], object], *, agent: str = "first", max_tokens: int = 900
) -> Ask:
    """Return an answer in the course of which something is done, when all full blocks of its prompt are on disk."""
    names = chain(rig, ids)
    with rig.held():
        asked = rig.ask(ids, agent=agent, max_tokens=max_tokens)
        asked.meanwhile(act, when=lambda: not any(map(rig.store.pool.is_dirty, names)))
    return asked


def fork_of(ids: list[int]) -> list[int]:
    """Return a prompt that leaves another one within its last full block."""
    return [*ids[:1488], 5, 6, 7]


def forked(rig: EngineRig, ids: list[int], prepare: Callable[[], object]) -> tuple[Ask, Ask]:
    """Return an answer, and one to a prompt that begins alike, asked while the first runs and after `prepare`."""
    forks: list[Ask] = []

    def act() -> None:
        prepare()
        forks.append(rig.ask(fork_of(ids), agent="fork", max_tokens=8))

    first = begin(rig, ids, act)
    wait_until(lambda: bool(forks))
    return first, forks[0]


def fork_truth(rig: EngineRig, ids: list[int]) -> str:
    return rig.tokenizer.decode(continuation(fork_of(ids), 8))


def test_what_is_in_ram_twice_leaves_before_what_others_will_ask_for() -> None:
    with EngineRig(budget_bytes=BUDGET) as rig:
        idle, ids, other = prompt(2, 300), prompt(0), prompt(1, 400)
        rig.ask(idle, agent="idle", max_tokens=4).answer()
        rig.idle()
        seen: list[tuple[int, ...]] = []

        def act() -> None:
            second = rig.ask(other, agent="second", max_tokens=4)
            second.on_update = lambda _: seen.append(
                (rig.store.counters.evictions.get("budget", 0), *map(rig.store.is_hot, chain(rig, idle)))
            )

        first = begin(rig, ids, act)
        assert first.answer().text == rig.tokenizer.decode(continuation(ids, 900))
        rig.idle()
        num_left, *are_hot = seen[0]
        assert num_left > 10, "the second needed room"
        assert all(are_hot)


@pytest.mark.parametrize("has_state", [False, True])
def test_what_left_comes_back_as_the_turn_ends_and_not_from_the_disk(has_state: bool) -> None:
    """Its own blocks made room for it; at its end those that were used longest ago make room for them."""
    with EngineRig(budget_bytes=BUDGET, runner=HashRunner(has_state=has_state)) as rig:
        idle, ids = prompt(2, 700), prompt(0, 1700)
        rig.ask(idle, agent="idle", max_tokens=4).answer()
        rig.idle()
        num_reads = rig.warm.stats().num_reads
        said = continuation(ids, 40, has_state=has_state)
        answer = rig.ask(ids, agent="first", max_tokens=40).answer()
        rig.idle()
        assert answer.text == rig.tokenizer.decode(said)
        assert rig.store.counters.evictions["budget"] > 10, "there was no room for all"
        assert all_hot(rig, ids)
        assert rig.warm.stats().num_reads == num_reads
        rig.on_engine(lambda: hot_as_on_disk(rig))


def test_no_copy_overdraws_the_budget() -> None:
    """A running cache that takes more than half of the budget leaves no room for all of its blocks beside it."""
    with EngineRig(budget_bytes=BUDGET) as rig:
        largest = 0

        def measure(operation: str) -> None:
            nonlocal largest
            largest = max(largest, rig.store.ledger().used_bytes)

        rig.runner.before = measure
        ids = prompt(0, 2390)
        assert rig.ask(ids, max_tokens=40).answer().text == rig.tokenizer.decode(continuation(ids, 40))
        rig.runner.before = None
        rig.idle()
        assert rig.store.counters.evictions["budget"] > 20
        # One block that is published while others wait for the disk.
        assert largest <= BUDGET + 16 * BYTES_PER_TOKEN


def test_what_left_is_copied_for_another_that_begins_alike() -> None:
    with EngineRig(budget_bytes=2 * BUDGET) as rig:
        ids = prompt(0)
        reads: list[int] = []

        def leave() -> None:
            rig.store.demote(list(rig.store.pool), "budget")
            reads.append(rig.warm.stats().num_reads)

        first, fork = forked(rig, ids, leave)
        answer = fork.answer()
        assert answer.cache.reused_hot_tokens == 1488
        assert answer.text == fork_truth(rig, ids)
        first.answer()
        assert rig.warm.stats().num_reads == reads[0]


def test_what_a_slow_disk_never_took_is_not_lost_while_it_runs() -> None:
    with EngineRig(budget_bytes=2 * BUDGET) as rig:
        rig.warm.hold_writes = True
        ids = prompt(0)
        left, forks = [], []

        def act() -> None:
            left.append(leave_unwritten(rig))
            forks.append(rig.ask(fork_of(ids), agent="fork", max_tokens=8))

        with rig.held():
            first = rig.ask(ids, agent="first", max_tokens=900)
            first.meanwhile(act)
        first.answer()
        assert left[0] > 10
        fork = forks[0].answer()
        assert fork.cache.reused_hot_tokens == 1488
        assert fork.text == fork_truth(rig, ids)
        assert all_hot(rig, ids)
        assert rig.store.counters.lost_blocks == 0
        rig.warm.hold_writes = False
        rig.on_engine(rig.warm.catch_up)
        rig.idle()
        wait_until(lambda: rig.on_engine(lambda: not rig.store.ledger().dirty_bytes))
        assert all(rig.warm.get(name) for name in chain(rig, ids))


def leave_unwritten(rig: EngineRig) -> int:
    """Let all that may leave go, written or not; returns how many were not written."""
    rig.store.make_room(rig.store.free_bytes + rig.store.pool.evictable_bytes(), unwritten=True)
    (running,) = (one for one in rig.engine.running() if one.sequence.block_table)
    return sum(map(rig.store.left_unwritten, running.sequence.block_table))


def test_what_the_disk_lost_meanwhile_is_written_again() -> None:
    """A small disk lets the oldest files go, also those of blocks that left RAM because a running cache has them."""
    with EngineRig(budget_bytes=2 * BUDGET) as rig:
        ids = prompt(0)

        def lose() -> None:
            rig.store.demote(list(rig.store.pool), "budget")
            rig.warm.delete(chain(rig, ids), scrub=False)

        first, fork = forked(rig, ids, lose)
        answer = fork.answer()
        assert answer.cache.reused_hot_tokens == 1488
        assert answer.text == fork_truth(rig, ids)
        first.answer()
        rig.idle()
        assert all_hot(rig, ids)
        wait_until(lambda: rig.on_engine(lambda: not rig.store.ledger().dirty_bytes))
        assert all(rig.warm.get(name) for name in chain(rig, ids))


@pytest.mark.parametrize("way", ["deleted", "deleted while in use", "cleared"])
def test_what_was_deleted_meanwhile_does_not_come_back(way: str) -> None:
    with EngineRig(budget_bytes=2 * BUDGET) as rig:
        ids = prompt(0)
        rig.ask(ids, agent="first", max_tokens=4).answer()
        rig.idle()

        def delete() -> None:
            in_use = rig.store.reserve()
            if way == "deleted while in use":
                in_use.lock_blocks(chain(rig, ids))
            else:
                rig.store.demote(list(rig.store.pool), "budget")
            if way == "cleared":
                rig.store.clear()
                rig.warm.delete(chain(rig, ids), scrub=False)
            names = rig.tables.blocks_of(AgentId("first"))
            rig.tables.delete_agent(AgentId("first"), names)
            rig.agents.delete(AgentId("first"))
            in_use.end()
            rig.store.make_room(rig.store.free_bytes + rig.store.pool.evictable_bytes())

        begin(rig, ids, delete, agent="second").answer()
        rig.idle()
        assert not any(rig.on_engine(lambda: [rig.store.is_hot(name) for name in chain(rig, ids)[:-1]]))
        assert not any(rig.warm.get(name) for name in chain(rig, ids)[:-1])


def test_what_cannot_be_copied_is_read() -> None:
    with EngineRig(budget_bytes=2 * BUDGET) as rig:
        ids = prompt(0)

        def leave() -> None:
            rig.store.demote(list(rig.store.pool), "budget")
            for number in range(100):
                rig.runner.fail("copy_block", after=number)

        first, fork = forked(rig, ids, leave)
        answer = fork.answer()
        assert answer.cache.restored_warm_tokens == 1488
        assert answer.text == fork_truth(rig, ids)
        first.answer()
        assert "block_not_kept" in rig.log.events("warning")
