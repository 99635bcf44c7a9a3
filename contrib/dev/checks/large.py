"""A long conversation, and many agents: `python contrib/dev/checks/large.py [--tokens N] [--agents N]`.

Starts daemons with a tiny model of random weights in their own folders. First a conversation of N tokens continues for
30 turns, with a stop after the tenth and a `kill -9` after the twentieth: seconds a turn, and the process's memory.
Then N agents of 2,000 tokens each take turns, eight at a time, while the dashboard is open on a terminal of its own:
the longest silence of one stream, and of `/health/live`. Prints JSON. Needs the extra `dev`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import pty
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import httpx
import psutil

from tests.fakes.daemon_process import DaemonProcess, text_of
from tests.fakes.tiny_folder import write_tiny_model

NUM_TURNS, STOP_AFTER, KILL_AFTER = 30, 10, 20
_MIB = 1 << 20


def rss_mib(daemon: DaemonProcess) -> int:
    """Return what the daemon takes."""
    return int(psutil.Process(daemon.pid).memory_info().rss // _MIB)


def ask(daemon: DaemonProcess, messages: list[dict[str, str]]) -> dict[str, Any]:
    """Take a turn, however long it takes."""
    body = {"model": "default", "messages": messages, "max_tokens": 32, "temperature": 0}
    url, headers = f"{daemon.url}/v1/chat/completions", {"X-Session-ID": "long"}
    response = httpx.post(url, json=body, headers=headers, timeout=3600)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def talk(home: Path, num_tokens: int) -> dict[str, Any]:
    """Let one conversation of so many tokens go on for 30 turns, through two restarts."""
    model = write_tiny_model(home / "long", vocab=259, context=num_tokens + 20_000, ends=False)
    (home / "talk").mkdir()
    daemon = DaemonProcess(
        home / "talk",
        models_dir=home / "models",
        SEMANTIC_MLX_MODEL_ID=str(model),
        SEMANTIC_MLX_CACHE_BUDGET_MB="2048",
    )
    # One byte is one token of this model.
    messages = [{"role": "system", "content": "0123456789abcde\n" * (num_tokens // 16)}]
    seconds, memory, computed = [], [], []
    daemon.start()
    try:
        began = time.monotonic()
        for turn in range(NUM_TURNS + 1):
            if turn == STOP_AFTER:
                daemon.stop()
                daemon.start()
            if turn == KILL_AFTER:
                daemon.kill()
                daemon.start()
            messages.append({"role": "user", "content": f"Turn {turn}: what comes next?"})
            began = time.monotonic()
            answer = ask(daemon, messages)
            seconds.append(round(time.monotonic() - began, 3))
            memory.append(rss_mib(daemon))
            computed.append(daemon.last_turn("long")["computed_tokens"])
            messages.append({"role": "assistant", "content": text_of(answer)})
    finally:
        daemon.kill()
    warm = seconds[1:]
    return {
        "tokens": answer["usage"]["prompt_tokens"],
        "first_turn_s": seconds[0],
        "turns_s": warm,
        "last_five_to_first_five": round(statistics.mean(warm[-5:]) / statistics.mean(warm[:5]), 2),
        "computed_tokens": computed[1:],
        "rss_mib": memory,
    }


@contextlib.contextmanager
def dashboard(daemon: DaemonProcess) -> Iterator[None]:
    """Open the dashboard on a terminal of its own, which is read all the time."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    shown = subprocess.Popen(
        [sys.executable, "-m", "semantic_tui"],
        env={**daemon.env, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)

    def read() -> None:
        with contextlib.suppress(OSError):
            while os.read(ours, 1 << 16):
                pass

    threading.Thread(target=read, daemon=True).start()
    try:
        yield
        if shown.poll() is not None:
            raise SystemExit(f"the dashboard ended with {shown.returncode}")
    finally:
        shown.kill()
        shown.wait()


class Gaps:
    """Silences of a stream, and times of a request, in milliseconds."""

    def __init__(self) -> None:
        """Begin with none."""
        self.stream_ms: list[float] = []
        self.health_ms: list[float] = []

    async def listen(self, client: httpx.AsyncClient, over: asyncio.Event) -> None:
        """Stream answers, one after the other, and note how long each piece took."""
        body = {
            "model": "default",
            "stream": True,
            "max_tokens": 2000,
            "messages": [{"role": "user", "content": "Tell me all."}],
        }
        while not over.is_set():
            last_at = 0.0
            async with client.stream(
                "POST", "/v1/chat/completions", json=body, headers={"X-Session-ID": "listener"}
            ) as response:
                async for line in response.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    now = time.monotonic()
                    if last_at:
                        self.stream_ms.append(1000 * (now - last_at))
                    last_at = now
                    if over.is_set():
                        break

    async def ask_health(self, client: httpx.AsyncClient, over: asyncio.Event) -> None:
        """Ask whether the daemon lives, five times a second."""
        while not over.is_set():
            began = time.monotonic()
            (await client.get("/health/live")).raise_for_status()
            self.health_ms.append(1000 * (time.monotonic() - began))
            await asyncio.sleep(0.2)


async def crowd(daemon: DaemonProcess, num_agents: int) -> dict[str, Any]:
    """Let so many agents take a turn each, and some a second one, while one stream is listened to."""
    gaps, over, slots = Gaps(), asyncio.Event(), asyncio.Semaphore(8)
    async with httpx.AsyncClient(base_url=daemon.url, timeout=600) as client:

        async def turn(number: int) -> None:
            text = f"Agent {number}. " + "I keep my own notes. " * 95
            body = {"model": "default", "max_tokens": 4, "messages": [{"role": "user", "content": text}]}
            async with slots:
                answer = await client.post(
                    "/v1/chat/completions", json=body, headers={"X-Session-ID": f"agent-{number}"}
                )
                answer.raise_for_status()

        watching = [
            asyncio.create_task(gaps.listen(client, over)),
            asyncio.create_task(gaps.ask_health(client, over)),
        ]
        began = time.monotonic()
        await asyncio.gather(*(turn(number) for number in [*range(num_agents), *range(num_agents)]))
        took_s = time.monotonic() - began
        over.set()
        await asyncio.gather(*watching)
        began = time.monotonic()
        (await client.get("/v1/agents?limit=50")).raise_for_status()
        list_ms = 1000 * (time.monotonic() - began)
    stream, health = sorted(gaps.stream_ms), sorted(gaps.health_ms)
    return {
        "agents": num_agents,
        "took_s": round(took_s, 1),
        "stream_silence_ms": {
            "longest": round(stream[-1], 1),
            "p99.9": round(stream[int(0.999 * len(stream))], 1),
            "pieces": len(stream),
        },
        "health_live_ms": {"longest": round(health[-1], 1), "p50": round(statistics.median(health), 1)},
        "list_of_50_ms": round(list_ms, 1),
        "rss_mib": rss_mib(daemon),
    }


def many(home: Path, num_agents: int) -> dict[str, Any]:
    """Run the crowd against a daemon with the dashboard open."""
    model = write_tiny_model(home / "many", vocab=259, ends=False)
    (home / "crowd").mkdir()
    daemon = DaemonProcess(
        home / "crowd",
        models_dir=home / "models",
        SEMANTIC_MLX_MODEL_ID=str(model),
        SEMANTIC_MLX_CACHE_BUDGET_MB="1024",
    )
    daemon.start()
    try:
        with dashboard(daemon):
            return asyncio.run(crowd(daemon, num_agents))
    finally:
        daemon.kill()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=131_072, help="0 leaves the long conversation out")
    parser.add_argument("--agents", type=int, default=500, help="0 leaves the many agents out")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="sml-", dir="/tmp") as folder:
        if given.tokens:
            found["long_conversation"] = talk(Path(folder), given.tokens)
        if given.agents:
            found["many_agents"] = many(Path(folder), given.agents)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
