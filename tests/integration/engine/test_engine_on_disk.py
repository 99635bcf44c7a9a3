"""The engine on a real cache folder: real files, real I/O threads, restarts and damage between and beneath."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.domain.ids import AgentId
from semanticd.domain.scheduler import SchedulerLimits
from tests.fakes.disk import FaultyFileSystem
from tests.fakes.engine_rig import EngineRig
from tests.fakes.model_runner import BYTES_PER_TOKEN, CAPACITY_STEP, HashRunner, continuation
from tests.fakes.telemetry import ManualClock
from tests.fakes.tokenizer import CharTokenizer
from tests.fakes.warm_store import MemoryWarmStore

TOKENS = CharTokenizer()


def prompt(length: int, seed: int = 0) -> list[int]:
    return [random.Random(seed).randrange(95) for _ in range(length)] if length else []


@contextmanager
def engine(
    folder: Path, *, has_state: bool = False, fs: FileSystem | None = None, **options: Any
) -> Iterator[EngineRig]:
    """Run an engine on this folder, as a daemon would between its start and its end."""
    warm = DiskWarmStore.open(folder, fs=fs)
    archive = DiskAgentArchive.open(warm.folder, write_queue=warm.write_queue)
    try:
        with EngineRig(runner=HashRunner(has_state=has_state), warm=warm, archive=archive, **options) as rig:
            yield rig
    finally:
        warm.close()


@pytest.mark.parametrize("has_state", [False, True])
def test_conversations_go_on_over_restarts(tmp_path: Path, has_state: bool) -> None:
    system = prompt(100, seed=1)
    talks = {name: system + prompt(80, seed=n) for n, name in enumerate("abc")}
    for start in range(3):
        with engine(tmp_path / "caches", has_state=has_state) as rig:
            for _ in range(2):
                for name, ids in talks.items():
                    answer = rig.ask(ids, agent=name, max_tokens=20, snapshot_points=(100,)).answer()
                    assert answer.text == TOKENS.decode(continuation(ids, 20, has_state=has_state))
                    if start:
                        assert answer.cache.computed_tokens <= 12
                    ids += TOKENS.encode(answer.text) + prompt(12, seed=len(ids))


def test_many_agents_at_once_with_little_room_are_answered_correctly(tmp_path: Path) -> None:
    budget = BYTES_PER_TOKEN * (3 * 2 * CAPACITY_STEP + 700)
    rng = random.Random(4)
    system = prompt(150, seed=99)
    talks = {f"agent-{n}": system + prompt(rng.randrange(20, 200), seed=n) for n in range(10)}
    limits = SchedulerLimits(max_batch_size=4, prefill_chunk=48)
    with engine(tmp_path / "caches", budget_bytes=budget, max_agents=4, limits=limits) as rig:
        for _ in range(4):
            asks = {}
            with rig.held():
                for name, ids in talks.items():
                    ids += prompt(9, seed=len(ids))
                    asks[name] = rig.ask(ids, agent=name, max_tokens=rng.randrange(1, 40))
            cancelled = rng.choice(list(asks))
            rig.engine.cancel(asks[cancelled].request_id)
            for name, ask in asks.items():
                ask.wait()
                if name == cancelled:
                    continue
                answer = ask.answer()
                expected = continuation(talks[name], answer.usage.completion_tokens)
                assert answer.text == TOKENS.decode(expected)
                talks[name] += expected
        rig.idle()
        assert rig.store.counters.lost_blocks == 0
        assert rig.on_engine(rig.store.ledger).free_bytes >= 0


def test_damaged_files_are_computed_again(tmp_path: Path) -> None:
    ids = prompt(300)
    with engine(tmp_path / "caches") as rig:
        rig.ask(ids).answer()
    files = sorted((tmp_path / "caches").rglob("*.safetensors"))
    assert len(files) >= 19
    for file, damage in zip(files, (b"", b"x" * 10, None) * 3, strict=False):
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage)
    with engine(tmp_path / "caches") as rig:
        answer = rig.ask(ids, max_tokens=30).answer()
        assert answer.text == TOKENS.decode(continuation(ids, 30))
    with engine(tmp_path / "caches") as rig:
        assert rig.ask(ids).answer().cache.restored_warm_tokens == 299


@pytest.mark.parametrize("damage", [b"", b"x" * 10, None, "flipped"])
def test_a_file_that_is_lost_behind_another_is_written_again_with_it(
    tmp_path: Path, damage: bytes | str | None
) -> None:
    ids = prompt(600)
    with engine(tmp_path / "caches") as rig:
        rig.ask(ids).answer()
        table = rig.agents.get(AgentId("a")).block_table
    files = {file.stem: file for file in (tmp_path / "caches").rglob("*.safetensors")}
    # Far behind the first one, so that it is not read with it.
    for number in (1, 30):
        file = files[table[number].hex()]
        if damage is None:
            file.unlink()
        elif damage == "flipped":
            data = file.read_bytes()
            file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        else:
            file.write_bytes(damage)  # type: ignore[arg-type]
    with engine(tmp_path / "caches") as rig:
        # The block before the first lost one is used, or was on its way when the loss was found.
        assert rig.ask(ids).answer().cache.restored_warm_tokens in (0, 16)
    with engine(tmp_path / "caches") as rig:
        assert rig.ask(ids).answer().cache.restored_warm_tokens == 599


@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize(("damage", "cause"), [(None, "files_missing"), (b"x" * 10, "files_damaged")])
@pytest.mark.parametrize("is_unclean", [False, True])
def test_a_file_that_was_lost_is_why_its_prompt_is_computed(
    tmp_path: Path, has_state: bool, damage: bytes | None, cause: str, is_unclean: bool
) -> None:
    ids = prompt(300)
    with engine(tmp_path / "caches", has_state=has_state) as rig:
        rig.ask(ids).answer()
    for file in (tmp_path / "caches").rglob("*.safetensors"):
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage)
    if is_unclean:
        (tmp_path / "caches" / "unclean").touch()
    with engine(tmp_path / "caches", has_state=has_state) as rig:
        miss = rig.ask(ids + prompt(10, seed=1)).answer().cache.miss
        assert miss is not None
        assert (miss.position, miss.cause) == (0, cause)


@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize(
    "how", ["noticed by an earlier daemon", "pruned by an earlier one", "pruned by this one"]
)
def test_only_what_this_daemon_let_go_is_said_to_be_evicted(
    tmp_path: Path, has_state: bool, how: str
) -> None:
    ids = prompt(300)
    with engine(tmp_path / "caches", has_state=has_state) as rig:
        rig.ask(ids).answer()
    warm = DiskWarmStore.open(tmp_path / "caches")
    if how == "pruned by an earlier one":
        assert warm.prune(target_bytes=0)
    elif how == "noticed by an earlier daemon":
        for file in (tmp_path / "caches").rglob("*.safetensors"):
            file.unlink()
        warm.verify(fix=True)
    warm.close()
    with engine(tmp_path / "caches", has_state=has_state, clock=ManualClock(wall=1_700_003_600.0)) as rig:
        if how == "pruned by this one":
            assert rig.warm.prune(target_bytes=0)
        answer = rig.ask(ids + prompt(10, seed=1)).answer()
        assert answer.text == TOKENS.decode(continuation(ids + prompt(10, seed=1), 8, has_state=has_state))
        miss = answer.cache.miss
        assert miss is not None
        assert miss.cause == ("evicted" if how == "pruned by this one" else "gone_before_start")


def test_a_damaged_file_is_the_cause_also_where_an_earlier_one_was_still_being_read(tmp_path: Path) -> None:
    ids = prompt(300)
    held = threading.Event()

    class SlowFirst(FileSystem):
        def read(self, path: Path) -> bytes:
            if path.name.startswith(first.hex()):
                held.wait(60)
            return super().read(path)

    with engine(tmp_path / "caches") as rig:
        rig.ask(ids).answer()
        table = rig.agents.get("a").block_table  # type: ignore[arg-type]
    first = table[0]
    (damaged,) = (tmp_path / "caches").rglob(f"{table[3].hex()}*.safetensors")
    damaged.write_bytes(b"x" * 10)
    with engine(tmp_path / "caches", fs=SlowFirst()) as rig:
        try:
            miss = rig.ask(ids + prompt(30, seed=1)).answer().cache.miss
        finally:
            held.set()
        assert miss is not None
        assert (miss.position, miss.cause) == (0, "files_damaged")


@pytest.mark.parametrize("has_disk", [True, False])
@pytest.mark.parametrize(("budget_tokens", "cached"), [(1100, 256), (1250, 384)])
def test_beside_a_full_disk_what_stays_of_a_prompt_can_be_used(
    budget_tokens: int, cached: int, has_disk: bool
) -> None:
    """Room for all of a prompt's blocks, and what it runs on, there is not: the first blocks stay, not the last."""
    warm = MemoryWarmStore()
    warm.refuse = "the disk is full"
    runner, ids = HashRunner(block_tokens=128), prompt(548)
    budget_bytes = budget_tokens * BYTES_PER_TOKEN
    with EngineRig(runner=runner, warm=warm, no_warm=not has_disk, budget_bytes=budget_bytes) as rig:
        rig.ask(ids, max_tokens=4).answer()
        rig.idle()
        assert rig.ask(ids, max_tokens=4).answer().cache.cached_tokens == cached
        rig.ask(prompt(200, seed=1), agent="other", max_tokens=4).answer()
        for _ in range(2):
            assert rig.ask(ids, max_tokens=4).answer().cache.cached_tokens >= 128


def test_a_full_disk_costs_reuse_after_a_restart_and_nothing_else(tmp_path: Path) -> None:
    fs = FaultyFileSystem()
    ids = prompt(300)
    with engine(tmp_path / "caches", fs=fs) as rig:
        fs.fail["writev"] = errno.ENOSPC
        for seed in range(3):
            answer = rig.ask(ids, max_tokens=10, agent=str(seed)).answer()
            assert answer.text == TOKENS.decode(continuation(ids, 10))
        assert answer.cache.reused_hot_tokens == 299
        rig.idle()
        fs.fail.clear()
        # There is room again: what is used next time is written after all.
        rig.ask(ids, max_tokens=10).answer()
        rig.idle()
    with engine(tmp_path / "caches") as rig:
        assert rig.ask(ids).answer().cache.restored_warm_tokens == 299
