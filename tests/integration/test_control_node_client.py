"""The control client in another language, written from the protocol page alone, drives a served socket."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from semanticd.adapters.control.connection import Identity
from semanticd.adapters.control.server import ControlServer
from tests.fakes.control_services import NullLog, fake_services

REPOSITORY = Path(__file__).resolve().parents[2]
CLIENT = REPOSITORY / "contrib" / "examples" / "control-client.mjs"
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")


async def node(socket: Path, *arguments: str) -> asyncio.subprocess.Process:
    assert NODE is not None
    return await asyncio.create_subprocess_exec(
        NODE,
        str(CLIENT),
        str(socket),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def output(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_it_shows_status_swaps_and_prints_tokens(short_tmp_path: Path) -> None:
    services = fake_services()
    server = ControlServer(
        path=short_tmp_path / "semanticd.sock",
        services=services,
        identity=Identity("0.1.0", os.getpid()),
        log=NullLog(),
    )
    await server.start()
    try:
        code, out, err = await output(await node(server.path, "status"))
        assert (code, json.loads(out)["state"]) == (0, "ready"), err
        code, out, err = await output(await node(server.path, "swap", "large"))
        assert (code, json.loads(out)["previous"]) == (0, "small"), err
        code, _, err = await output(await node(server.path, "swap", "huge"))
        assert code != 0
        assert "huge" in err

        watching = await node(server.path, "tokens")
        assert watching.stdout is not None
        while not services.events.wanted("tokens"):
            assert watching.returncode is None
            await asyncio.sleep(0.01)
        for text in ("Grüße, ", "Welt", "!"):
            services.events.publish("tokens", {"agent": "planner", "text": text, "num_tokens": 1})
        expected = "Grüße, Welt!".encode()
        assert await asyncio.wait_for(watching.stdout.readexactly(len(expected)), 60) == expected
        watching.terminate()
        # Also until its pipes have ended: what is left of them warns in whatever test runs then.
        await output(watching)
    finally:
        await server.close()


async def test_it_says_that_nobody_listens(short_tmp_path: Path) -> None:
    code, _, err = await output(await node(short_tmp_path / "none.sock", "status"))
    assert code == 3
    assert "none.sock" in err


def test_it_is_as_short_as_the_page_promises() -> None:
    assert len(CLIENT.read_text().splitlines()) <= 30
