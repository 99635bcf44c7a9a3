"""`semanticd worker` as it is run: what it prints while the daemon is away, when it joins, and when it loses it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from semanticd import __version__
from semanticd.adapters.mlx.model.compute_revision import compute_revision
from semanticd.adapters.mlx.model.sharding import device_kind
from semanticd.adapters.ranks.group import GroupOptions, RankGroup
from semanticd.adapters.ranks.handshake import Expected
from semanticd.adapters.ranks.hosts import Hosts
from tests.fakes.daemon_process import free_port
from tests.fakes.telemetry import RecordingLog

pytestmark = pytest.mark.timeout(900)

KEY = "the-key-of-all-ranks"


class WorkerCommand:
    """The command, for rank 1 of a daemon on this machine."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.output = home / "worker.log"
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, address: str) -> subprocess.Popen[bytes]:
        env = {
            **os.environ,
            "SEMANTIC_DISTRIBUTED_KEY": KEY,
            "SEMANTIC_AGENT_CACHE_DIR": str(self.home / "cache"),
            "SEMANTIC_RUNTIME_DIR": str(self.home / "run"),
        }
        command = [sys.executable, "-m", "semanticd", "worker", address, "--rank", "1"]
        with self.output.open("ab") as output:
            self._started.append(subprocess.Popen(command, env=env, stdout=output, stderr=output))
        return self._started[-1]

    def daemon(self) -> RankGroup:
        """Return a daemon's group that accepts this worker."""
        options = GroupOptions(
            hosts=Hosts((("127.0.0.1:1",), ("127.0.0.1:2",))),
            port=self.port,
            key=KEY,
            timeout_s=60.0,
            expected=Expected(__version__, device_kind(), compute_revision(), 2),
        )
        return RankGroup(options, log=RecordingLog())

    def printed(self, text: str, *, times: int = 1) -> str:
        """Wait until it has printed a text so often; returns all it has printed."""
        deadline = time.monotonic() + 300
        while (output := self.output.read_text()).count(text) < times:
            assert time.monotonic() < deadline, output
            time.sleep(0.05)
        return output

    def end(self) -> None:
        for process in self._started:
            process.terminate()
        for process in self._started:
            process.wait(300)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[WorkerCommand]:
    made = WorkerCommand(tmp_path)
    yield made
    made.end()


def test_a_worker_says_why_it_cannot_join_once_and_when_it_has_joined_and_lost_the_daemon(
    command: WorkerCommand,
) -> None:
    worker = command.start(f"127.0.0.1:{command.port}")
    unreachable = (
        f"cannot reach the daemon at 127.0.0.1:{command.port}: connection refused; trying again every 1 s"
    )
    command.printed(unreachable)
    group = command.daemon()
    group.start()
    output = command.printed(f"rank 1: has joined the daemon at 127.0.0.1:{command.port}")
    assert output.count("cannot reach") == 1
    group.close()
    command.printed(f"rank 1: lost its connection to the daemon at 127.0.0.1:{command.port}: ")
    output = command.printed(unreachable, times=2)
    assert "Traceback" not in output
    worker.terminate()
    assert worker.wait(300) == 0
    assert command.printed("rank 1").count("lost its connection") == 1


def test_a_cache_folder_that_cannot_be_used_is_named_once_and_tried_again(command: WorkerCommand) -> None:
    blocking = command.home / "cache" / "rank-1"
    blocking.parent.mkdir()
    blocking.touch()
    group = command.daemon()
    group.start()
    try:
        command.start(f"127.0.0.1:{command.port}")
        unusable = "cannot use the cache folder"
        command.printed(unusable)
        # Two attempts later it still stands there once.
        time.sleep(2.5)
        assert command.output.read_text().count(unusable) == 1
        blocking.unlink()
        output = command.printed("has joined the daemon")
        assert output.count(unusable) == 1
        assert "trying again every 1 s" in output
    finally:
        group.close()


@pytest.mark.parametrize("address", ["http://127.0.0.1:18710", "/tmp/hosts.json", "0.0.0.0"])
def test_an_address_that_is_none_is_refused_at_once(address: str, command: WorkerCommand) -> None:
    assert command.start(address).wait(300) == 2
    assert "give HOST or HOST:PORT" in command.output.read_text()
