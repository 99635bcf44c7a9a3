"""Nobody pays for another: `python tests/soak/ownership.py --minutes 30`.

Twenty agents ask a daemon of their own over HTTP, streaming and not, in two dialects. Clients hang up in prompts and in
answers, agents are deleted, evicted, pinned and unpinned at any moment, two models take each other's place every 20 s,
and the disk is slow and hangs now and then (`tests/fakes/slow_disk.py`). Whatever the others do, every request that is
not cancelled by its own client must be answered in full; the process may grow by its budget and a tenth, and what it
is made of at its largest is reported; at rest nothing may be held. How long streams were silent is reported against
`max_stall_ms` and one step. Prints JSON; exits 1 on failure.

Silence is measured here, where the stream is read, so a busy machine adds to it: `longest_oversleep_ms` says by how
much this process itself was late.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from semanticd.control.address import socket_path_in
from semanticd.control.client import ControlClient
from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.tiny_folder import write_tiny_model

NUM_AGENTS, BUDGET_MB, MAX_STALL_MS = 20, 512, 300
SWAP_EVERY_S, TROUBLE_EVERY_S, LOOK_EVERY_S, TICK_S = 20.0, 0.7, 0.5, 0.02
MAX_CHARACTERS = 2500
"""A conversation longer than this (about as many tokens) begins again."""
_MIB = 1 << 20
_ANSWERED_WITHIN_S, _AT_REST_WITHIN_S = 600.0, 180.0
_MAX_FAILURES = 20
_NUM_LONGEST = 10

WORDS = (
    "stone",
    "river",
    "light",
    "paper",
    "garden",
    "window",
    "silver",
    "morning",
    "letter",
    "music",
    "forest",
    "bridge",
)
SYSTEMS = [f"You are helper number {number}. " + f"{WORDS[number]} comes first. " * 40 for number in range(3)]


@dataclass
class Figures:
    """What was seen."""

    done: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    silences_ms: list[float] = field(default_factory=list)
    first_tokens_ms: list[float] = field(default_factory=list)
    longest: list[tuple[float, float, str]] = field(default_factory=list)
    """The longest silences (ms), when each ended (seconds since the start), and whose it was."""
    oversleeps_ms: list[float] = field(default_factory=list)
    growth: list[int] = field(default_factory=list)
    base_parts: dict[str, int] = field(default_factory=dict)
    largest_parts: dict[str, int] = field(default_factory=dict)
    """What the process's memory was made of at the beginning, and when it was largest (bytes)."""

    def fail(self, what: str) -> None:
        """Note a failure."""
        self.failures.append(what)
        sys.stderr.write(f"soak: {what}\n")


class Soak:
    """The run."""

    def __init__(self, home: Path, *, seed: int, disk_ms: int) -> None:
        """Make two tiny models and prepare the daemon; its disk takes `disk_ms` milliseconds for most operations."""
        self.home = home
        self.random = random.Random(seed)
        self.models = [
            write_tiny_model(home / name, vocab=259, layers=8, seed=number)
            for number, name in enumerate("ab")
        ]
        (home / "run").mkdir()
        self.daemon = DaemonProcess(
            home / "run",
            models_dir=home / "models",
            command=("-m", "tests.fakes.slow_disk"),
            PYTHONPATH=sys.path[0],
            SLOW_DISK_MS=str(disk_ms),
            SLOW_DISK_MEMORY=str(home / "memory.json"),
            SEMANTIC_MLX_MODEL_ID=str(self.models[0]),
            SEMANTIC_MLX_CACHE_BUDGET_MB=str(BUDGET_MB),
            SEMANTIC_MLX_BLOCK_TOKENS="64",
            SEMANTIC_MLX_MAX_STALL_MS=str(MAX_STALL_MS),
            SEMANTIC_AGENT_MAX_AGENTS_IN_MEMORY=str(NUM_AGENTS),
            SEMANTIC_AGENT_CACHE_MAX_GB="0.8",
        )
        self.figures = Figures()
        self.began_at = 0.0

    # Clients.

    async def live(self, agent: str, client: httpx.AsyncClient, end: float) -> None:
        """Be one agent until the end."""
        messages: list[dict[str, str]] = []
        while time.monotonic() < end and len(self.figures.failures) < _MAX_FAILURES:
            if sum(len(message["content"]) for message in messages) > MAX_CHARACTERS or not messages:
                messages = [{"role": "system", "content": self.random.choice(SYSTEMS)}]
            words = self.random.choices(WORDS, k=self.random.choice([5, 20, 60, 120]))
            asked = [*messages, {"role": "user", "content": " ".join(words)}]
            kind = self.random.choices(["stream", "whole", "hang_up", "anthropic"], [50, 15, 25, 10])[0]
            try:
                answer = await self.ask(agent, asked, client, kind=kind)
            except (httpx.HTTPError, OSError, ValueError, KeyError) as error:
                self.figures.fail(f"{agent}, {kind}: {error!r}")
                continue
            if answer is not None:
                messages = [*asked, {"role": "assistant", "content": answer}]
            if self.random.random() < 0.3:
                await asyncio.sleep(self.random.expovariate(1.0))

    async def ask(
        self, agent: str, messages: list[dict[str, str]], client: httpx.AsyncClient, *, kind: str
    ) -> str | None:
        """Take a turn; returns the answer, or None where there is none."""
        if kind == "hang_up":
            await self.hang_up(agent, messages, client)
            return None
        path, body = "/v1/chat/completions", chat_body(messages, self.random.randint(1, 120))
        if kind == "anthropic":
            path, body = "/v1/messages", anthropic_body(messages, self.random.randint(1, 120))
        if kind == "stream":
            return await self.stream(agent, path, {**body, "stream": True}, client)
        response = await client.post(path, json=body, headers={"X-Session-ID": agent})
        if response.status_code != 200:
            self.refused(agent, response.status_code, response.text)
            return None
        self.figures.done[kind] += 1
        answer = response.json()
        text = answer["content"] if kind == "anthropic" else answer["choices"][0]["message"]["content"]
        return text if isinstance(text, str) else "".join(part["text"] for part in text)

    async def stream(
        self, agent: str, path: str, body: dict[str, Any], client: httpx.AsyncClient
    ) -> str | None:
        """Read an answer to its end, and note how long it was silent."""
        text, finish, began, last_at = "", None, time.monotonic(), 0.0
        async with client.stream("POST", path, json=body, headers={"X-Session-ID": agent}) as response:
            if response.status_code != 200:
                self.refused(agent, response.status_code, (await response.aread()).decode())
                return None
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    self.figures.fail(f"{agent}: its stream ended with {chunk['error']}")
                    return None
                for choice in chunk["choices"]:
                    finish = choice["finish_reason"] or finish
                    if choice["delta"].get("content"):
                        text += choice["delta"]["content"]
                        now = time.monotonic()
                        self.heard(agent, began=began, last_at=last_at, now=now)
                        last_at = now
        if finish is None:
            self.figures.fail(f"{agent}: its stream ended without a finish reason")
            return None
        self.figures.done["stream"] += 1
        return text

    def heard(self, agent: str, *, began: float, last_at: float, now: float) -> None:
        """Note the time between two pieces of text, or before the first one."""
        if not last_at:
            self.figures.first_tokens_ms.append(1000 * (now - began))
            return
        silence_ms = 1000 * (now - last_at)
        self.figures.silences_ms.append(silence_ms)
        longest = self.figures.longest
        if len(longest) < _NUM_LONGEST or silence_ms > longest[-1][0]:
            longest.append((round(silence_ms, 1), round(now - self.began_at, 1), agent))
            longest.sort(reverse=True)
            del longest[_NUM_LONGEST:]

    async def hang_up(self, agent: str, messages: list[dict[str, str]], client: httpx.AsyncClient) -> None:
        """Ask something long and leave: in the queue, in the restore, in the prompt or in the answer."""
        body = {**chat_body(messages, 2000), "stream": True}

        async def read() -> None:
            async with client.stream(
                "POST", "/v1/chat/completions", json=body, headers={"X-Session-ID": agent}
            ) as response:
                if response.status_code != 200:
                    self.refused(agent, response.status_code, (await response.aread()).decode())
                async for _ in response.aiter_lines():
                    pass

        patience_s = self.random.choice([0.002, 0.02, 0.1, 0.5, 2.0])
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(read(), patience_s)
        self.figures.done["hang_up"] += 1

    def refused(self, agent: str, status: int, text: str) -> None:
        """Note an answer that is not one: nothing that a client here does justifies it."""
        self.figures.done[f"status_{status}"] += 1
        self.figures.fail(f"{agent}: {status} {text[:300]}")

    # Trouble.

    async def swap(self, client: httpx.AsyncClient, end: float) -> None:
        """Let the models take each other's place."""
        number = 0
        while await sleep_until(time.monotonic() + SWAP_EVERY_S, end):
            number += 1
            began = time.monotonic()
            response = await client.post("/admin/models/swap", json={"model": str(self.models[number % 2])})
            if response.status_code == 200:
                self.figures.done["swap"] += 1
            else:
                self.figures.fail(f"swap: {response.status_code} {response.text[:300]}")
            sys.stderr.write(f"soak: swapped within {time.monotonic() - began:.1f} s\n")

    async def trouble(self, client: httpx.AsyncClient, end: float) -> None:
        """Delete, evict, pin and unpin agents, whatever they are doing."""
        pinned: set[str] = set()
        while await sleep_until(time.monotonic() + self.random.expovariate(1.0) * TROUBLE_EVERY_S, end):
            agent = f"agent{self.random.randrange(NUM_AGENTS)}"
            deed = self.random.choices(["delete", "evict", "pin", "unpin"], [4, 4, 1, 2])[0]
            if deed == "unpin" and pinned:
                agent = pinned.pop()
            if deed == "pin":
                if len(pinned) >= 2:
                    continue
                pinned.add(agent)
            if deed == "delete":
                pinned.discard(agent)
                response = await client.delete(f"/v1/agents/{agent}")
            else:
                response = await client.post(f"/v1/agents/{agent}/{deed}", json={})
            if response.status_code in (404, 409) or response.status_code < 300:
                self.figures.done[
                    deed if response.status_code < 300 else f"{deed}_{response.status_code}"
                ] += 1
            else:
                self.figures.fail(f"{deed}: {response.status_code} {response.text[:300]}")

    async def look(self, client: httpx.AsyncClient, end: float) -> None:
        """Measure the process, and see that a model is served."""
        process, figures = psutil.Process(self.daemon.pid), self.figures
        baseline = process.memory_info().rss
        figures.base_parts = await asyncio.to_thread(self.memory_parts)
        while await sleep_until(time.monotonic() + LOOK_EVERY_S, end):
            grown = process.memory_info().rss - baseline
            if grown > max(figures.growth, default=0):
                figures.largest_parts = await asyncio.to_thread(self.memory_parts)
            figures.growth.append(grown)
            ready = await client.get("/health/ready")
            if ready.status_code != 200:
                self.figures.fail(f"not ready: {ready.text[:300]}")

    def memory_parts(self) -> dict[str, int]:
        """Return what the daemon's memory is made of now (bytes), by its ledger, MLX, the C library and the system."""
        cache = self.status()["cache"]
        names = ("hot", "running", "in_flight", "promised", "text")
        parts = {f"{name}_bytes": int(cache[f"{name}_bytes"]) for name in names}
        with contextlib.suppress(OSError, ValueError):
            parts |= json.loads((self.home / "memory.json").read_text())
        return parts

    async def tick(self, end: float) -> None:
        """Measure how late this process is."""
        while time.monotonic() < end:
            began = time.monotonic()
            await asyncio.sleep(TICK_S)
            self.figures.oversleeps_ms.append(1000 * (time.monotonic() - began - TICK_S))

    # The run.

    async def run(self, seconds: float) -> None:
        """Live for so long, then look at what is left."""
        await asyncio.to_thread(self.daemon.start)
        self.began_at = time.monotonic()
        async with httpx.AsyncClient(
            base_url=self.daemon.url,
            timeout=_ANSWERED_WITHIN_S,
            limits=httpx.Limits(max_connections=4 * NUM_AGENTS),
        ) as client:
            # What every model takes once, its compiled kernels too, is no growth.
            for model in (*reversed(self.models), self.models[0]):
                (await client.post("/admin/models/swap", json={"model": str(model)})).raise_for_status()
                warm_up = chat_body([{"role": "user", "content": "warm " * 800}], 8)
                (await client.post("/v1/chat/completions", json=warm_up)).raise_for_status()
            self.began_at = time.monotonic()
            end = self.began_at + seconds
            agents = (self.live(f"agent{number}", client, end) for number in range(NUM_AGENTS))
            troubles = (self.swap(client, end), self.trouble(client, end), self.look(client, end))
            await asyncio.gather(*agents, *troubles, self.tick(end))
            await self.see_rest(client)
        status = await asyncio.to_thread(self.daemon.stop)
        if status != 0:
            self.figures.fail(f"stopping ended with {status}")

    async def see_rest(self, client: httpx.AsyncClient) -> None:
        """Wait until all is at rest: nothing may be held, and the log may not know of a defect."""
        deadline = time.monotonic() + _AT_REST_WITHIN_S
        while True:
            status = await asyncio.to_thread(self.status)
            engine, cache = status["engine"], status["cache"]
            left = {
                "running": engine["num_running"] + engine["num_waiting"],
                **{name: cache[name] for name in ("running_bytes", "promised_bytes", "in_flight_bytes")},
            }
            if not any(left.values()) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        if any(left.values()):
            self.figures.fail(f"at rest something is held: {left}")
        self.last_cache = cache
        page = (await client.get("/metrics")).text
        self.step_ms = 1000 * quantile_bound(page, "semanticd_decode_step_seconds", 0.999)
        self.engine_itl_ms = 1000 * quantile_bound(page, "semanticd_itl_seconds", 0.999)
        self.preemptions = sample(page, "semanticd_preemptions_total")
        text = self.daemon.log.read_text(errors="replace")
        for word in ("engine_failed", "AssertionError", "Traceback", '"level": "error"', '"level":"error"'):
            if word in text:
                at = text.index(word)
                self.figures.fail(f"the log says {text[max(0, at - 200) : at + 600]}")

    def status(self) -> dict[str, Any]:
        """Ask the daemon how it is."""
        with ControlClient.connect(socket_path_in(self.daemon.home / "run")) as client:
            return client.call("status")

    def report(self) -> dict[str, Any]:
        """Return the figures, after judging those that are judged at the end."""
        figures = self.figures
        silences = sorted(figures.silences_ms)
        limit_ms = MAX_STALL_MS + getattr(self, "step_ms", 0.0)
        grown, allowed = max(figures.growth, default=0), int(1.1 * BUDGET_MB)
        num_failed = len(figures.failures)
        if grown > allowed * _MIB:
            figures.fail(f"the daemon grew by {grown // _MIB} MiB, more than {allowed} MiB")
        return {
            "ok": not figures.failures,
            "requests_failed": num_failed,
            "failures": figures.failures[:10],
            "growth_mib": {
                "largest": grown // _MIB,
                "medians_of_thirds": [int(third) // _MIB for third in medians_of_thirds(figures.growth)],
                "allowed": allowed,
                "budget": BUDGET_MB,
                # In flight are views of hot blocks; MLX's arrays are among what malloc counts.
                "parts_at_first_and_at_the_largest": {
                    name: [figures.base_parts.get(name, 0) // _MIB, num_bytes // _MIB]
                    for name, num_bytes in figures.largest_parts.items()
                },
            },
            "silence_ms": {
                "longest": figures.longest,
                **{f"p{share}": round(quantile(silences, share / 100), 1) for share in (50, 99, 99.9)},
                "limit": round(limit_ms, 1),
                "num_longer": sum(1 for silence in silences if silence > limit_ms),
                "num": len(silences),
            },
            "ttft_ms": {
                f"p{share}": round(quantile(sorted(figures.first_tokens_ms), share / 100), 1)
                for share in (50, 99)
            },
            "engine": {
                "step_ms_p999_at_most": round(getattr(self, "step_ms", 0.0), 1),
                "itl_ms_p999_at_most": round(getattr(self, "engine_itl_ms", 0.0), 1),
                "preemptions": getattr(self, "preemptions", 0.0),
            },
            "longest_oversleep_ms": round(max(figures.oversleeps_ms, default=0.0), 1),
            "done": dict(sorted(figures.done.items())),
            "cache": getattr(self, "last_cache", {}),
        }


def chat_body(messages: list[dict[str, str]], max_tokens: int) -> dict[str, Any]:
    """Return a greedy request in OpenAI's form."""
    return {"model": "default", "messages": messages, "max_tokens": max_tokens, "temperature": 0}


def anthropic_body(messages: list[dict[str, str]], max_tokens: int) -> dict[str, Any]:
    """Return a request in Anthropic's form whose system text the client wants kept."""
    kept = {"type": "text", "text": messages[0]["content"], "cache_control": {"type": "ephemeral"}}
    return {"model": "default", "system": [kept], "messages": messages[1:], "max_tokens": max_tokens}


async def sleep_until(moment: float, end: float) -> bool:
    """Sleep until a moment, or the end; returns whether the end has not come."""
    await asyncio.sleep(max(min(moment, end) - time.monotonic(), 0.0))
    return time.monotonic() < end


def medians_of_thirds(values: list[int]) -> list[float]:
    """Return the medians of a series' first, second and last third; none of a short one."""
    size = len(values) // 3
    return [statistics.median(values[at * size : (at + 1) * size]) for at in range(3)] if size else []


def quantile(ordered: list[float], share: float) -> float:
    """Return the value below which this share lies (0 when there is none)."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def quantile_bound(page: str, name: str, share: float) -> float:
    """Return the bound of the histogram's bucket in which this quantile lies (seconds)."""
    buckets = []
    for line in page.splitlines():
        if line.startswith(f"{name}_bucket"):
            bound = line.split('le="')[1].split('"')[0]
            buckets.append((float(bound), float(line.rsplit(" ", 1)[1])))
    total = max((count for _, count in buckets), default=0.0)
    return min((bound for bound, count in buckets if count >= share * total), default=0.0)


def sample(page: str, name: str) -> float:
    """Return a counter's value, summed over its labels."""
    lines = (line for line in page.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--disk-ms", type=int, default=10, help="what most operations of the disk take")
    parser.add_argument("--keep", action="store_true", help="leave the daemon's folders")
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="smo-", dir="/tmp"))
    sys.stderr.write(f"soak: seed {given.seed}, folder {home}\n")
    soak = Soak(home, seed=given.seed, disk_ms=given.disk_ms)
    try:
        asyncio.run(soak.run(60 * given.minutes))  # noqa: TID251 (a program, not a test)
    except Exception as error:
        soak.figures.fail(f"the run broke off: {error!r}")
        raise
    finally:
        soak.daemon.kill()
        print(json.dumps({"seed": given.seed, **soak.report()}, indent=2))
        if not given.keep:
            shutil.rmtree(home, ignore_errors=True)
    return 0 if not soak.figures.failures else 1


if __name__ == "__main__":
    raise SystemExit(main())
