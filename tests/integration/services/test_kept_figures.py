"""Savings and the last hour outlive the daemon: also one that is killed, and without a change of the clock's lies."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.adapters.disk.files.folder import CacheFolder
from semanticd.domain.chat import Message
from semanticd.entrypoints import kept_figures
from semanticd.entrypoints.kept_figures import KeptFigures
from tests.fakes.engine_rig import PATIENCE_S
from tests.fakes.service_rig import ServiceRig
from tests.fakes.telemetry import ManualClock, RecordingLog
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon

SYSTEM = Message.of("system", "A system text that takes up a few blocks of sixteen tokens each. " * 2)


class Folder:
    """A cache folder of which figures are kept, run after run."""

    def __init__(self, root: Path) -> None:
        self.folder = CacheFolder.open(root, fs=FileSystem())
        self.log = RecordingLog()
        self.known: Callable[[str], bool] = lambda agent: True

    def begin(self, rig: ServiceRig) -> KeptFigures:
        """Return the figures of a daemon that has just started."""
        figures = KeptFigures(
            self.folder, savings=rig.savings, history=rig.history, fs=FileSystem(), log=self.log
        )
        figures.restore(is_known=self.known)
        return figures

    def as_left_by_a_kill(self) -> Folder:
        """Return a folder with the files as they are now, for a daemon that finds them."""
        number = len(list(self.folder.root.parent.iterdir()))
        left = Folder(self.folder.root.with_name(f"left-{number}"))
        for path in (self.folder.savings, self.folder.history):
            if path.exists():
                shutil.copy(path, left.folder.root)
        return left


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "cache")


async def two_turns(rig: ServiceRig) -> None:
    for agent in ("a", "b"):
        await rig.say([SYSTEM, Message.of("user", "hello")], agent=agent)


def seconds(rig: ServiceRig, num: int) -> None:
    """Let the daemon live for so many seconds."""
    for _ in range(num):
        rig.clock.advance(1)
        rig.history.sample()


async def test_savings_and_history_go_on_after_a_restart(folder: Folder) -> None:
    clock = ManualClock()
    async with ServiceRig(clock=clock) as rig:
        figures = folder.begin(rig)
        await two_turns(rig)
        seconds(rig, 25)
        before, history = rig.savings.facts(), rig.history.facts()
        assert before.today.reused_tokens > 0
        figures.save()
    clock.advance(9)
    async with ServiceRig(clock=clock) as rig:
        folder.begin(rig)
        assert rig.savings.facts() == before
        assert rig.savings.of_agent("b").reused_tokens == before.total.reused_tokens
        seconds(rig, 1)
        facts = rig.history.facts()
        assert (facts.first, facts.last, facts.ended_at) == (0, 34, clock.wall())
        queue = facts.series["queue"]
        assert queue[:25] == history.series["queue"]
        assert queue[25:] == (None,) * 9 + (0.0,), "nothing was measured while no daemon ran"
        assert facts.series["ttft_ms"][:25] == pytest.approx(history.series["ttft_ms"])
        assert facts.series["recomputed_tokens"][-1] == 0.0, "a total that is restored is no event"
        tens = rig.history.facts(step_s=10)
        assert len(tens.series["queue"]) == 3
        assert tens.series["evictions"][0] is not None
        assert tens.ended_at == pytest.approx(clock.wall() - 5)
    assert folder.log.lines == []


@pytest.mark.parametrize(
    ("down_s", "num_kept"), [(0, 25), (-7200, 25), (500, 25), (574, 25), (590, 9), (9000, 0)]
)
async def test_the_time_without_a_daemon_is_a_gap_whatever_the_clock_says(
    down_s: float, num_kept: int, folder: Folder
) -> None:
    clock = ManualClock()
    async with ServiceRig(clock=clock) as rig:
        figures = folder.begin(rig)
        seconds(rig, 25)
        figures.save()
    clock.advance(down_s)
    async with ServiceRig(clock=clock) as rig:
        folder.begin(rig)
        seconds(rig, 1)
        facts = rig.history.facts()
        known = [value for value in facts.series["running"] if value is not None]
        assert len(known) == num_kept + 1
        assert facts.ended_at == clock.wall()
        assert len(facts.series["running"]) <= 600
        assert len(rig.history.facts(step_s=10).series["running"]) <= 360


async def test_an_hour_of_samples_is_a_small_private_file(folder: Folder) -> None:
    async with ServiceRig() as rig:
        figures = folder.begin(rig)
        await two_turns(rig)
        seconds(rig, 3700)
        figures.save()
        for path in (folder.folder.history, folder.folder.savings):
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.stat().st_size < 20_000
    async with ServiceRig(clock=rig.clock) as rig:
        folder.begin(rig)
        assert len(rig.history.facts().series["queue"]) == 600
        assert len(rig.history.facts(step_s=10).series["queue"]) == 360


async def test_a_daemon_that_is_killed_loses_what_came_since_the_last_save(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_figures, "SAVE_EVERY_S", 0.01)
    clock = ManualClock()
    async with ServiceRig(clock=clock) as rig:
        keeping = asyncio.create_task(folder.begin(rig).run())
        await two_turns(rig)
        seconds(rig, 5)
        saved = rig.savings.facts()

        async def is_kept() -> None:
            while True:
                async with ServiceRig(clock=clock) as other:
                    folder.as_left_by_a_kill().begin(other)
                    num_samples = len(other.history.facts().series["queue"])
                    if other.savings.facts() == saved and num_samples == 5:
                        return

        await asyncio.wait_for(is_kept(), PATIENCE_S)
        keeping.cancel()


async def test_a_deleted_agents_name_leaves_the_disk_without_waiting_for_the_minute(folder: Folder) -> None:
    async with ServiceRig() as rig:
        figures = folder.begin(rig)
        await two_turns(rig)
        figures.save()
        keeping = asyncio.create_task(figures.run())
        await rig.agents.delete("b")

        async def is_gone() -> None:
            while True:
                async with ServiceRig(clock=rig.clock) as other:
                    folder.as_left_by_a_kill().begin(other)
                    if not other.savings.of_agent("b").reused_tokens:
                        assert other.savings.facts() == rig.savings.facts()
                        return

        await asyncio.wait_for(is_gone(), PATIENCE_S)
        keeping.cancel()


async def test_an_agent_that_is_gone_at_the_start_is_forgotten(folder: Folder) -> None:
    async with ServiceRig() as rig:
        figures = folder.begin(rig)
        await two_turns(rig)
        figures.save()
    folder.known = lambda agent: agent == "a"
    async with ServiceRig() as rig:
        folder.begin(rig)
        assert rig.savings.of_agent("b").reused_tokens == 0
        assert rig.savings.facts().total.reused_tokens > 0


@pytest.mark.parametrize("name", ["savings", "history"])
async def test_a_file_that_cannot_be_read_costs_its_own_figures_and_one_line(
    name: str, folder: Folder
) -> None:
    async with ServiceRig() as rig:
        figures = folder.begin(rig)
        await two_turns(rig)
        seconds(rig, 5)
        figures.save()
    path = folder.folder.root / name
    shutil.copy(Path(__file__), path)
    async with ServiceRig(clock=rig.clock) as rig:
        figures = folder.begin(rig)
        assert folder.log.events("warning") == ["figures_left_out"]
        assert (rig.savings.facts().total.reused_tokens > 0) == (name == "history")
        assert (len(rig.history.facts().series["queue"]) == 5) == (name == "savings")
        await two_turns(rig)
        figures.save()
    async with ServiceRig(clock=rig.clock) as rig:
        folder.begin(rig)
    assert folder.log.events("warning") == ["figures_left_out"], "what was saved since is read"


async def test_the_whole_daemon_saves_at_its_end_and_reads_at_its_start(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    async with WholeDaemon(tmp_path, model=model) as daemon:
        for agent in ("a", "b"):
            assert (await daemon.chat("hello " * 60, agent=agent)).status == 200
        daemon.parts.history.sample()
        before = (await daemon.parts.status.snapshot()).savings
    assert before.today.reused_tokens > 0
    async with WholeDaemon(tmp_path, model=model) as daemon:
        assert (await daemon.parts.status.snapshot()).savings == before
        assert daemon.parts.history.facts().last == 0
