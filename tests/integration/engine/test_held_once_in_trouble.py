"""A conversation that is held once while something happens to it: to its request, its model, its disk or its pins.

Each thing happens on the engine's thread, at a moment that the test names, when its blocks have left RAM.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

import pytest

from semanticd.domain.errors import CancelledByCallerError, ConflictError
from semanticd.domain.ids import AgentId, ModelId
from tests.fakes.engine_rig import Ask, EngineRig, wait_until
from tests.fakes.model_runner import HashRunner, continuation, loaded_model
from tests.integration.engine.test_held_once import (
    BUDGET,
    all_hot,
    begin,
    chain,
    fork_of,
    fork_truth,
    forked,
    hot_as_on_disk,
    leave_unwritten,
    prompt,
)

TINY, TWIN = ModelId("tiny"), ModelId("twin")
ANSWER_TOKENS = 900


def leave(rig: EngineRig) -> None:
    """Let all that is on disk leave RAM."""
    assert rig.store.demote(list(rig.store.pool), "budget")


def cancel_first(rig: EngineRig) -> None:
    """Cancel the request that has run for longest."""
    rig.engine.cancel(rig.engine.running()[0].submission.request_id)


def see_whole(rig: EngineRig, asked: Ask, ids: list[int]) -> None:
    assert asked.answer().text == rig.tokenizer.decode(continuation(ids, ANSWER_TOKENS))


def begin_unwritten(
    rig: EngineRig, ids: list[int], act: Callable[[Ask], object], *, when: Callable[[], bool] = lambda: True
) -> Ask:
    """Return an answer in the course of which something is done, while the disk has taken nothing."""
    with rig.held():
        asked = rig.ask(ids, agent="first", max_tokens=ANSWER_TOKENS)
        asked.meanwhile(lambda: act(asked), when=when)
    return asked


def test_what_a_cancelled_request_leaves_comes_back_with_what_followed() -> None:
    """The disk has taken nothing: what the request computed since is of use only behind what left."""
    with EngineRig(budget_bytes=2 * BUDGET) as rig:
        rig.warm.hold_writes = True
        ids, left = prompt(0), []

        def act(asked: Ask) -> None:
            left.append(leave_unwritten(rig))
            rig.engine.cancel(asked.request_id)

        with rig.held():
            asked = rig.ask(ids, agent="first", max_tokens=ANSWER_TOKENS)
            # In the middle of a block.
            asked.meanwhile(lambda: act(asked), when=lambda: len(asked.text) >= 110)
        assert isinstance(asked.error(), CancelledByCallerError)
        assert left[0] > 10
        assert all_hot(rig, ids)
        assert rig.store.counters.lost_blocks == 0
        more = [*ids, *continuation(ids, len(asked.text)), 5, 6, 7]
        again = rig.ask(more, agent="first", max_tokens=8).answer()
        assert again.cache.computed_tokens <= 1 + 3
        assert again.text == rig.tokenizer.decode(continuation(more, 8))


def test_what_a_cancelled_request_leaves_on_disk_comes_back_without_being_read() -> None:
    with EngineRig(budget_bytes=2 * BUDGET) as rig:
        ids, reads = prompt(0), list[int]()

        def act() -> None:
            leave(rig)
            reads.append(rig.warm.stats().num_reads)
            cancel_first(rig)

        asked = begin(rig, ids, act)
        assert isinstance(asked.error(), CancelledByCallerError)
        assert all_hot(rig, ids)
        assert rig.warm.stats().num_reads == reads[0]


def test_what_left_is_lost_with_a_running_cache_that_cannot_be_read() -> None:
    """A chunk that was left in the middle leaves one that nothing is copied from."""
    with EngineRig(budget_bytes=2 * BUDGET) as rig:
        rig.warm.hold_writes = True
        ids, left = prompt(0), []

        def act(operation: str) -> None:
            if operation == "prefill" and not left and rig.runner.num_prefilled >= 1400:
                left.append(leave_unwritten(rig))
                rig.engine.cancel(asked.request_id)

        with rig.held():
            asked = rig.ask(ids, agent="first")
            rig.runner.before = act
        assert isinstance(asked.error(), CancelledByCallerError)
        assert rig.store.counters.lost_blocks == left[0] > 10
        assert "block_not_kept" not in rig.log.events("warning"), "nothing was tried"
        assert not rig.on_engine(lambda: rig.store.has_displaced)
        again = rig.ask(ids, agent="first", max_tokens=8).answer()
        assert again.text == rig.tokenizer.decode(continuation(ids, 8))


def test_what_a_full_disk_refused_is_not_lost_while_it_runs() -> None:
    with EngineRig(budget_bytes=2 * BUDGET) as rig:
        rig.warm.refuse = "the disk is full"
        ids, left, forks = prompt(0), [], list[Ask]()

        def act(asked: Ask) -> None:
            left.append(leave_unwritten(rig))
            forks.append(rig.ask(fork_of(ids), agent="fork", max_tokens=8))

        def are_all_refused() -> bool:
            return not (rig.store.persist() or rig.store.unwritten_bytes)

        asked = begin_unwritten(rig, ids, act, when=are_all_refused)
        see_whole(rig, asked, ids)
        assert left[0] > 10
        fork = forks[0].answer()
        assert fork.cache.reused_hot_tokens == 1488
        assert fork.text == fork_truth(rig, ids)
        assert all_hot(rig, ids)
        assert rig.store.counters.lost_blocks == 0
        rig.warm.refuse = ""
        rig.on_engine(rig.store.retry_refused)
        wait_until(lambda: rig.on_engine(lambda: not rig.store.ledger().dirty_bytes))
        assert all(rig.warm.get(name) for name in chain(rig, ids))


def test_without_a_disk_what_left_is_copied_for_others_and_comes_back() -> None:
    with EngineRig(budget_bytes=2 * BUDGET, no_warm=True) as rig:
        ids = prompt(0)

        def act() -> None:
            rig.store.make_room(rig.store.free_bytes + rig.store.pool.evictable_bytes())
            assert sum(map(rig.store.is_displaced, chain(rig, ids))) > 10

        first, fork = forked(rig, ids, act)
        answer = fork.answer()
        assert answer.cache.reused_hot_tokens == 1488
        assert answer.text == fork_truth(rig, ids)
        see_whole(rig, first, ids)
        assert all_hot(rig, ids)


def test_of_two_equal_models_either_has_what_both_run() -> None:
    """What the first one's sequence leaves lies in the second one's running cache, also when the first is unloaded."""
    with EngineRig(budget_bytes=4 * BUDGET) as rig:
        rig.add_model(loaded_model(HashRunner(), model_id=TWIN))
        ids, asks, removed, reads = prompt(0), list[Ask](), list[Future[None]](), list[int]()

        def begin_second() -> None:
            asks.append(rig.ask(ids, agent="second", max_tokens=ANSWER_TOKENS, model=TWIN))
            asks[0].meanwhile(while_both_run)

        def while_both_run() -> None:
            leave(rig)
            reads.append(rig.warm.stats().num_reads)
            cancel_first(rig)
            asks[0].meanwhile(while_one_runs, when=lambda: len(rig.engine.running()) == 1)

        def while_one_runs() -> None:
            assert sum(map(rig.store.is_displaced, chain(rig, ids))) > 10
            removed.append(rig.engine.remove_model(TINY))
            asks.append(rig.ask(fork_of(ids), agent="fork", max_tokens=8, model=TWIN))

        first = begin(rig, ids, begin_second, max_tokens=4 * ANSWER_TOKENS)
        assert isinstance(first.error(), CancelledByCallerError)
        wait_until(lambda: len(asks) == 2)
        answer = asks[1].answer()
        assert answer.cache.reused_hot_tokens == 1488
        assert answer.text == fork_truth(rig, ids)
        see_whole(rig, asks[0], ids)
        assert removed[0].exception() is None
        rig.idle()
        assert all_hot(rig, ids)
        assert rig.warm.stats().num_reads == reads[0]
        rig.on_engine(lambda: hot_as_on_disk(rig))


def test_a_model_that_leaves_behind_its_last_turn_leaves_nothing_behind() -> None:
    with EngineRig(budget_bytes=2 * BUDGET) as rig:
        ids, removed = prompt(0), list[Future[None]]()

        def act() -> None:
            leave(rig)
            removed.append(rig.engine.remove_model(TINY))

        see_whole(rig, begin(rig, ids, act), ids)
        assert isinstance(removed[0].exception(), ConflictError)
        rig.engine.remove_model(TINY).result(60)
        assert not rig.on_engine(lambda: len(rig.store.pool) or rig.store.has_displaced)
        rig.add_model(loaded_model(HashRunner()))
        more = [*ids, *continuation(ids, ANSWER_TOKENS), 5, 6, 7]
        again = rig.ask(more, agent="first", max_tokens=8).answer()
        assert again.cache.restored_warm_tokens == len(more) - 3
        assert again.text == rig.tokenizer.decode(continuation(more, 8))


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_is_pinned_stays_or_comes_back_to_stay(when: str) -> None:
    with EngineRig(budget_bytes=4 * BUDGET) as rig:
        ids, pinned = prompt(0), AgentId("first")
        rig.ask(ids, agent=pinned, max_tokens=4).answer()
        rig.idle()
        full = chain(rig, ids)
        num_hot: list[int] = []

        def pin() -> None:
            rig.agents.update(pinned, lambda one: replace(one, pinned=True))

        def want_all() -> None:
            rig.store.make_room(4 * BUDGET)

        def act() -> None:
            want_all()
            num_hot.append(sum(map(rig.store.is_hot, full)))
            if when == "meanwhile":
                pin()

        if when == "before":
            rig.on_engine(pin)
        see_whole(rig, begin(rig, ids, act), ids)
        assert num_hot == [len(full) if when == "before" else 0]
        rig.idle()
        rig.on_engine(want_all)
        assert all_hot(rig, ids)
        assert rig.on_engine(rig.store.ledger).pinned_bytes
        rig.on_engine(lambda: hot_as_on_disk(rig))
