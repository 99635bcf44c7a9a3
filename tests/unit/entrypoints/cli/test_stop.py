"""Stopping a daemon that ends by itself meanwhile."""

from __future__ import annotations

import asyncio
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from semanticd.adapters.control.connection import Identity
from semanticd.adapters.control.server import ControlServer
from semanticd.adapters.process import PID_FILE, PidFile
from semanticd.entrypoints.cli.daemon_link import socket_path
from semanticd.entrypoints.cli.ending import stop_daemon, what_is_awaited
from tests.fakes.control_services import FakeLifecycle, NullLog, fake_services

NO_PROCESS = 2**30
"""More than a system counts to."""


@pytest.mark.parametrize("now", [False, True])
def test_a_daemon_that_ends_while_it_is_asked_to_is_stopped(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], now: bool
) -> None:
    monkeypatch.setenv("SEMANTIC_RUNTIME_DIR", str(short_tmp_path))
    pid_file = PidFile.acquire(socket_path().with_name(PID_FILE))
    pid_file.path.write_text(f"{NO_PROCESS}\n")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path()))
        listener.listen()

        def end() -> None:
            # Asked which process it is, then whether that is a daemon, then to end.
            for _ in range(3):
                connection, _ = listener.accept()
                connection.close()
            pid_file.release()

        ending = threading.Thread(target=end)
        ending.start()
        assert stop_daemon(timeout_s=None, now=now) is True
        ending.join(60)
    assert f"stopped (pid {NO_PROCESS})" in capsys.readouterr().err
    assert stop_daemon(timeout_s=None, now=now) is False


def test_what_a_daemon_that_ends_still_does_is_counted_in_words() -> None:
    assert what_is_awaited(1, answered=True) == "1 request left"
    assert what_is_awaited(2, answered=True) == "2 requests left"
    assert what_is_awaited(0, answered=True) == what_is_awaited(None, answered=True) == "writing the cache"
    assert what_is_awaited(None, answered=False) == "still running"


@pytest.mark.parametrize("num_agents", [0, 2])
async def test_a_daemon_whose_disk_refused_something_says_so_when_it_is_stopped(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], num_agents: int
) -> None:
    monkeypatch.setenv("SEMANTIC_RUNTIME_DIR", str(short_tmp_path))
    pid_file = PidFile.acquire(socket_path().with_name(PID_FILE))
    pid_file.path.write_text(f"{NO_PROCESS}\n")
    lifecycle = FakeLifecycle(pid_file.release)
    lifecycle.num_unsaved_agents = num_agents
    server = ControlServer(
        path=socket_path(),
        services=replace(fake_services(), lifecycle=lifecycle),
        identity=Identity("0.1.0", NO_PROCESS),
        log=NullLog(),
    )
    await server.start()
    assert await asyncio.to_thread(stop_daemon, timeout_s=None, now=False) is True
    await server.close()
    said = capsys.readouterr().err
    assert ("not stored: 2 agents in memory only: the disk refused them" in said) == bool(num_agents)
