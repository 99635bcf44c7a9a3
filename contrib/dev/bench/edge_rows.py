"""What everything but the model costs: an HTTP request, a stream's events, a control command, opening a large store."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from contrib.dev.bench.servers import ROOT, ServerProcess, free_port
from semanticd.bench.result import Figure, time_figure
from semanticd.bench.statistics import median
from semanticd.control.client import ControlClient

HTTP, CONTROL, STORE = "http_overhead", "control_status", "store_start"
NUM_REQUESTS = 600
NUM_CONNECTIONS = 8
RATE_S = 4.0
NUM_STREAMS = 32
STREAM_TOKENS = 400
NUM_STATUS = 400
STORE_RECORDS = 8_704
"""100 GB of blocks of 12 MB."""

BODY = {"model": "one", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "temperature": 0}
REQUEST = json.dumps(BODY).encode()
STREAM = json.dumps({**BODY, "stream": True, "max_tokens": STREAM_TOKENS, "ignore_eos": True}).encode()


async def http_overhead() -> list[Figure]:
    """Measure requests one after another, then as many as eight connections get through, then streams together."""
    port = free_port()
    command = [sys.executable, "-m", "contrib.dev.bench.instant_server", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        await _wait_for(port)
        times: list[float] = []
        # Requests until the caches of interpreter and allocator are warm do not count.
        await _ask_many(port, times, until=time.perf_counter() + 60, limit=100)
        times.clear()
        await _ask_many(port, times, until=time.perf_counter() + 60, limit=NUM_REQUESTS)
        counted: list[float] = []
        began = time.perf_counter()
        until = began + RATE_S
        await asyncio.gather(*(_ask_many(port, counted, until=until) for _ in range(NUM_CONNECTIONS)))
        rate = len(counted) / (time.perf_counter() - began)
        began = time.perf_counter()
        num_events = sum(await asyncio.gather(*(_stream(port) for _ in range(NUM_STREAMS))))
        event_rate = num_events / (time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(10)
    return [
        Figure(HTTP, "chat", "p50", median(times), "s", note=f"{NUM_REQUESTS} requests, one after another"),
        Figure(
            HTTP, "chat", "rate", rate, "req/s", False, note=f"{NUM_CONNECTIONS} connections, client included"
        ),
        Figure(
            HTTP,
            "streams",
            "rate",
            event_rate,
            "events/s",
            False,
            note=f"{NUM_STREAMS} streams, {num_events} events",
        ),
    ]


async def _wait_for(port: int) -> None:
    for _ in range(600):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return
    raise TimeoutError(f"the instant server did not listen on port {port} within 30 s")


async def _ask_many(port: int, times: list[float], *, until: float, limit: int | None = None) -> None:
    """Ask over one kept connection with as little client as can be: on two cores it takes from the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = _post(REQUEST)
    num_asked = 0
    while time.perf_counter() < until and (limit is None or num_asked < limit):
        began = time.perf_counter()
        writer.write(request)
        header = await reader.readuntil(b"\r\n\r\n")
        if not header.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the instant server answered {header[:60]!r}")
        length = re.search(rb"(?i)content-length: (\d+)", header)
        assert length is not None, header
        await reader.readexactly(int(length.group(1)))
        times.append(time.perf_counter() - began)
        num_asked += 1
    writer.close()


async def _stream(port: int) -> int:
    """Return how many events a streamed answer had."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_post(STREAM, "Connection: close\r\n"))
    answer = await reader.read(-1)
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200") or b"data: [DONE]" not in answer:
        raise RuntimeError(f"the instant server answered {answer[:60]!r}")
    return answer.count(b"data: ")


def _post(body: bytes, more: str = "") -> bytes:
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"{more}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def control_status(server: ServerProcess) -> list[Figure]:
    """Measure the command on one connection to a running daemon."""
    times = []
    with ControlClient.connect(Path(server.launch.env["SEMANTIC_RUNTIME_DIR"]) / "semanticd.sock") as client:
        for _ in range(NUM_STATUS):
            began = time.perf_counter()
            client.call("status")
            times.append(time.perf_counter() - began)
    return [
        Figure(CONTROL, "status", "p50", median(times), "s", note=f"{NUM_STATUS} calls on one connection")
    ]


def store_start() -> list[Figure]:
    """Open a store of 100 GB that is only an index, with cold pages, in a fresh process."""
    command = [sys.executable, "-m", "tests.integration.warm_index_scale", "--records", str(STORE_RECORDS)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = re.search(r"open, cold pages\s+([\d.]+) ms", said)
    assert found is not None, said
    return [time_figure(STORE, "100GB", "open", [float(found.group(1)) / 1000], f"{STORE_RECORDS:,} blocks")]
