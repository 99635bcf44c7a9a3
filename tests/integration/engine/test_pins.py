"""An operator's pins next to answers that run: a pin keeps blocks, and ends no answer.

Each pin is set on the engine's thread at a moment that the test names, so that a run can be repeated.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from semanticd.application.engine.embedding_job import EmbeddingJob
from semanticd.application.engine.running_sequence import SequenceText, SequenceUpdate
from semanticd.domain.errors import RequestTooLargeError
from semanticd.domain.generation import FinishReason, SamplingParams
from semanticd.domain.ids import AgentId, RequestId
from tests.fakes.engine_rig import PATIENCE_S, Ask, EngineRig, wait_until
from tests.fakes.model_runner import BYTES_PER_TOKEN, CAPACITY_STEP, HashRunner, continuation, vector_of
from tests.fakes.telemetry import ManualClock
from tests.fakes.tokenizer import CharTokenizer
from tests.fakes.warm_store import MemoryWarmStore

TOKENS = CharTokenizer()
ENDLESS = SamplingParams(temperature=0, ignore_eos=True)
BUDGET_TOKENS = 2000
BUDGET = BUDGET_TOKENS * BYTES_PER_TOKEN
PINNED_TOKENS = 900
LONG = 1200
"""Tokens of an answer that needs more than a pin of `PINNED_TOKENS` leaves."""


def prompt(length: int, seed: int = 0) -> list[int]:
    return [random.Random(seed).randrange(95) for _ in range(length)]


def pin(rig: EngineRig, agent: str = "pinned", *, pinned: bool = True) -> None:
    rig.agents.update(AgentId(agent), lambda one: replace(one, pinned=pinned))


def begin(rig: EngineRig, *agents: str, then: Callable[[], None], max_tokens: int = LONG) -> list[Ask]:
    """Begin answers, and do something on the engine's thread when the last of them has its first token."""
    with rig.held():
        asks = [
            rig.ask(prompt(20, seed=n + 7), agent=one, max_tokens=max_tokens, sampling=ENDLESS)
            for n, one in enumerate(agents)
        ]
        todo = [then]

        def on_update(update: SequenceUpdate) -> None:
            if isinstance(update, SequenceText) and todo:
                todo.pop()()

        asks[-1].on_update = on_update
    return asks


def see_whole(rig: EngineRig, asks: list[Ask], *, max_tokens: int = LONG) -> None:
    for n, ask in enumerate(asks):
        answer = ask.answer()
        true = continuation(prompt(20, seed=n + 7), max_tokens, has_state=not rig.runner.spec.cuts_anywhere)
        assert answer.text == TOKENS.decode(true)
        assert answer.reason is FinishReason.LENGTH
        assert not answer.usage.is_cut_short
    assert "answer_cut_short" not in rig.log.events("warning")


def note_pin(rig: EngineRig, found: list[bool]) -> None:
    found.append(rig.tables.is_pinned(AgentId("pinned")))


def pinned_bytes(rig: EngineRig) -> int:
    return rig.on_engine(rig.store.ledger).pinned_bytes


@pytest.mark.parametrize("has_disk", [True, False])
@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("agents", [("one",), ("one", "two")])
def test_a_pin_that_is_set_while_answers_run_cuts_none_short(
    agents: tuple[str, ...], has_state: bool, has_disk: bool
) -> None:
    runner = HashRunner(has_state=has_state)
    with EngineRig(budget_bytes=BUDGET, runner=runner, no_warm=not has_disk) as rig:
        rig.ask(prompt(PINNED_TOKENS), agent="pinned").answer()
        rig.idle()
        see_whole(rig, begin(rig, *agents, then=lambda: pin(rig)))
        assert rig.tables.is_pinned(AgentId("pinned"))
        again = rig.ask(prompt(PINNED_TOKENS), agent="pinned").answer()
        kept = again.cache.reused_hot_tokens + again.cache.restored_warm_tokens
        assert kept >= (PINNED_TOKENS - 16 if has_disk else 0), "what made way is read again"


@pytest.mark.parametrize("hot_tokens", [0, 400, 900])
def test_the_next_turn_of_a_pinned_agent_reads_its_blocks(hot_tokens: int) -> None:
    """Its conversation and its pin do not fit together: the pin takes the room that its blocks are read through."""
    with EngineRig(budget_bytes=BUDGET) as rig:
        ids = prompt(1300)
        rig.ask(ids, agent="pinned").answer()
        rig.idle()
        rig.on_engine(lambda: rig.store.make_room(BUDGET - hot_tokens * BYTES_PER_TOKEN))
        pin(rig)
        for _ in range(3):
            answer = rig.ask(ids, agent="pinned").answer()
            assert answer.text == TOKENS.decode(continuation(ids, 8))
            assert answer.cache.reused_hot_tokens + answer.cache.restored_warm_tokens >= 1300 - 32
            rig.idle()
            assert rig.tables.is_pinned(AgentId("pinned"))


@pytest.mark.parametrize("length", [1300, PINNED_TOKENS])
@pytest.mark.parametrize("hot_tokens", [400, 900])
@pytest.mark.parametrize("has_state", [False, True])
def test_a_pin_makes_way_for_its_agents_turn_only_where_more_is_read_for_that(
    has_state: bool, hot_tokens: int, length: int
) -> None:
    """A snapshot fits whole or not at all: where it does not fit without the pin either, the pin stays."""
    with EngineRig(budget_bytes=BUDGET, runner=HashRunner(has_state=has_state)) as rig:
        ids = prompt(length)
        rig.ask(ids, agent="pinned").answer()
        rig.idle()
        rig.on_engine(lambda: rig.store.make_room(BUDGET - hot_tokens * BYTES_PER_TOKEN))
        pin(rig)
        for _ in range(3):
            stayed: list[bool] = []
            with rig.held():
                ask = rig.ask(ids, agent="pinned")
                ask.meanwhile(partial(note_pin, rig, stayed))
            answer = ask.answer()
            assert answer.text == TOKENS.decode(continuation(ids, 8, has_state=has_state))
            fits = length <= PINNED_TOKENS
            assert stayed == [fits or has_state]
            if fits or not has_state:
                assert answer.cache.reused_hot_tokens + answer.cache.restored_warm_tokens >= length - 32
            rig.idle()
            assert rig.tables.is_pinned(AgentId("pinned"))


def test_pinned_blocks_leave_only_as_far_as_the_answer_needs_their_room() -> None:
    with EngineRig(budget_bytes=BUDGET) as rig:
        rig.ask(prompt(PINNED_TOKENS), agent="pinned").answer()
        rig.idle()
        see_whole(rig, begin(rig, "one", then=lambda: pin(rig)))
        room = BUDGET - 5 * CAPACITY_STEP * BYTES_PER_TOKEN
        assert room - 16 * BYTES_PER_TOKEN <= pinned_bytes(rig) <= room


def test_a_pin_makes_no_way_for_blocks_nor_for_answers_that_run_together() -> None:
    with EngineRig(budget_bytes=BUDGET) as rig:
        rig.ask(prompt(PINNED_TOKENS), agent="pinned").answer()
        pin(rig)
        rig.idle()
        before = pinned_bytes(rig)
        # Together they need more than the pin leaves, each of them less.
        see_whole(rig, begin(rig, "one", "two", "three", then=lambda: None, max_tokens=600), max_tokens=600)
        for n in range(8):
            rig.ask(prompt(300, seed=n + 50), agent=f"agent-{n}").answer()
        assert pinned_bytes(rig) == before


@pytest.mark.parametrize("disk", ["slow", "hung", "full"])
def test_a_pin_of_unwritten_blocks_costs_an_answer_a_moment_at_most(disk: str) -> None:
    warm, clock = MemoryWarmStore(hold_writes=disk != "full"), ManualClock()
    warm.refuse = "the disk is full" if disk == "full" else ""
    with EngineRig(budget_bytes=BUDGET, warm=warm, clock=clock) as rig:
        rig.ask(prompt(PINNED_TOKENS), agent="pinned").answer()
        largest = 0

        def look(operation: str) -> None:
            nonlocal largest
            largest = max(largest, rig.store.ledger().used_bytes)
            if operation == "decode":
                clock.advance(0.001)

        rig.runner.before = look
        asks = begin(rig, "one", then=lambda: pin(rig))
        while not asks[0].over:
            # An engine that waits for the disk asks the clock.
            clock.advance(0.1)
            if disk == "slow":
                rig.on_engine(warm.catch_up)
            rig.on_engine(lambda: None)
        see_whole(rig, asks)
        assert largest <= BUDGET + rig.runner.spec.stored_bytes(rig.runner.spec.block_tokens)
        warm.refuse = ""


def test_a_request_that_waits_when_a_pin_is_set_is_answered() -> None:
    with EngineRig(budget_bytes=BUDGET) as rig:
        rig.ask(prompt(PINNED_TOKENS), agent="pinned").answer()
        rig.idle()
        # It waits for the place of the first: both do not fit.
        waiting: list[Ask] = []
        ids = prompt(1300, seed=90)

        def then() -> None:
            waiting.append(rig.ask(ids, agent="waiting"))
            rig.engine.call(lambda: pin(rig))

        see_whole(rig, begin(rig, "one", then=then))
        answer = waiting[0].answer()
        assert answer.text == TOKENS.decode(continuation(ids, 8))


def test_a_request_that_comes_after_the_pin_is_measured_by_what_pins_leave() -> None:
    with EngineRig(budget_bytes=BUDGET) as rig:
        rig.ask(prompt(PINNED_TOKENS), agent="pinned").answer()
        pin(rig)
        rig.idle()
        error = rig.ask(prompt(1300, seed=90), agent="late").error()
        assert isinstance(error, RequestTooLargeError)
        assert "are pinned" in error.message
        pin(rig, pinned=False)
        assert rig.ask(prompt(1300, seed=90), agent="late").answer()


def test_pins_beyond_their_share_refuse_nothing() -> None:
    """Blocks of pinned agents that were on disk only become hot by requests of others that share them."""
    with EngineRig(budget_bytes=BUDGET) as rig:
        agents = ("first", "second", "third")
        for n, agent in enumerate(agents):
            rig.ask(prompt(450, seed=n), agent=agent).answer()
            rig.idle()
            rig.on_engine(lambda agent=agent: rig.tables.evict_agent(AgentId(agent)))  # type: ignore[misc]
        wait_until(lambda: not rig.on_engine(rig.store.ledger).hot_bytes, "the agents' way to the disk")
        for agent in agents:
            pin(rig, agent)
        for n in range(3):
            rig.ask([*prompt(450, seed=n), *prompt(3, seed=3)], agent="other").answer()
        assert pinned_bytes(rig) > BUDGET // 2
        ids = prompt(700, seed=90)
        assert rig.ask(ids, agent="late").answer().text == TOKENS.decode(continuation(ids, 8))


def test_a_pin_fails_no_texts_that_are_to_be_embedded() -> None:
    with EngineRig(budget_bytes=BUDGET) as rig:
        rig.ask(prompt(PINNED_TOKENS), agent="pinned").answer()
        rig.idle()
        done = [False]

        def pin_once(operation: str) -> None:
            if operation == "embed_part" and not done[0]:
                done[0] = True
                pin(rig)

        rig.runner.before = pin_once
        jobs = [
            EmbeddingJob(RequestId(str(n)), AgentId("e"), rig.model.model_id, (tuple(prompt(n, seed=n)),))
            for n in (600, 1300)
        ]
        with rig.held():
            for job in jobs:
                rig.engine.embed(job)
        for job in jobs:
            assert job.vectors.result(PATIENCE_S) == (vector_of(job.texts[0]),)
