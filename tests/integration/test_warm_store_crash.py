"""kill -9 at any moment: the next start is clean, nothing acknowledged is lost, no byte is wrong.

`SEMANTIC_TEST_KILLS` sets the number of kills at random moments (default 20; the release check uses 200).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.domain.ids import AgentId
from tests.fakes.blocks import iter_chain, make_chain, names, same
from tests.integration.warm_store_writer import BLOCK_BYTES, NUM_AGENTS, agent_after

# Read now: the session hides the environment's settings from the tests.
NUM_KILLS = int(os.environ.get("SEMANTIC_TEST_KILLS", "20"))
REPOSITORY = Path(__file__).resolve().parents[2]
CAP_BYTES = 40 * BLOCK_BYTES


@dataclass
class Writers:
    """The process that forks writers into one folder."""

    folder: Path
    process: subprocess.Popen[str]

    def start(self, *, seed: int, cap_bytes: int = 0, die_at: int = 0) -> int:
        """Start a writer and return its pid once it writes (or has died as requested)."""
        assert self.process.stdin
        self._forget_acks()
        self.process.stdin.write(f"{seed} {cap_bytes} {die_at}\n")
        self.process.stdin.flush()
        return int(self._line())

    def wait_for_ack(self, of: str) -> None:
        """Wait until the store reported something of this kind as durable to the writer (`started`: it writes)."""
        deadline = time.monotonic() + 60
        while not any(ack[0] == of for ack in self.acks()):
            assert time.monotonic() < deadline, f"the writer has not come to {of!r}"
            time.sleep(0.001)

    def wait_until_dead(self) -> None:
        assert self._line() == "dead"

    def acks(self) -> list[list[str]]:
        """Return what the store reported as durable to the writer; the last line may be truncated."""
        path = self.folder / "acks"
        text = path.read_text() if path.exists() else ""
        return [line.split() for line in text.split("\n")[:-1]]

    def _forget_acks(self) -> None:
        (self.folder / "acks").unlink(missing_ok=True)

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[Writers]:
    folder = tmp_path / "caches"
    folder.mkdir(mode=0o700)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.warm_store_writer", str(folder)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Writers(folder, process)


def check(writers: Writers, *, nothing_pruned: bool) -> int:
    """Open the folder as the next start would and look at everything; returns how many blocks there are."""
    store = DiskWarmStore.open(writers.folder)
    archive = DiskAgentArchive.open(store.folder, write_queue=store.write_queue)
    try:
        assert store.recovery is not None, "an unclean end was not noticed"
        assert store.flush(60)
        assert store.recovery.wait(60)
        report = store.verify(fix=False)
        assert (report.num_broken, report.num_missing, report.num_orphaned) == (0, 0, 0)
        assert store.stats().num_quarantined == 0
        files = [path for path in store.folder.blocks.glob("*/**/*") if path.is_file()]
        assert len(files) == store.stats().num_blocks == report.num_checked
        assert store.stats().bytes_stored == sum(path.stat().st_size for path in files)
        acked = writers.acks()
        if nothing_pruned:
            for line in acked:
                if line[0] == "block":
                    assert store.get(bytes.fromhex(line[1])) is not None, "an acknowledged block is lost"  # type: ignore[arg-type]
        check_blocks(store)
        check_agents(store, archive, acked, nothing_pruned=nothing_pruned)
        return len(files)
    finally:
        archive.close()
        store.close()


def check_blocks(store: DiskWarmStore) -> None:
    for start in (*range(NUM_AGENTS), *range(50, 55)):
        for record in iter_chain(start=start, num_bytes=BLOCK_BYTES):
            name = record.block.block_hash
            if store.get(name) is None:
                break
            assert same(store.read(name).result(60), record)


def check_agents(
    store: DiskWarmStore, archive: DiskAgentArchive, acked: list[list[str]], *, nothing_pruned: bool
) -> None:
    for number in range(NUM_AGENTS):
        agent = archive.load(AgentId(f"agent-{number}"))
        num_turns = len(agent.transcript.segments) if agent else 0
        assert num_turns >= max(
            (int(a[2]) for a in acked if a[0] == "agent" and int(a[1]) == number), default=0
        )
        if agent is not None:
            assert agent == agent_after(number, num_turns, agent.block_table), (
                "an agent is not what was saved"
            )
            if nothing_pruned:
                chain = make_chain(2 * num_turns, start=number, num_bytes=BLOCK_BYTES)
                assert agent.block_table == tuple(names(chain))
                assert len(store.get_many(agent.block_table)) == len(chain), (
                    "an agent names blocks that are not there"
                )
    assert sorted(archive.ids()) == sorted(
        agent.agent_id for agent in archive.load_recent(max_agents=99, max_bytes=1 << 30)
    )


def kill_at_random(writers: Writers, *, num_kills: int, cap_bytes: int, seed: int) -> None:
    choose = random.Random(seed)
    num_blocks = 0
    for number in range(num_kills):
        pid = writers.start(seed=seed + number, cap_bytes=cap_bytes)
        # The first lives until there is something to lose: a slow disk may take longer than all kills' waits.
        writers.wait_for_ack("started" if number else "block")
        time.sleep(choose.uniform(0.0, 0.15))
        os.kill(pid, signal.SIGKILL)
        writers.wait_until_dead()
        # One may be killed between making room for a group as large as the cap and writing it.
        num_blocks = max(num_blocks, check(writers, nothing_pruned=not cap_bytes))
    assert num_blocks > 0, "nothing was ever written"


@pytest.mark.timeout(300 + 6 * NUM_KILLS)
def test_killed_at_random_moments_while_growing(writers: Writers) -> None:
    kill_at_random(writers, num_kills=NUM_KILLS - NUM_KILLS // 2, cap_bytes=0, seed=1)


@pytest.mark.timeout(300 + 6 * NUM_KILLS)
def test_killed_at_random_moments_while_pruning(writers: Writers) -> None:
    kill_at_random(writers, num_kills=NUM_KILLS // 2, cap_bytes=CAP_BYTES, seed=2)


def test_dead_at_every_step_of_a_group_write(writers: Writers) -> None:
    for die_at in range(1, 25):
        writers.start(seed=3, die_at=die_at)
        writers.wait_until_dead()
        check(writers, nothing_pruned=True)
