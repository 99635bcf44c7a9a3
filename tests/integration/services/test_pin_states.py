"""Pins through what else happens to agents and models: shares, deletes, forks, rewinds, swaps, stops, restarts."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from semanticd.domain.chat import Message
from semanticd.domain.errors import AgentNotFoundError, ConflictError, SemanticError
from semanticd.domain.ids import AgentId
from tests.fakes.engine_rig import PATIENCE_S, wait_until
from tests.fakes.model_runner import BYTES_PER_TOKEN
from tests.fakes.service_rig import LONG, ServiceRig
from tests.fakes.warm_store import MemoryAgentArchive, MemoryWarmStore

TEXT = "a text of its own that takes several blocks of sixteen tokens each, " * 3


async def settled(rig: ServiceRig) -> None:
    await asyncio.to_thread(rig.engine_rig.idle)


def pinned_bytes(rig: ServiceRig) -> int:
    return rig.engine_rig.on_engine(rig.store.ledger).pinned_bytes


def hot(rig: ServiceRig, agent: str) -> int:
    return rig.store.pool.agent_bytes(AgentId(agent))


async def fill(rig: ServiceRig, *, turns: int = 12) -> None:
    """Ask so much else that whatever may leave RAM does."""
    for number in range(turns):
        await rig.say(f"{number} {TEXT}", agent=f"filler-{number}")
    await settled(rig)


async def test_a_pin_may_be_as_large_as_the_cap_and_no_larger() -> None:
    async with ServiceRig(budget_bytes=4096 * BYTES_PER_TOKEN) as rig:
        await rig.say(TEXT, agent="a")
        await rig.say("another " + TEXT, agent="b")
        await settled(rig)
        both = hot(rig, "a") + hot(rig, "b")
        rig.engine_rig.on_engine(lambda: rig.store.set_budget(2 * both, planned_bytes=2 * both))
        await rig.agents.pin("a")
        await rig.agents.pin("b")
        assert pinned_bytes(rig) == both
        await rig.agents.unpin("b")
        rig.engine_rig.on_engine(lambda: rig.store.set_budget(2 * both - 2, planned_bytes=2 * both))
        with pytest.raises(ConflictError, match="pins keep at most 50%"):
            await rig.agents.pin("b")
        assert pinned_bytes(rig) == hot(rig, "a")


async def test_a_second_pin_of_an_agent_adds_nothing_and_one_unpin_ends_it() -> None:
    async with ServiceRig(budget_bytes=4096 * BYTES_PER_TOKEN) as rig:
        await rig.say(TEXT, agent="a")
        await settled(rig)
        await rig.agents.pin("a")
        once = pinned_bytes(rig)
        assert (await rig.agents.pin("a")).pinned
        assert (await rig.agents.pin("a", ttl_s=60.0)).pinned
        assert pinned_bytes(rig) == once > 0
        await rig.agents.unpin("a")
        assert pinned_bytes(rig) == 0


async def test_an_agent_that_is_pinned_may_be_pinned_again_where_pins_are_over_their_share() -> None:
    async with ServiceRig(budget_bytes=4096 * BYTES_PER_TOKEN) as rig:
        await rig.say(TEXT, agent="a")
        await settled(rig)
        await rig.agents.pin("a")
        # As when the machine's memory is short.
        lowered = hot(rig, "a")
        rig.engine_rig.on_engine(lambda: rig.store.set_budget(lowered, planned_bytes=lowered))
        assert (await rig.agents.pin("a", ttl_s=60.0)).pinned


async def test_blocks_that_pinned_agents_share_count_once_and_stay_for_the_last_of_them() -> None:
    async with ServiceRig(budget_bytes=4096 * BYTES_PER_TOKEN) as rig:
        await rig.say(TEXT, agent="a")
        await settled(rig)
        size = hot(rig, "a")
        # Room for the pin of one such agent, not of two.
        rig.engine_rig.on_engine(lambda: rig.store.set_budget(3 * size, planned_bytes=3 * size))
        await rig.agents.pin("a")
        await rig.agents.fork("a", "b")
        assert not (await rig.agents.show("b")).agent.pinned
        await rig.agents.pin("b")
        assert pinned_bytes(rig) == size
        await rig.agents.unpin("a")
        assert pinned_bytes(rig) == size
        await rig.agents.delete("b")
        assert pinned_bytes(rig) == 0
        assert hot(rig, "a") == size, "they are still the other's"


async def test_a_pinned_agent_that_is_deleted_leaves_nothing_pinned_and_its_id_is_free() -> None:
    async with ServiceRig() as rig:
        await rig.say(TEXT, agent="a")
        await settled(rig)
        await rig.agents.pin("a")
        await rig.agents.delete("a")
        assert pinned_bytes(rig) == 0
        with pytest.raises(AgentNotFoundError):
            await rig.agents.pin("a")
        await rig.say(TEXT, agent="a")
        await settled(rig)
        assert not (await rig.agents.show("a")).agent.pinned
        assert pinned_bytes(rig) == 0
        assert (await rig.agents.evict("a")).freed_bytes > 0


@pytest.mark.parametrize("has_state", [False, True])
async def test_a_pin_follows_its_agent_through_a_rewind(has_state: bool) -> None:
    async with ServiceRig(has_state=has_state) as rig:
        talk = [Message.of("user", TEXT)]
        first = await rig.say(talk, agent="a")
        await settled(rig)
        one_turn = hot(rig, "a")
        talk += [Message.of("assistant", first.choices[0].text), Message.of("user", "more " + TEXT)]
        await rig.say(talk, agent="a")
        await settled(rig)
        await rig.agents.pin("a")
        assert pinned_bytes(rig) == hot(rig, "a") > one_turn
        assert (await rig.agents.rewind("a")).pinned
        await settled(rig)
        assert 0 < pinned_bytes(rig) == hot(rig, "a") <= one_turn
        rig.engine_rig.on_engine(rig.store.check_integrity)


@pytest.mark.parametrize("has_state", [False, True])
async def test_a_pin_outlives_a_swap_and_the_way_back(has_state: bool) -> None:
    async with ServiceRig(memory_bytes=0, has_state=has_state) as rig:
        asked = [Message.of("user", TEXT)]
        first = await rig.say(asked, agent="a")
        await settled(rig)
        await rig.agents.pin("a")
        await rig.models.swap("two")
        assert pinned_bytes(rig) == 0, "blocks of a model that left are not in RAM"
        assert (await rig.agents.show("a")).agent.pinned
        await rig.say("hello", agent="b")
        await rig.models.swap("one")
        again = await rig.say(asked, agent="a")
        assert again.choices == first.choices
        assert again.usage.cache.restored_warm_tokens > 0
        await settled(rig)
        assert pinned_bytes(rig) == hot(rig, "a") > 0


async def test_a_model_is_unloaded_although_an_agent_of_it_is_pinned() -> None:
    async with ServiceRig() as rig:
        await rig.models.load("two")
        asked = [Message.of("user", TEXT)]
        first = await rig.say(asked, agent="a", model="two")
        await settled(rig)
        await rig.agents.pin("a")
        await rig.models.unload("two")
        assert pinned_bytes(rig) == 0
        rig.engine_rig.on_engine(rig.store.check_integrity)
        rig.engine_rig.warm.prune(target_bytes=0)
        await rig.models.load("two")
        again = await rig.say(asked, agent="a", model="two")
        assert again.choices == first.choices
        assert again.usage.cache.restored_warm_tokens > 0, "a pinned agent's blocks are not pruned"


@pytest.mark.parametrize("has_state", [False, True])
async def test_a_pin_outlives_a_restart_and_holds_what_is_read_again(has_state: bool) -> None:
    disk: dict[str, Any] = {"warm": MemoryWarmStore(), "archive": MemoryAgentArchive()}
    budget: dict[str, Any] = {"budget_bytes": 1600 * BYTES_PER_TOKEN, "has_state": has_state}
    asked = [Message.of("user", TEXT)]
    async with ServiceRig(**disk, **budget) as rig:
        await rig.say(asked, agent="a")
        await settled(rig)
        await rig.agents.pin("a")
    async with ServiceRig(**disk, **budget) as rig:
        assert (await rig.agents.show("a")).agent.pinned
        assert pinned_bytes(rig) == 0, "nothing was read yet"
        again = await rig.say(asked, agent="a")
        assert again.usage.cache.restored_warm_tokens > 0
        await settled(rig)
        held = pinned_bytes(rig)
        assert held == hot(rig, "a") > 0
        await fill(rig)
        assert pinned_bytes(rig) == held


# Stops.


async def stop(rig: ServiceRig) -> None:
    """Stop the engine as the daemon does at a SIGTERM, and once more."""
    await asyncio.wait_for(asyncio.to_thread(rig.engine.stop), PATIENCE_S)
    await asyncio.wait_for(asyncio.to_thread(rig.engine.stop), PATIENCE_S)


@pytest.mark.parametrize("stage", ["checking", "draining", "loading"])
@pytest.mark.parametrize("twice", [False, True])
async def test_a_stop_in_the_middle_of_a_swap_ends_it_and_loses_no_pinned_agent(
    stage: str, twice: bool
) -> None:
    disk: dict[str, Any] = {"warm": MemoryWarmStore(), "archive": MemoryAgentArchive()}
    asked = [Message.of("user", TEXT)]
    async with ServiceRig(memory_bytes=0, **disk) as rig:
        first = await rig.say(asked, agent="a")
        await rig.agents.pin("a")
        running = await rig.begin("hello", agent="b", sampling=LONG) if stage == "draining" else None
        gate = threading.Event()
        rig.loader.gate = gate
        rig.loader.check_gate = gate if stage == "checking" else None
        swapping = asyncio.create_task(rig.models.swap("two"))
        await asyncio.to_thread(wait_until, lambda: rig.progress.stage == stage)
        waiting = asyncio.create_task(rig.say("are you there", agent="c"))
        await asyncio.sleep(0)
        rig.engine.drain()
        if twice:
            await asyncio.gather(stop(rig), stop(rig))
        else:
            await stop(rig)
        # Whoever waits gets an answer.
        for one in (swapping, waiting):
            with pytest.raises(SemanticError):
                await asyncio.wait_for(one, PATIENCE_S)
        if running is not None:
            with pytest.raises(SemanticError):
                await asyncio.wait_for(running.result(), PATIENCE_S)
    async with ServiceRig(memory_bytes=0, **disk) as rig:
        assert (await rig.agents.show("a")).agent.pinned
        again = await rig.say(asked, agent="a")
        assert again.choices == first.choices
        assert again.usage.cache.computed_tokens == 1


async def test_a_stop_while_the_first_model_loads_answers_who_waits_for_it() -> None:
    async with ServiceRig(load=False) as rig:
        rig.loader.gate = threading.Event()
        loading = asyncio.create_task(rig.models.load("one"))
        await asyncio.to_thread(wait_until, lambda: rig.progress.stage == "loading")
        await stop(rig)
        with pytest.raises(SemanticError):
            await asyncio.wait_for(loading, PATIENCE_S)
        assert not rig.engine.models


async def test_a_drain_lets_what_runs_end_next_to_pins_and_a_stop_ends_it() -> None:
    async with ServiceRig() as rig:
        await rig.say(TEXT, agent="a")
        ended = await rig.open("short", agent="b")
        cut = await rig.begin("long", agent="c", sampling=LONG)
        await rig.agents.pin("a")
        rig.engine.drain()
        rig.engine.drain()
        with pytest.raises(SemanticError, match=r"drain|stop"):
            await rig.say("late", agent="d")
        assert (await asyncio.wait_for(ended.result(), PATIENCE_S)).choices[0].text
        await stop(rig)
        with pytest.raises(SemanticError):
            await asyncio.wait_for(cut.result(), PATIENCE_S)
        assert rig.engine.num_unanswered == 0
