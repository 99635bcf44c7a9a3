"""Rows about real sessions: Claude Code, Codex and opencode, as recorded, against each server over a restart.

The three sessions take turns, one request at a time, each of them asked as a chat. They are cut to what a model with
8,192 tokens of context holds, and to what takes a minute or two on a processor: `NUM_REQUESTS` of each session, one
word in `ONE_IN` of their texts. Before the first request after the half the server is restarted.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from contrib.dev.bench.servers import MODEL, ROOT, Launch, ServerProcess, Target, models_dir
from semanticd.bench.client import ChatClient, open_http
from semanticd.bench.errors import BenchError
from semanticd.bench.machine import describe_machine, load_average
from semanticd.bench.prompt_tokens import token_source
from semanticd.bench.replay import Played, Replay, ReplaySettings
from semanticd.bench.replay_report import result_of
from semanticd.bench.result import BenchResult, Figure, load_result, time_figure
from semanticd.bench.session import BenchSession, BenchSettings
from semanticd.bench.shortened import shortened
from semanticd.bench.text import TextSource
from semanticd.bench.trace_file import Trace, load_trace

NAME = "replay"
SERVERS = ("semanticd", "mlx_lm_float32", "llama_cpp")
TRACES = ROOT / "tests" / "data" / "traces"
NUM_REQUESTS = 12
ONE_IN = 6
ANSWER_TOKENS = 4
REQUEST_WITHIN_S = 240.0
_TELLS_NO_TOKENS = ("mlx_lm_float32",)
"""Servers whose prompts the model's own tokenizer counts, because they answer with no token ids."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each session is played."""

    num_requests: int = NUM_REQUESTS
    one_in: int = ONE_IN


class Running(Protocol):
    """A server that was started and can be replaced."""

    url: str
    launch: Launch

    async def restart(self) -> None:
        """Replace the process."""


def measure_all(
    targets: Sequence[Target | str], path: Path, *, say: Callable[[str], None], size: Size | None = None
) -> None:
    """Play the sessions against each server that has no figures in `path` yet; a text is why one cannot run."""
    size = size or Size()
    result = load_result(path) if path.exists() else _empty(size)
    kept = {figure.case for figure in result.figures}
    for target in targets:
        if isinstance(target, str):
            result.skipped["llama_cpp"] = target
            say(f"{NAME}: llama_cpp: not measured: {target}")
        elif target.name in SERVERS and target.name not in kept:
            result.load_average[target.name] = load_average()
            began = time.perf_counter()
            try:
                figures = asyncio.run(_measure(target, size, say))
            except BenchError as error:
                result.skipped[target.name] = str(error)
                say(f"{NAME}: {target.name}: not measured: {error}")
            else:
                result.figures += figures
                result.skipped.pop(target.name, None)
            result.durations_s[target.name] = round(time.perf_counter() - began, 2)
        result.save(path)


async def _measure(target: Target, size: Size, say: Callable[[str], None]) -> list[Figure]:
    home = Path(tempfile.mkdtemp(prefix="bench-"))
    server = ServerProcess(target, home)
    try:
        await server.start()
        return await play(
            server,
            sessions(size),
            tells_tokens=target.name not in _TELLS_NO_TOKENS,
            name=target.name,
            say=say,
        )
    finally:
        await server.stop()
        shutil.rmtree(home, ignore_errors=True)


def sessions(size: Size) -> list[Trace]:
    """Return the recorded sessions, cut to a size."""
    return [
        shortened(load_trace(path), one_in=size.one_in, num_requests=size.num_requests)
        for path in sorted(TRACES.glob("*.trace.jsonl.xz"))
    ]


async def play(
    server: Running, traces: Sequence[Trace], *, tells_tokens: bool, name: str, say: Callable[[str], None]
) -> list[Figure]:
    """Play the sessions against a server that was started; returns its figures.

    Raises:
        BenchError: The server did not answer, or refused a request.
    """
    model = server.launch.model
    half = 1 + sum(len(trace.requests) for trace in traces) // 2
    settings = ReplaySettings(
        model, len(traces), restart_at=frozenset({half}), max_tokens=ANSWER_TOKENS, as_chat=True
    )

    def tell(text: str) -> None:
        say(f"{NAME}: {name}: {text}")

    async with (
        ChatClient(server.url, model=model, timeout_s=REQUEST_WITHIN_S) as client,
        open_http(api_key=None, timeout_s=REQUEST_WITHIN_S) as http,
    ):
        session = BenchSession(client, BenchSettings(), TextSource(1), tell, server.restart)

        async def restart() -> None:
            await server.restart()
            # A short answer, so that the first request after a restart does not pay for the loading of the model.
            await session.wait_ready()

        await session.wait_ready()
        folder = None if tells_tokens else models_dir() / MODEL
        tokens = await token_source(http, server.url, folder=folder, model=model, tell=tell)
        replay = Replay(http, server.url, traces, settings, tokens, tell, restart)
        began = time.perf_counter()
        await replay.run()
        took = time.perf_counter() - began
    refused = [one for one in replay.played if one.refusal is not None]
    if refused:
        raise BenchError(f"request {refused[0].number} was refused: {refused[0].refusal}")
    return [*figures_of(name, replay, half), Figure(NAME, name, "whole", took, "s")]


def figures_of(name: str, replay: Replay, half: int) -> list[Figure]:
    """Return what the prompts cost; `half` is the number of the first request after the restart."""
    total = result_of(replay, target=name)["total"]
    first = _first_of_each(replay.played)
    restarted = _first_of_each(one for one in replay.played if one.number >= half)
    later = [one for one in replay.played if one not in first and one not in restarted]
    counts = {
        "prompt": total["prompt_tokens"],
        "seen_before": total["reusable_tokens"],
        "computed": total["prompt_tokens"] - total["reused_tokens"],
        "computed_though_seen": total["recomputed_tokens"],
    }
    figures = [
        Figure(NAME, name, metric, float(count), "tokens")
        for metric, count in counts.items()
        if count is not None
    ]
    for metric, played in (("first_ttft", first), ("later_ttft", later), ("restart_ttft", restarted)):
        times = [one.ttft_s for one in played if one.ttft_s is not None]
        figures += [time_figure(NAME, name, metric, times, f"{len(times)} requests")] if times else []
    return figures


def _first_of_each(played: Iterable[Played]) -> list[Played]:
    """Return the first request of each agent."""
    first: dict[str, Played] = {}
    for one in played:
        first.setdefault(one.agent, one)
    return list(first.values())


def _empty(size: Size) -> BenchResult:
    return BenchResult(
        target="replay of recorded sessions",
        machine=describe_machine(),
        server={"model": MODEL},
        settings={**asdict(size), "answer_tokens": ANSWER_TOKENS},
        began_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
