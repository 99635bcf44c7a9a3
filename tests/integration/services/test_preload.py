"""After a start what the last users' agents left on disk is hot before they ask, within a share of the budget."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import Future

import pytest

from semanticd.application.ports.warm_store import BlockRecord
from semanticd.application.services.preload import Preload
from semanticd.domain.ids import BlockHash
from tests.fakes.engine_rig import EngineRig
from tests.fakes.model_runner import BYTES_PER_TOKEN, HashRunner, continuation
from tests.fakes.warm_store import MemoryAgentArchive, MemoryWarmStore


def prompt(length: int, seed: int = 0) -> list[int]:
    return [random.Random(seed).randrange(95) for _ in range(length)]


def preload_of(rig: EngineRig, warm: MemoryWarmStore, *, share: float = 1.0) -> Preload:
    return Preload(engine=rig.engine, store=rig.store, agents=rig.agents, warm=warm, share=share, log=rig.log)


def left_by(
    *agents: tuple[str, list[int]], has_state: bool = False
) -> tuple[MemoryWarmStore, MemoryAgentArchive]:
    """Return what a daemon leaves on disk whose agents asked these prompts, in this order."""
    warm, archive = MemoryWarmStore(), MemoryAgentArchive()
    with EngineRig(runner=HashRunner(has_state=has_state), warm=warm, archive=archive) as rig:
        for name, ids in agents:
            rig.clock.advance(10)
            rig.ask(ids, agent=name).answer()
    return warm, archive


@pytest.mark.parametrize("has_state", [False, True])
async def test_the_first_turn_after_a_restart_reads_nothing_from_disk(has_state: bool) -> None:
    first = prompt(200)
    warm, archive = left_by(("a", first), has_state=has_state)
    follow = first + continuation(first, 8, has_state=has_state) + prompt(20, 1)
    runner = HashRunner(has_state=has_state)
    with EngineRig(runner=runner, warm=warm, archive=archive) as rig:
        await preload_of(rig, warm).run()
        answer = await asyncio.to_thread(lambda: rig.ask(follow).answer())
    assert answer.cache.restored_warm_tokens == 0
    assert answer.cache.reused_hot_tokens >= 200
    with EngineRig(runner=HashRunner(has_state=has_state)) as cold:
        assert answer.text == cold.ask(follow).answer().text


async def test_the_last_users_come_first_and_leave_last() -> None:
    prompts = {name: prompt(320, seed) for seed, name in enumerate(("early", "middle", "late"))}
    warm, archive = left_by(*prompts.items())
    budget = 1000 * BYTES_PER_TOKEN
    with EngineRig(warm=warm, archive=archive, budget_bytes=budget) as rig:
        await preload_of(rig, warm, share=0.7).run()
        used = rig.store.ledger().used_bytes
        assert 0.5 * budget < used <= 0.7 * budget
        tables = {name: rig.agents.get(name).block_table for name in prompts}  # type: ignore[arg-type]
        hot = {
            name: sum(one in rig.store.pool for one in table) / len(table) for name, table in tables.items()
        }
        assert hot["late"] == hot["middle"] == 1.0
        assert hot["early"] < 1.0
        assert await asyncio.wrap_future(rig.engine.call(lambda: rig.store.make_room(budget - used + 1)))
        assert all(one in rig.store.pool for one in tables["late"])


async def test_a_share_of_nothing_reads_nothing() -> None:
    warm, archive = left_by(("a", prompt(200)))
    with EngineRig(warm=warm, archive=archive) as rig:
        await preload_of(rig, warm, share=0.0).run()
        assert rig.store.ledger().hot_bytes == 0


async def test_it_gives_way_to_requests() -> None:
    warm, archive = left_by(("a", prompt(200)))
    runner = HashRunner()
    with EngineRig(runner=runner, warm=warm, archive=archive) as rig:
        loop, started, done = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

        def before(operation: str) -> None:
            if operation == "decode" and not started.is_set():
                loop.call_soon_threadsafe(started.set)
                asyncio.run_coroutine_threadsafe(done.wait(), loop).result()

        runner.before = before
        ask = rig.ask(prompt(40, 5), agent="b")
        await started.wait()
        filling = asyncio.create_task(preload_of(rig, warm).run())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not any(name in rig.store.pool for name in rig.agents.get("a").block_table)  # type: ignore[arg-type]
        done.set()
        await asyncio.to_thread(ask.answer)
        await filling
        assert all(name in rig.store.pool for name in rig.agents.get("a").block_table)  # type: ignore[arg-type]


async def test_what_cannot_be_read_is_passed_over() -> None:
    first = prompt(200)
    warm, archive = left_by(("a", first))
    with EngineRig(warm=warm, archive=archive) as rig:
        table = rig.agents.get("a").block_table  # type: ignore[arg-type]
        warm.break_block(table[0])
        warm.lose_block(table[1])
        await preload_of(rig, warm).run()
        assert [name in rig.store.pool for name in table[:3]] == [False, False, True]
        answer = await asyncio.to_thread(lambda: rig.ask(first).answer())
    with EngineRig() as cold:
        assert answer.text == cold.ask(first).answer().text


async def test_what_was_deleted_while_it_was_read_does_not_come_back() -> None:
    warm, archive = left_by(("a", prompt(200)))
    with EngineRig(warm=warm, archive=archive) as rig:
        table = rig.agents.get("a").block_table  # type: ignore[arg-type]
        read = warm.read

        def read_and_delete(name: BlockHash) -> Future[BlockRecord | None]:
            found = read(name)
            warm.delete(table).result()
            return found

        warm.read = read_and_delete  # type: ignore[method-assign]
        await preload_of(rig, warm).run()
        assert not any(rig.store.is_hot(name) for name in table)
