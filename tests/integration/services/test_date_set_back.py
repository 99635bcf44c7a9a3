"""A machine's date is set back while the daemon runs: agents stay in their order, and live as long as they should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from semanticd.adapters.telemetry import SystemClock
from semanticd.domain.agent import AgentConfig
from semanticd.domain.ids import AgentId
from tests.fakes.blocks import make_chain
from tests.fakes.service_rig import ServiceRig
from tests.fakes.telemetry import SettableDate
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon

HOUR_S = 3600.0


def rig_on(machine: SettableDate) -> ServiceRig:
    clock = SystemClock(monotonic=machine.monotonic, wall=machine.wall)
    return ServiceRig(clock=clock)


async def test_the_agent_that_was_used_last_stays_the_one_that_was_used_last() -> None:
    machine = SettableDate()
    async with rig_on(machine) as rig:
        for agent in ("first", "second"):
            await rig.say("hello", agent=agent)
            machine.advance(10.0)
        machine.date -= HOUR_S
        await rig.say("again", agent="first")
        assert [row.id for row in await rig.agents.list()] == ["first", "second"]


async def test_the_anonymous_conversations_that_are_given_up_are_the_oldest() -> None:
    machine = SettableDate()
    async with rig_on(machine) as rig:
        for number in range(3):
            await rig.say(f"old {number}")
            machine.advance(10.0)
        machine.date -= HOUR_S
        newest = await rig.open("new one")
        await newest.result()
        assert await rig.agents.prune_anonymous(max_agents=2, max_age_s=1e6) == 2
        left = [row.id for row in await rig.agents.list()]
        assert newest.agent_id in left
        assert len(left) == 2


async def test_a_time_to_live_and_a_pin_end_when_they_should() -> None:
    machine = SettableDate()
    async with rig_on(machine) as rig:
        await rig.agents.create("short", AgentConfig(ttl_s=60.0))
        await rig.say("hello", agent="pinned")
        await rig.agents.pin("pinned", ttl_s=30.0)
        machine.date -= HOUR_S
        machine.advance(29.0)
        await rig.agents.expire()
        assert rig.engine_rig.tables.is_pinned(AgentId("pinned"))
        machine.advance(32.0)
        assert await rig.agents.expire() == 1
        assert not rig.engine_rig.tables.is_pinned(AgentId("pinned"))
        assert [row.id for row in await rig.agents.list()] == ["pinned"]


async def test_answers_go_on_and_their_times_are_true() -> None:
    machine = SettableDate()
    async with rig_on(machine) as rig:
        stream = await rig.begin("hello", agent="a")
        machine.date -= 10 * HOUR_S
        machine.advance(2.0)
        await stream.aclose()
        usage = (await rig.say("hello", agent="a")).usage
        assert 0.0 <= usage.timings.total_ms < 1000.0


def test_blocks_on_disk_that_were_used_last_are_pruned_last(tmp_path: Path) -> None:
    machine = SettableDate()
    clock = SystemClock(monotonic=machine.monotonic, wall=machine.wall)
    warm = DiskWarmStore.open(tmp_path, options=WarmOptions(reserve_bytes=None), now=clock.wall)
    try:
        old, new = make_chain(2, start=1), make_chain(2, start=50)
        warm.write(old).result(60.0)
        machine.advance(10.0)
        machine.date -= HOUR_S
        warm.write(new).result(60.0)
        warm.prune(target_bytes=warm.prune(target_bytes=0, dry_run=True) // 2)
        assert all(warm.get(record.block.block_hash) is not None for record in new)
        assert any(warm.get(record.block.block_hash) is None for record in old)
    finally:
        warm.close()


async def test_a_start_with_a_date_in_the_past_goes_on_from_the_newest_use(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    async with WholeDaemon(tmp_path, model=model) as daemon:
        assert (await daemon.chat("hello", agent="old")).status == 200
        await daemon.written()
        agent = daemon.parts.archive.load(AgentId("old"))
        assert agent is not None
        daemon.parts.archive.save(replace(agent, last_used_at=agent.last_used_at + 24 * HOUR_S))
    async with WholeDaemon(tmp_path, model=model) as daemon:
        assert "clock_is_behind_newest_use" in daemon.log.events("warning")
        assert (await daemon.chat("hello", agent="new")).status == 200
        assert [row.id for row in await daemon.parts.agents.list()] == ["new", "old"]
