"""What lies on disk is used at once where the index of it was lost, while the folder is still looked through."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.blocks import recovery
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.application.engine.file_lookup import FILES_DEADLINE_S
from semanticd.application.services.preload import Preload
from semanticd.domain.ids import BlockHash, ModelFingerprint
from tests.fakes.engine_rig import EngineRig, wait_until
from tests.fakes.model_runner import HashRunner, continuation
from tests.fakes.tokenizer import CharTokenizer
from tests.fakes.warm_store import MemoryWarmStore

TOKENS = CharTokenizer()
SYSTEM_TOKENS = 100


def prompt(length: int, seed: int = 0) -> list[int]:
    return [random.Random(seed).randrange(95) for _ in range(length)]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold the look through the folder up until this is set."""
    event, survey = threading.Event(), recovery.survey

    def held(storage: Any, *, stop: threading.Event, **more: Any) -> Any:
        while not (event.is_set() or stop.is_set()):
            event.wait(0.005)
        return survey(storage, stop=stop, **more)

    monkeypatch.setattr(recovery, "survey", held)
    yield event
    event.set()


@contextmanager
def engine(folder: Path, *, has_state: bool) -> Iterator[tuple[EngineRig, DiskWarmStore]]:
    warm = DiskWarmStore.open(folder)
    archive = DiskAgentArchive.open(warm.folder, write_queue=warm.write_queue)
    try:
        with EngineRig(runner=HashRunner(has_state=has_state), warm=warm, archive=archive) as rig:
            yield rig, warm
    finally:
        warm.close()


def talk(rig: EngineRig, ids: list[int], *, has_state: bool, turns: int = 3) -> list[int]:
    """Take some turns; returns the prompt of the next one."""
    for _ in range(turns):
        ask = rig.ask(ids, agent="a", max_tokens=20, snapshot_points=(SYSTEM_TOKENS, len(ids) - 5))
        answer = ask.answer()
        assert answer.text == TOKENS.decode(continuation(ids, 20, has_state=has_state))
        ids = ids + TOKENS.encode(answer.text) + prompt(12, seed=len(ids))
    return ids


def computed(rig: EngineRig, ids: list[int], *, agent: str, has_state: bool) -> int:
    """Ask, check the answer, and return how many of the prompt's tokens were computed."""
    answer = rig.ask(ids, agent=agent, max_tokens=5, snapshot_points=(SYSTEM_TOKENS, len(ids) - 5)).answer()
    assert answer.text == TOKENS.decode(continuation(ids, 5, has_state=has_state))
    return answer.cache.computed_tokens


@pytest.mark.parametrize("has_state", [False, True])
def test_a_history_is_warm_before_its_files_are_all_looked_through(
    tmp_path: Path, gate: threading.Event, has_state: bool
) -> None:
    gate.set()
    with engine(tmp_path / "caches", has_state=has_state) as (rig, warm):
        ids = talk(rig, prompt(180, seed=1), has_state=has_state)
        stored = warm.flush(60) and warm.stats().bytes_stored
    gate.clear()
    for path in (tmp_path / "caches").glob("index.sqlite*"):
        path.unlink()
    with engine(tmp_path / "caches", has_state=has_state) as (rig, warm):
        size = rig.runner.spec.block_tokens
        shared = [*ids[:SYSTEM_TOKENS], *prompt(80, seed=9)]
        # Another agent's prompt with the same beginning: nothing but the names of its own blocks.
        assert computed(rig, shared, agent="b", has_state=has_state) <= 80 + (0 if has_state else size)
        assert computed(rig, ids, agent="a", has_state=has_state) <= 12 + 1
        assert not warm.knows_all_files
        gate.set()
        assert warm.recovery is not None
        assert warm.recovery.wait(60)
        assert warm.knows_all_files
        assert warm.flush(60)
        report = warm.verify(fix=False)
        assert (report.num_missing, report.num_orphaned) == (0, 0)
        assert warm.stats().bytes_stored >= stored
    with engine(tmp_path / "caches", has_state=has_state) as (rig, warm):
        assert computed(rig, ids, agent="a", has_state=has_state) <= 12


async def test_what_is_brought_to_ram_after_a_start_is_found_without_the_index_too(
    tmp_path: Path, gate: threading.Event
) -> None:
    gate.set()
    with engine(tmp_path / "caches", has_state=False) as (rig, _):
        ids = talk(rig, prompt(180, seed=1), has_state=False)
    gate.clear()
    for path in (tmp_path / "caches").glob("index.sqlite*"):
        path.unlink()
    with engine(tmp_path / "caches", has_state=False) as (rig, warm):
        preload = Preload(
            engine=rig.engine, store=rig.store, agents=rig.agents, warm=warm, share=1.0, log=rig.log
        )
        await preload.run()
        answer = await asyncio.to_thread(rig.ask(ids, agent="a", max_tokens=5).answer)
    assert answer.cache.restored_warm_tokens == 0
    assert answer.cache.computed_tokens <= 12 + 1


def damage(index: Path) -> None:
    """Write noise over all of an index but its first page, so that its daemon meets it."""
    with closing(sqlite3.connect(index, isolation_level=None)) as other:
        other.execute("UPDATE blocks SET last_used_at = last_used_at + 1")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    size = index.stat().st_size
    with index.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


@pytest.mark.parametrize("knew_all", [False, True])
@pytest.mark.parametrize("has_state", [False, True])
def test_an_index_that_is_damaged_while_the_daemon_runs_costs_no_history(
    tmp_path: Path, gate: threading.Event, has_state: bool, knew_all: bool
) -> None:
    if knew_all:
        gate.set()
    with engine(tmp_path / "caches", has_state=has_state) as (rig, warm):
        if knew_all:
            wait_until(lambda: warm.knows_all_files, "the look through an empty folder")
        ids = talk(rig, prompt(180, seed=1), has_state=has_state, turns=6)
        gate.clear()
        wait_until(lambda: rig.store.ledger().dirty_bytes == 0, "the writing")
        assert warm.flush(60)
        rig.engine.call(lambda: rig.tables.evict_agent("a")).result(60)  # type: ignore[arg-type]
        damage(warm.folder.index)
        assert computed(rig, ids, agent="a", has_state=has_state) <= 12 + 1
        assert not warm.knows_all_files


class Silent(MemoryWarmStore):
    """A disk that never says what lies on it."""

    knows_all_files = False

    def find_files(self, names: Any, fingerprint: ModelFingerprint) -> Future[int]:
        """Take the names, and answer nothing."""
        self.asked = list[BlockHash](names)
        return Future()


def test_a_prompt_waits_so_long_and_no_longer_and_one_in_ram_not_at_all() -> None:
    warm = Silent()
    with EngineRig(warm=warm) as rig:
        ids = prompt(100)
        ask = rig.ask(ids, agent="a", max_tokens=3)
        # Between two of the engine's steps, so that the time which it waits has begun.
        wait_until(lambda: rig.on_engine(lambda: hasattr(warm, "asked")), "the question")
        assert not ask.updates
        rig.clock.advance(FILES_DEADLINE_S + 1)
        assert ask.answer().cache.computed_tokens == len(ids)
        assert rig.ask(ids, agent="a", max_tokens=3).answer().cache.computed_tokens <= 1
        cancelled = rig.ask(prompt(100, seed=7), agent="c", max_tokens=3)
        rig.engine.cancel(cancelled.request_id)
        cancelled.wait()
