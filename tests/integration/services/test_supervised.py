"""A supervisor hears of a daemon whatever its engine thread does: it kills a process that is silent."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from semanticd.entrypoints.upkeep import Upkeep
from tests.fakes.engine_rig import PATIENCE_S
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon


async def test_pings_go_on_while_the_engine_thread_is_busy_and_a_model_waits_to_be_loaded(
    tmp_path: Path, short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(short_tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    gate, loop = threading.Event(), asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(short_tmp_path / "notify"))
        supervisor.setblocking(False)
        first, second = (write_tiny_model(tmp_path / name, seed=number) for number, name in enumerate("ab"))
        async with WholeDaemon(tmp_path, model=first) as daemon:
            held = daemon.parts.engine.call(lambda: gate.wait(PATIENCE_S))
            loading = asyncio.create_task(daemon.parts.models.load(str(second)))
            try:
                with Upkeep(daemon.parts, daemon.settings, log=daemon.log).alive():
                    for _ in range(5):
                        heard = await asyncio.wait_for(loop.sock_recv(supervisor, 100), PATIENCE_S)
                        assert heard == b"WATCHDOG=1"
                assert not held.done()
                assert not loading.done()
            finally:
                gate.set()
            await asyncio.wait_for(loading, PATIENCE_S)
