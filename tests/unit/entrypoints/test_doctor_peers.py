"""What the doctor says of each peer, whatever the machine there answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from semanticd import __version__
from semanticd.adapters.config import Settings
from semanticd.adapters.peers.probe import PeerTree, Probe, probe
from semanticd.entrypoints.doctor_peers import check_peers, peer_finding

OWN = PeerTree("m", "f1", "v1-exact-b256")
READY = Probe("http://mac-2:8000", "ready", version=__version__, trees=(OWN,))


async def served(answer: bytes, ask: Callable[[str], Awaitable[Any]]) -> tuple[Any, bytes]:
    """Let a machine answer these bytes and hang up; returns what came of it, and what was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        made = await ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
    return made, b"".join(asked)


def http(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


def identity(**more: Any) -> bytes:
    tree = {"model": "m", "fingerprint": "f1", "layout": "v1-exact-b256", "new": 1}
    return json.dumps({"version": __version__, "trees": [tree], **more}).encode()


@pytest.mark.parametrize(
    ("answer", "outcome", "state"),
    [
        (http(200, identity()), "ready", "ok"),
        (http(401, b'{"error": {"message": "the API key is not one of this server\'s keys"}}'), "key_refused", "error"),
        (http(403, b'{"error": {"message": "no API key is configured"}}'), "not_allowed", "error"),
        (http(503, b""), "busy", "warning"),
        (http(404, b"<html>nginx</html>"), "no_peer", "warning"),
        (http(200, b"<html>a router's page</html>"), "no_peer", "warning"),
        (http(200, b"[" * 100_000), "no_peer", "warning"),
        (http(200, identity(trees=7)), "no_peer", "warning"),
        (http(200, b"x" * 300_000), "no_peer", "warning"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no_peer", "warning"),
        (b"", "no_peer", "warning"),
    ],
)  # fmt: skip
async def test_whatever_a_machine_answers_is_a_finding(answer: bytes, outcome: str, state: str) -> None:
    asked, request = await served(answer, lambda url: probe(url, key="k", timeout_s=60))
    assert asked.outcome == outcome, asked
    assert b"GET /v1/blocks HTTP/1.1" in request
    assert b"Authorization: Bearer k" in request
    finding = peer_finding(asked, [OWN])
    assert finding.state == state
    assert finding.message.startswith(asked.url)
    assert bool(finding.advice) == (state != "ok")
    assert len(finding.message) < 400


async def test_a_machine_that_is_not_there_or_says_nothing_is_a_finding() -> None:
    silent = await asyncio.start_server(lambda _reader, _writer: asyncio.Event().wait(), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    asked = await probe(f"http://127.0.0.1:{port}", key=None, timeout_s=0.05)
    silent.close()
    assert (asked.outcome, asked.message) == ("unreachable", "no answer within 0.05 s")
    agent = replace(Settings().agent, peers=("http://127.0.0.1:1", "http://127.0.0.1:1"))
    found = await check_peers(replace(Settings(), agent=agent), ())
    assert [(one.check, one.state) for one in found] == [("peer", "warning")] * 2
    assert "cannot be asked" in found[0].message
    assert "SEMANTIC_SERVER_HOST=0.0.0.0" in found[0].advice
    assert await check_peers(Settings(), ()) == []


@pytest.mark.parametrize(
    ("theirs", "state", "message", "advice"),
    [
        (PeerTree("m", "f1", "v1-exact-b256"), "ok", "it computes m identically", ""),
        (PeerTree("other name", "f1", "v1-exact-b256"), "ok", "it computes m identically", ""),
        (PeerTree("m", "f1", "v1-q8-b256"), "warning", "v1-q8-b256 there, v1-exact-b256 here", "SEMANTIC_MLX_KV_BITS"),
        (PeerTree("m", "f2", "v1-exact-b256"), "warning", "its files of m differ", "models pull m"),
        (PeerTree("other", "f3", "v1-exact-b256"), "ok", "it has not loaded m", ""),
    ],
)  # fmt: skip
def test_a_peer_that_computes_otherwise_is_said_with_what_differs(
    theirs: PeerTree, state: str, message: str, advice: str
) -> None:
    finding = peer_finding(replace(READY, trees=(theirs,)), [OWN])
    assert finding.state == state
    assert message in finding.message
    assert advice in finding.advice


def test_another_version_is_said_and_without_a_daemon_nothing_is_compared() -> None:
    other = peer_finding(replace(READY, version="9.9"), [OWN])
    assert f"(version 9.9, here {__version__})" in other.message
    alone = peer_finding(READY, [])
    assert alone.state == "ok"
    assert "it serves m; a running daemon compares" in alone.message
