"""Recorded sessions of Claude Code, Codex and opencode, interleaved, against a real daemon: what was seen is reused.

Over an eviction and a restart. The traces hold filler in place of all text: see docs/formats/trace.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from semanticd.bench.prompt_tokens import token_source
from semanticd.bench.replay import Replay, ReplaySettings
from semanticd.bench.replay_report import markdown, result_of
from semanticd.bench.shortened import shortened
from semanticd.bench.trace_file import Trace, load_trace
from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.tiny_families import write_tiny_family
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.traces import recorded


def daemon_on(home: Path, model: Path) -> DaemonProcess:
    return DaemonProcess(
        home,
        models_dir=home / "models",
        SEMANTIC_MLX_MODEL_ID=str(model),
        SEMANTIC_MLX_CACHE_BUDGET_MB="768",
        SEMANTIC_AGENT_MAX_AGENTS_IN_MEMORY="3",
        SEMANTIC_TRACE_DIR=str(home / "traces"),
    )


@pytest.fixture
def daemon(short_tmp_path: Path) -> Iterator[DaemonProcess]:
    process = daemon_on(short_tmp_path, write_tiny_model(short_tmp_path / "tiny", context=131072))
    process.start()
    yield process
    process.kill()


async def play(
    daemon: DaemonProcess, traces: list[Trace], *, evict_at: int, restart_at: int
) -> dict[str, Any]:
    async def restart() -> None:
        assert await asyncio.to_thread(daemon.stop) == 0
        await asyncio.to_thread(daemon.start)

    settings = ReplaySettings(
        "default",
        len(traces),
        restart_at=frozenset({restart_at}),
        evict_at=frozenset({evict_at}),
        max_tokens=2,
    )
    async with httpx.AsyncClient(timeout=600) as http:
        tokens = await token_source(http, daemon.url, folder=None, model="default", tell=print)
        replay = Replay(http, daemon.url, traces, settings, tokens, print, restart)
        await replay.run()
    result = result_of(replay, target="the daemon")
    print(markdown(result))
    return result


def check(result: dict[str, Any], *, at_least: float) -> None:
    refused = [one for one in result["requests"] if one["refusal"] is not None]
    assert refused == [], "no request of a real session is refused"
    assert [one["what"] for one in result["events"]] == ["evict", "restart"]
    total = result["total"]
    assert total["reused_of_reusable"] >= at_least, total["recomputed_by_cause"]
    assert total["reused_hot_tokens"] > 0
    assert total["reused_warm_tokens"] > 0


async def test_three_sessions_reuse_what_they_have_seen_over_an_eviction_and_a_restart(
    daemon: DaemonProcess, short_tmp_path: Path
) -> None:
    traces = [shortened(trace, one_in=25, num_requests=16) for trace in recorded()]
    result = await play(daemon, traces, evict_at=20, restart_at=34)
    check(result, at_least=0.995)
    assert daemon.stop() == 0
    kept = [load_trace(path) for path in sorted((short_tmp_path / "traces").iterdir())]
    again = [one for trace in kept for one in trace.requests]
    assert len(again) == len(result["requests"]), "the daemon recorded the replay"
    assert sum(one.answer["usage"]["prompt_tokens"] for one in again) == result["total"]["prompt_tokens"]


@pytest.mark.slow
@pytest.mark.timeout(3000)
async def test_the_whole_sessions_do_so_too(daemon: DaemonProcess) -> None:
    result = await play(daemon, recorded(), evict_at=40, restart_at=70)
    check(result, at_least=0.995)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_claude_code_as_we_launch_it_computes_little_after_its_first_request(
    daemon: DaemonProcess,
) -> None:
    (session,) = [trace for trace in recorded() if "claude" in trace.name]
    result = await play(daemon, [session], evict_at=12, restart_at=20)
    check(result, at_least=0.995)
    assert result["total"]["reused_after_first"] >= 0.96


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", ["gemma3_text", "mamba2"])
async def test_models_with_windows_or_a_state_reuse_nearly_all(short_tmp_path: Path, family: str) -> None:
    process = daemon_on(
        short_tmp_path, write_tiny_family(short_tmp_path / "tiny", family, max_position_embeddings=131072)
    )
    process.start()
    try:
        traces = [shortened(trace, one_in=25, num_requests=16) for trace in recorded()]
        check(await play(process, traces, evict_at=20, restart_at=34), at_least=0.97)
    finally:
        process.kill()
