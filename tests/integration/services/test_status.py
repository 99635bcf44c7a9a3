"""What the daemon says of itself: why requests wait, what the last hour was like, and what the cache saved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from semanticd.adapters.disk.agents.codec import decode_turn, encode_turn
from semanticd.application.services.status_facts import RequestFacts
from semanticd.domain.chat import Message
from semanticd.domain.errors import RequestNotFoundError
from semanticd.domain.scheduler import SchedulerLimits
from semanticd.domain.sequence import SequenceState
from semanticd.entrypoints.doctor_generation import generate_some
from tests.fakes.engine_rig import wait_until
from tests.fakes.model_runner import BYTES_PER_TOKEN
from tests.fakes.service_rig import LONG, ServiceRig

SYSTEM = Message.of("system", "A system text that takes up a few blocks of sixteen tokens each. " * 2)


async def row_of(rig: ServiceRig, agent: str, ready: Callable[[RequestFacts], bool]) -> RequestFacts:
    """Return the agent's request as soon as it is as wanted."""
    while True:
        for row in await rig.requests.list():
            if row.agent == agent and ready(row):
                return row
        await asyncio.sleep(0.002)


async def test_a_request_without_a_place_says_so_and_behind_which_agent() -> None:
    async with ServiceRig(limits=SchedulerLimits(max_batch_size=1)) as rig:
        first = await rig.begin("hello", agent="a")
        waiting = asyncio.create_task(rig.say("something else", agent="b"))
        row = await row_of(rig, "b", lambda row: row.wait_reason == "place")
        assert (row.state, row.wait_behind) == (SequenceState.WAITING, "a")
        rig.history.sample()
        rig.clock.advance(5)
        rig.history.sample()
        await first.aclose()
        await waiting
        last = (await rig.agents.why("b")).last
        assert last is not None
        assert (last.wait_reason, last.wait_behind) == ("place", "a")
        assert "waiting for a place in the batch behind a" in last.verdict


async def test_why_a_turn_waited_outlives_the_daemon_and_behind_whom_does_not() -> None:
    """The name of another agent, which may be deleted, is in no record of this one."""
    async with ServiceRig(limits=SchedulerLimits(max_batch_size=1)) as rig:
        first = await rig.begin("hello", agent="a")
        waiting = asyncio.create_task(rig.say("something else", agent="b"))
        await row_of(rig, "b", lambda row: row.wait_reason == "place")
        rig.clock.advance(5)
        rig.history.sample()
        await first.aclose()
        await waiting
        (stored,) = (await rig.agents.agent("b")).turns
        (facts,) = (await rig.agents.show("b")).turns
        assert "behind a" in facts.verdict
    turn = decode_turn(encode_turn(stored))
    assert turn.wait_reason == "place"
    async with ServiceRig() as later:
        # As after a restart: nothing was seen of the request itself.
        report = later.agents._turn(turn)  # noqa: SLF001 (an archive would be its way around)
        assert (report.wait_reason, report.wait_behind) == ("place", None)
        assert "waiting for a place in the batch." in report.verdict


async def test_the_prompt_of_a_request_is_shown_while_it_runs_and_not_after() -> None:
    async with ServiceRig() as rig:
        running = await rig.begin([SYSTEM, Message.of("user", "hello \ud83d")], agent="a", sampling=LONG)
        (row,) = await rig.requests.list()
        prompt = await rig.requests.prompt(str(row.id))
        text = "".join(str(message.content) for message in prompt.messages)
        assert prompt.agent == "a"
        assert "hello \ufffd" in text, "half a character cannot be sent"
        assert sum(message.num_tokens or 0 for message in prompt.messages) == row.prompt_tokens
        await running.aclose()
        await asyncio.to_thread(wait_until, lambda: rig.engine.num_unanswered == 0)
        with pytest.raises(RequestNotFoundError):
            await rig.requests.prompt(str(row.id))


async def test_status_and_rows_say_how_many_tokens_a_step_brings() -> None:
    async with ServiceRig() as rig:
        running = await rig.begin("hello", agent="a", sampling=LONG)
        row = await row_of(rig, "a", lambda row: row.state is SequenceState.DECODING)
        engine = (await rig.status.snapshot()).engine
        assert (row.tokens_per_step, engine.tokens_per_step, engine.num_draft_tokens) == (1.0, 1.0, 0)
        await running.aclose()


async def test_a_request_that_finds_no_room_in_ram_says_so() -> None:
    async with ServiceRig(budget_bytes=BYTES_PER_TOKEN * 1500) as rig:
        first = await rig.begin("x" * 900, agent="big", sampling=LONG)
        second = asyncio.create_task(rig.say("y" * 900, agent="late"))
        row = await row_of(rig, "late", lambda row: row.wait_reason == "memory")
        assert row.wait_behind == "big"
        await first.aclose()
        await second


async def test_history_has_a_sample_a_second_and_gaps_where_nothing_happened() -> None:
    async with ServiceRig() as rig:
        rig.history.sample()
        await rig.say([SYSTEM, Message.of("user", "hello")], agent="a")
        await rig.say([SYSTEM, Message.of("user", "hello again")], agent="b")
        rig.history.sample()
        facts = rig.history.facts()
        assert (facts.first, facts.last) == (0, 1)
        series = facts.series
        assert series["ttft_ms"][0] is None
        assert series["ttft_ms"][1] is not None
        assert series["hit_rate"][0] is None
        assert 0 < series["hit_rate"][1] < 1
        later = rig.history.facts(after=0)
        assert (later.first, len(later.series["queue"])) == (1, 1)
        for _ in range(1000):
            rig.history.sample()
        assert len(rig.history.facts().series["queue"]) == 600
        assert rig.history.facts(step_s=10).last == 99


async def test_status_counts_what_was_saved() -> None:
    async with ServiceRig() as rig:
        prompt = [SYSTEM, Message.of("user", "hello")]
        await rig.say(prompt, agent="a")
        await rig.say(prompt, agent="b")
        savings = (await rig.status.snapshot()).savings
        assert savings.total.reused_tokens == rig.store.counters.hot_hit_tokens > 0
        assert savings.today == savings.total
        assert (await rig.agents.show("b")).savings.reused_tokens == savings.total.reused_tokens


async def test_own_and_shared_bytes_add_up_to_what_is_hot() -> None:
    async with ServiceRig() as rig:
        for agent in ("a", "b"):
            await rig.say(
                [SYSTEM, Message.of("user", f"I am {agent}, and this is a longer text")], agent=agent
            )
        row = (await rig.agents.show("a")).agent
        assert row.own_hot_bytes + row.shared_hot_bytes == row.hot_bytes
        assert row.own_hot_bytes > 0
        assert row.shared_hot_bytes > 0


async def test_the_doctors_tokens_leave_no_agent_behind() -> None:
    async with ServiceRig() as rig:
        assert await generate_some(rig.generate) == 10
        await asyncio.to_thread(wait_until, lambda: rig.engine.num_unanswered == 0)
        assert await rig.agents.list() == []
