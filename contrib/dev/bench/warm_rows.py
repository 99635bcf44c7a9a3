"""Rows of a running daemon: its start, warm first tokens and the bytes they read, several prompts at once."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import numpy as np

from contrib.dev.bench.servers import ServerProcess
from semanticd.bench.errors import BenchError
from semanticd.bench.result import Figure, time_figure
from semanticd.bench.scenarios.restart_ttft import QUESTION_TOKENS
from semanticd.bench.session import FIRST_ANSWER_TOKENS, BenchSession
from semanticd.bench.statistics import median

NAME = "restore"
START = "start"
LENGTHS = (900, 2048, 4096)
PREFILL_BATCHES = ((4, 256), (8, 256))
NUM_READS = 5
NUM_TURNS = 3
NUM_STARTS = 3
READY_WITHIN_S = 120.0


async def restore(session: BenchSession, server: ServerProcess) -> list[Figure]:
    """Measure cold, in process, after a restart, and the plain reading of as many bytes, for each length."""
    figures = []
    talks = {length: await session.conversation(length) for length in LENGTHS}
    hot: dict[int, list[float]] = {length: [] for length in LENGTHS}
    computed: dict[int, tuple[int, int]] = {}
    for length, talk in talks.items():
        for turn in range(NUM_TURNS):
            question = session.text.prompt(f"hot/{length}/{turn}", QUESTION_TOKENS)
            answer = await session.say(talk, question, max_tokens=FIRST_ANSWER_TOKENS)
            hot[length].append(answer.ttft_s)
            computed[length] = answer.cached_tokens, answer.prompt_tokens - answer.cached_tokens
        session.tell(f"restore: {length} tokens in process: {median(hot[length]):.3f} s")
    warm: dict[int, list[float]] = {length: [] for length in LENGTHS}
    restored: dict[int, list[float]] = {length: [] for length in LENGTHS}
    sizes: dict[int, float] = {}
    assert session.restart is not None
    for number in range(2):
        await session.restart()
        await session.wait_ready()
        for length, talk in talks.items():
            before = await _counters(server)
            question = session.text.prompt(f"again/{length}/{number}", QUESTION_TOKENS)
            answer = await session.say(talk, question, max_tokens=FIRST_ANSWER_TOKENS)
            after = await _counters(server)
            warm[length].append(answer.ttft_s)
            restored[length].append(after[0] - before[0])
            sizes[length] = after[1] - before[1]
            session.tell(
                f"restore: {length} tokens after a restart: {answer.ttft_s:.3f} s, of it restoring "
                f"{restored[length][-1]:.3f} s, {sizes[length] / 1e6:.0f} MB"
            )
    folder = Path(server.launch.env["SEMANTIC_AGENT_CACHE_DIR"]) / "blocks"
    for length in LENGTHS:
        read_s = [read_and_copy(folder, int(sizes[length])) for _ in range(NUM_READS)]
        figures += [
            Figure(NAME, str(length), "cached", computed[length][0], "tokens", False),
            Figure(NAME, str(length), "computed", computed[length][1], "tokens"),
            time_figure(NAME, str(length), "hot_ttft", hot[length]),
            time_figure(NAME, str(length), "restart_ttft", warm[length]),
            time_figure(NAME, str(length), "restore", restored[length], f"{sizes[length] / 1e6:.0f} MB"),
            time_figure(NAME, str(length), "read_and_copy", read_s, f"{sizes[length] / 1e6:.0f} MB"),
        ]
    return figures


def sizes(turns: Sequence[Figure]) -> list[tuple[int, int]]:
    """Return how many tokens were cached, and how many computed, in a turn of each length."""
    values = {figure.key: int(figure.value) for figure in turns if figure.unit == "tokens"}
    return [
        (values[NAME, str(length), "cached"], values[NAME, str(length), "computed"]) for length in LENGTHS
    ]


def steps(seconds: Mapping[str, float]) -> list[Figure]:
    """Return the model's own time for a turn of each length, in the order of `sizes`."""
    return [
        time_figure(NAME, str(length), "step", [value], f"the model alone, {pair} tokens")
        for length, (pair, value) in zip(LENGTHS, seconds.items(), strict=True)
    ]


async def start(server: ServerProcess) -> list[Figure]:
    """Measure from the start of the process until it is ready; its files are in the machine's page cache."""
    times = []
    for _ in range(NUM_STARTS):
        await server.stop()
        began = time.perf_counter()
        await server.start()
        await _ready(server)
        times.append(time.perf_counter() - began)
    return [time_figure(START, "all", "ready", times)]


async def prefill(session: BenchSession) -> list[Figure]:
    """Let several clients send a prompt at once; all their tokens over the time until the last first token."""
    figures = []
    for batch, length in PREFILL_BATCHES:
        prompts = [session.text.prompt(f"batch/{batch}/{number}", length) for number in range(batch)]
        began = time.perf_counter()
        answers = await asyncio.gather(
            *(
                session.client.ask(
                    [{"role": "user", "content": prompt}], max_tokens=1, agent=f"bench-batch-{batch}-{number}"
                )
                for number, prompt in enumerate(prompts)
            )
        )
        took = max(answer.piece_times[0] for answer in answers) - began
        tokens = sum(answer.prompt_tokens - answer.cached_tokens for answer in answers)
        session.tell(f"prefill: {batch} prompts at once: {tokens / took:.0f} tok/s")
        figures.append(Figure("prefill_http", f"{batch}x{length}", "rate", tokens / took, "tok/s", False))
    return figures


def read_and_copy(folder: Path, num_bytes: int) -> float:
    """Return the seconds that reading so many bytes of block files, and copying them once, takes; pages are warm."""
    buffer, copy = np.ones(num_bytes, np.uint8), np.ones(num_bytes, np.uint8)
    view, place = memoryview(buffer), 0
    began = time.perf_counter()
    for path in sorted(folder.rglob("*.safetensors")):
        if place >= num_bytes:
            break
        with path.open("rb", buffering=0) as file:
            place += file.readinto(view[place:]) or 0
    np.copyto(copy, buffer)
    return time.perf_counter() - began


async def _ready(server: ServerProcess) -> None:
    deadline = time.perf_counter() + READY_WITHIN_S
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        while (await http.get(f"{server.url}/health/ready")).status_code != httpx.codes.OK:
            if time.perf_counter() > deadline:
                raise BenchError(f"the server was not ready within {READY_WITHIN_S:.0f} s; see {server.log}")
            await asyncio.sleep(0.02)


async def _counters(server: ServerProcess) -> tuple[float, float]:
    """Return the seconds spent on restoring and the bytes read so far."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        text = (await http.get(f"{server.url}/metrics")).text
    return _sum(text, "semanticd_restore_seconds_sum"), _sum(text, "semanticd_warm_read_bytes_total")


def _sum(text: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))
