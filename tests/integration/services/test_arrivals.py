"""Requests that the engine's thread has not taken are listed from their arrival on, and can be cancelled there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from threading import Event, current_thread
from typing import TypeVar

import pytest

from semanticd.application.services import arrivals
from semanticd.application.services.model_facts import SwappedModel
from semanticd.application.services.status_facts import RequestFacts
from semanticd.domain.chat import ChatPrompt, Message, Prompt
from semanticd.domain.conversation_key import anonymous_id, begins_large
from semanticd.domain.errors import CancelledByCallerError, RequestNotFoundError
from semanticd.domain.generation import SamplingParams
from semanticd.domain.ids import AgentId
from semanticd.domain.sequence import SequenceState
from tests.fakes.engine_rig import PATIENCE_S, wait_until
from tests.fakes.service_rig import GREEDY_8, ServiceRig

_T = TypeVar("_T")


async def soon(awaitable: Awaitable[_T]) -> _T:
    """Wait for what must happen, at most as long as tests have patience."""
    return await asyncio.wait_for(awaitable, PATIENCE_S)


async def row_of(
    rig: ServiceRig, agent: str, ready: Callable[[RequestFacts], bool] = lambda row: True
) -> RequestFacts:
    """Return the agent's request as soon as it is listed as wanted."""

    async def look() -> RequestFacts:
        while True:
            for row in await rig.requests.list():
                if row.agent == agent and ready(row):
                    return row
            await asyncio.sleep(0.002)

    return await soon(look())


@asynccontextmanager
async def model_loading(rig: ServiceRig) -> AsyncIterator[None]:
    """Inside, the engine's thread is in one long slice of a model's load, and does nothing else."""
    rig.loader.long_slice = Event()
    loading = asyncio.create_task(rig.models.load("two"))
    try:
        await asyncio.to_thread(wait_until, rig.loader.in_long_slice.is_set, "the load")
        yield
    finally:
        rig.loader.long_slice.set()
    await soon(loading)


async def begun_swap(rig: ServiceRig) -> asyncio.Task[SwappedModel]:
    """Begin a swap in which the model that leaves makes room for the next: requests wait for that one."""
    rig.loader.gate = Event()
    swapping = asyncio.create_task(rig.models.swap("two"))
    # The executor's thread looks, the loop goes on.
    await asyncio.to_thread(wait_until, lambda: rig.use.is_closed, "the swap's beginning")
    return swapping


def open_gate(rig: ServiceRig) -> None:
    """Let the model load."""
    assert rig.loader.gate is not None
    rig.loader.gate.set()


async def test_a_request_is_listed_from_its_arrival_while_the_engine_loads_a_model() -> None:
    async with ServiceRig() as rig:
        async with model_loading(rig):
            asking = asyncio.create_task(rig.say("hello", agent="a"))
            row = await row_of(rig, "a", lambda row: row.wait_reason == "model" and bool(row.prompt_tokens))
            assert row.state is SequenceState.WAITING
            assert (row.model, row.max_new_tokens) == ("one", GREEDY_8.max_tokens)
            rig.clock.advance(3.9)
            assert (await row_of(rig, "a")).age_s == pytest.approx(3.9)
            assert rig.status.engine().num_waiting == 1
            prompt = await rig.requests.prompt(str(row.id))
            assert "hello" in "".join(str(message.content) for message in prompt.messages)
            rig.history.sample()
            assert rig.history.facts().series["queue"][-1] == 1
        result = await soon(asking)
        assert await rig.requests.list() == []
        assert rig.status.engine().num_waiting == 0
        assert result.usage.timings.ttft_ms >= 3900, "its client waited for the load too"
        last = (await rig.agents.why("a")).last
        assert last is not None
        assert last.wait_reason == "model"
        assert "waiting for a model to load" in last.verdict


async def test_an_agent_whose_request_arrived_is_active_before_the_engine_takes_it() -> None:
    async with ServiceRig() as rig:
        await rig.say("hello", agent="a")
        assert (await rig.agents.show("a")).agent.state == "hot"
        async with model_loading(rig):
            asking = asyncio.create_task(rig.say("hello again", agent="a"))
            await row_of(rig, "a")
            (row,) = (await rig.agents.list())[:1]
            assert (row.id, row.state) == ("a", "active")
            assert (await rig.agents.totals()).by_state == {"active": 1}
        await soon(asking)
        assert (await rig.agents.show("a")).agent.state == "hot"


async def test_a_request_that_waits_for_another_model_to_take_the_place_is_listed() -> None:
    """It is not submitted yet: its prompt is read by the model that comes."""
    async with ServiceRig(memory_bytes=0) as rig:
        swapping = await begun_swap(rig)
        named = asyncio.create_task(rig.say("hello", agent="a"))
        anonymous = asyncio.create_task(rig.say("hello"))
        row = await row_of(rig, "a")
        rows = await rig.requests.list()
        assert {one.wait_reason for one in rows} == {"model"}
        assert len({one.agent for one in rows}) == 2, (
            "an anonymous conversation has the name that it will have"
        )
        assert row.prompt_tokens == 0, "not known yet"
        open_gate(rig)
        await soon(swapping)
        answers = await soon(asyncio.gather(named, anonymous))
        assert {answer.agent_id for answer in answers} == {one.agent for one in rows}
        assert {answer.model for answer in answers} == {"two"}
        assert await rig.requests.list() == []


async def test_a_cancelled_request_ends_before_the_engine_is_there_again() -> None:
    async with ServiceRig() as rig:
        async with model_loading(rig):
            asking = asyncio.create_task(rig.say("hello", agent="a"))
            row = await row_of(rig, "a", lambda row: row.wait_reason == "model" and bool(row.prompt_tokens))
            await rig.requests.cancel(str(row.id))
            with pytest.raises(CancelledByCallerError):
                await soon(asking)
            assert await rig.requests.list() == []
            with pytest.raises(RequestNotFoundError):
                await rig.requests.cancel(str(row.id))
        await asyncio.to_thread(wait_until, lambda: rig.engine.num_unanswered == 0, "the place's return")
        assert (await rig.say("hello", agent="a")).choices[0].text


async def test_a_request_is_cancelled_that_waits_for_its_model() -> None:
    async with ServiceRig(memory_bytes=0) as rig:
        swapping = await begun_swap(rig)
        asking = asyncio.create_task(rig.say("hello", agent="a"))
        row = await row_of(rig, "a")
        assert not swapping.done()
        await rig.requests.cancel(str(row.id))
        with pytest.raises(CancelledByCallerError):
            await soon(asking)
        assert await rig.requests.list() == []
        open_gate(rig)
        await soon(swapping)


async def test_an_agents_requests_are_cancelled_where_they_wait() -> None:
    async with ServiceRig(memory_bytes=0) as rig:
        swapping = await begun_swap(rig)
        asking = asyncio.create_task(rig.say("hello", agent="a"))
        row = await row_of(rig, "a")
        stopping = asyncio.create_task(rig.agents.cancel("a"))
        with pytest.raises(CancelledByCallerError):
            await soon(asking)
        open_gate(rig)
        assert (await soon(stopping)).requests == (row.id,)
        await soon(swapping)


async def test_a_client_that_leaves_takes_its_row_along() -> None:
    async with ServiceRig() as rig, model_loading(rig):
        stream = await rig.open("hello", agent="a")
        await row_of(rig, "a")
        await stream.aclose()
        assert await rig.requests.list() == []
    async with ServiceRig(memory_bytes=0) as rig:
        swapping = await begun_swap(rig)
        asking = asyncio.create_task(rig.generate.open(rig.request("hello", agent="b")))
        await row_of(rig, "b")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await rig.requests.list() == []
        open_gate(rig)
        await soon(swapping)


async def test_each_choice_has_a_row_as_in_the_engine() -> None:
    sampling = SamplingParams(temperature=0, max_tokens=3)
    async with ServiceRig() as rig:
        async with model_loading(rig):
            asking = asyncio.create_task(rig.say("hello", agent="a", sampling=sampling, num_choices=3))
            await row_of(rig, "a", lambda row: bool(row.prompt_tokens))
            assert len(await rig.requests.list()) == 3
            assert rig.status.engine().num_waiting == 3
        assert len((await soon(asking)).choices) == 3
        assert await rig.requests.list() == []


LARGE = 80_000


@pytest.mark.parametrize(
    ("messages", "is_large"),
    [
        ([Message.of("user", "hello")], False),
        ([Message.of("user", "x" * LARGE)], True),
        ([Message.of("system", "x" * LARGE), Message.of("user", "hello")], True),
        ([Message.of("system", "x")] * 2_000, True),
        ([Message.of("user", "hello"), Message.of("assistant", "x" * LARGE), Message.of("user", "y")], False),
    ],
)
def test_what_names_an_anonymous_agent_may_be_large(messages: list[Message], is_large: bool) -> None:
    assert begins_large(ChatPrompt(tuple(messages))) == is_large


async def test_the_beginning_of_a_large_anonymous_prompt_is_read_by_another_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readers: list[str] = []

    def recorded(prompt: Prompt) -> AgentId:
        readers.append(current_thread().name)
        return anonymous_id(prompt)

    monkeypatch.setattr(arrivals, "anonymous_id", recorded)
    async with ServiceRig(memory_bytes=0) as rig:
        swapping = await begun_swap(rig)
        prompt = ChatPrompt((Message.of("user", "x" * LARGE),))
        asking = asyncio.create_task(rig.open(prompt, agent=None))
        row = await row_of(rig, anonymous_id(prompt))
        assert row.wait_reason == "model", "it is named before its prompt is read"
        assert readers == [name for name in readers if name != current_thread().name] != []
        asking.cancel()
        await asyncio.wait({asking})
        open_gate(rig)
        await soon(swapping)
