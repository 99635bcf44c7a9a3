"""The MCP server by the SDK's own client: in this process, as a program's child, and over HTTP."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from asyncio.base_subprocess import BaseSubprocessTransport
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.control_daemon import FakeControlDaemon

mcp: Any = pytest.importorskip("mcp", reason="the extra `mcp` is not installed")

from semanticd.entrypoints import mcp_server  # noqa: E402 (it needs the SDK)

TURN = {
    "verdict": "the prompt was computed: its beginning changed",
    "prompt_tokens": 900,
    "reused_hot_tokens": 100,
    "computed_tokens": 800,
    "completion_tokens": 5,
    "finish_reason": "stop",
    "miss": {"position": 100, "cause": "tools_changed", "expected": "a", "found": "b"},
}
ANSWERS: dict[str, Any] = {
    "status": {
        "state": "ready",
        "version": "0.2.0",
        "model": "tiny",
        "models": [{"id": "tiny"}],
        "cache": {"hot_bytes": 7},
    },
    "agents.list": {
        "agents": [{"id": "ann", "model": "tiny", "state": "hot", "num_tokens": 900, "num_turns": 2}]
    },
    "agents.why": {"last": TURN, "turns": [{**TURN, "verdict": "an earlier turn"}, TURN]},
    "agents.fork": {"id": "ann-2"},
    "agents.rewind": {"id": "ann", "num_turns": 1},
    "agents.pin": {"id": "ann", "pinned": True},
    "agents.unpin": {"id": "ann", "pinned": False},
}


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    folder = Path(f"/tmp/smt-{os.getpid()}-mcp-{tmp_path.name[-8:]}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / "semanticd.sock"


@pytest.fixture
async def daemon(socket: Path) -> AsyncIterator[FakeControlDaemon]:
    async with FakeControlDaemon(socket, ANSWERS) as made:
        socket.chmod(0o600)
        yield made
    socket.parent.rmdir()


def text_of(result: Any) -> str:
    return "".join(part.text for part in result.content)


async def test_an_agent_sees_the_tools_and_what_they_do(daemon: FakeControlDaemon, socket: Path) -> None:
    async with mcp.Client(mcp_server.make_server(socket)) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"status", "why", "fork", "rewind", "pin"}
    assert all(tool.description for tool in tools.values())
    looks = {name for name, tool in tools.items() if tool.annotations.read_only_hint}
    assert looks == {"status", "why"}
    assert tools["rewind"].annotations.destructive_hint is True
    assert "self" not in tools["why"].input_schema["properties"]


async def test_every_tool_is_its_command(daemon: FakeControlDaemon, socket: Path) -> None:
    async with mcp.Client(mcp_server.make_server(socket)) as client:
        status = (await client.call_tool("status", {})).structured_content
        assert (status["state"], status["models"], status["cache"]["hot_bytes"]) == ("ready", ["tiny"], 7)
        assert [(one["id"], one["tokens"], one["state"]) for one in status["agents"]] == [("ann", 900, "hot")]
        why = text_of(await client.call_tool("why", {"agent": "ann"}))
        assert why.startswith("the prompt was computed")
        assert "left the cache at token 100: tools changed" in why
        assert "an earlier turn" in text_of(await client.call_tool("why", {"agent": "ann", "turns": 2}))
        forked = await client.call_tool("fork", {"agent": "ann", "new_id": "ann-2"})
        assert forked.structured_content["id"] == "ann-2"
        await client.call_tool("rewind", {"agent": "ann", "turns": 3})
        await client.call_tool("pin", {"agent": "ann", "seconds": 60})
        await client.call_tool("pin", {"agent": "ann", "keep": False})
    assert daemon.deeds() == [
        ("agents.why", {"agent": "ann"}),
        ("agents.why", {"agent": "ann"}),
        ("agents.fork", {"agent": "ann", "new_id": "ann-2"}),
        ("agents.rewind", {"agent": "ann", "turns": 3}),
        ("agents.pin", {"agent": "ann", "ttl_s": 60}),
        ("agents.unpin", {"agent": "ann"}),
    ]


async def test_the_own_agent_is_meant_unless_another_is_named(
    daemon: FakeControlDaemon, socket: Path
) -> None:
    async with mcp.Client(mcp_server.make_server(socket, agent="ann")) as client:
        await client.call_tool("rewind", {})
        await client.call_tool("rewind", {"agent": "bob"})
    assert [args["agent"] for _, args in daemon.deeds()] == ["ann", "bob"]
    async with mcp.Client(mcp_server.make_server(socket)) as client:
        refused = await client.call_tool("rewind", {})
    assert refused.is_error
    assert "name an agent" in text_of(refused)


@pytest.mark.parametrize("turns", [0, 51])
async def test_turns_have_bounds(daemon: FakeControlDaemon, socket: Path, turns: int) -> None:
    async with mcp.Client(mcp_server.make_server(socket)) as client:
        refused = await client.call_tool("why", {"agent": "ann", "turns": turns})
    assert refused.is_error
    assert daemon.deeds() == []


async def test_what_the_daemon_refuses_and_that_there_is_none_is_told(
    daemon: FakeControlDaemon, socket: Path
) -> None:
    daemon.failures["agents.why"] = ("agent_not_found", "no agent is called 'eve'")
    async with mcp.Client(mcp_server.make_server(socket)) as client:
        refused = await client.call_tool("why", {"agent": "eve"})
        assert refused.is_error
        assert "no agent is called 'eve'" in text_of(refused)
        await daemon.stop()
        gone = await client.call_tool("status", {})
        assert gone.is_error
        assert "semanticd start" in text_of(gone)


def child(socket: Path) -> dict[str, Any]:
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        "env": {**os.environ, "PYTHONPATH": path, "SEMANTIC_RUNTIME_DIR": str(socket.parent)},
        "cwd": str(socket.parent),
    }


async def test_a_program_starts_it_and_talks_over_its_pipes(daemon: FakeControlDaemon, socket: Path) -> None:
    from mcp.client.stdio import StdioServerParameters

    arguments = ["-m", "semanticd", "mcp", "--agent", "ann"]
    started = StdioServerParameters(command=sys.executable, args=arguments, **child(socket))
    async with mcp.Client(started) as client:
        status = (await client.call_tool("status", {})).structured_content
        await client.call_tool("pin", {})
    # The SDK waits for the program's end, not for that of its pipes: what is left warns in whatever test runs then.
    for transport in gc.get_objects():
        if isinstance(transport, BaseSubprocessTransport):
            transport.close()
    assert status["own_agent"] == "ann"
    assert daemon.deeds() == [("agents.pin", {"agent": "ann"})]


class Served:
    """The HTTP server in a thread."""

    def __init__(self, socket: Path, keys: tuple[str, ...]) -> None:
        import uvicorn

        app = mcp_server.http_app(socket, agent="ann", host="127.0.0.1", keys=keys)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")  # type: ignore[arg-type]
        listening = config.bind_socket()
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]}, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 60
        while not self.server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)


@pytest.fixture
def served(socket: Path) -> Iterator[Served]:
    made = Served(socket, ())
    yield made
    made.close()


@pytest.fixture
def keyed(socket: Path) -> Iterator[Served]:
    made = Served(socket, ("first", "second"))
    yield made
    made.close()


async def test_it_is_reached_over_http(daemon: FakeControlDaemon, served: Served) -> None:
    async with mcp.Client(served.url) as client:
        assert (await client.call_tool("status", {})).structured_content["own_agent"] == "ann"


LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
ACCEPT = {"accept": "application/json, text/event-stream"}


def test_a_page_of_another_host_is_refused(served: Served) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
        answer = httpx.post(served.url, json=LIST, headers={**ACCEPT, **headers}, timeout=60)
        assert answer.status_code in (403, 421), answer.text


def test_where_there_are_keys_one_is_asked_for(keyed: Served) -> None:
    for given in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic first"},
        {"authorization": "Bearer"},
    ):
        answer = httpx.post(keyed.url, json=LIST, headers={**ACCEPT, **given}, timeout=60)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    known = httpx.post(keyed.url, json=LIST, headers={**ACCEPT, "authorization": "Bearer second"}, timeout=60)
    assert known.status_code != 401


def test_a_taken_port_is_said_in_a_line(served: Served, socket: Path) -> None:
    port = served.url.split(":")[2].split("/")[0]
    done = subprocess.run(
        [sys.executable, "-m", "semanticd", "mcp", "--http", "--port", port],
        capture_output=True, text=True, timeout=60, **child(socket),
    )  # fmt: skip
    assert done.returncode == 2
    assert "choose another --port" in done.stderr
    assert "Traceback" not in done.stderr
