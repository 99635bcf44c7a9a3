"""Every metric moves on a real engine: one daemon with a tiny model goes through all that can happen to it.

What needs a failing disk, a defect or crowded memory is listed by name, each with the test where it moves.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from semanticd.adapters.config import Settings
from semanticd.adapters.control.connection import Identity
from semanticd.adapters.control.server import ControlServer
from semanticd.adapters.telemetry import CATALOGUE
from semanticd.adapters.telemetry.catalogue import GEN_AI, PREFIX
from semanticd.control.async_client import AsyncControlClient
from tests.fakes.asgi_client import Answer, until
from tests.fakes.control_services import fake_services
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import Samples, WholeDaemon

ELSEWHERE = {
    "http_connections_dropped_total": "tests/integration/http/test_connections.py",
    "tool_parse_failures_total": "tests/integration/services/test_generate.py",
    "preemptions_total": "tests/integration/engine/test_engine_answers.py",
    "memory_short_total": "tests/integration/engine/test_memory_pressure.py",
    "restore_timeouts_total": "tests/integration/engine/test_ownership.py",
    "cache_skipped_blocks_total": "tests/integration/engine/test_ownership.py",
    "cache_lost_blocks_total": "tests/unit/application/cache/test_agent_cache_store.py",
    "warm_read_errors_total": "tests/unit/adapters/disk/test_trouble_metrics.py",
    "warm_write_errors_total": "tests/unit/adapters/disk/test_trouble_metrics.py",
    "warm_queue_full_total": "tests/unit/adapters/disk/test_trouble_metrics.py",
    "warm_index_errors_total": "tests/unit/adapters/disk/test_trouble_metrics.py",
    "agent_save_errors_total": "tests/unit/adapters/disk/test_trouble_metrics.py",
    "agent_load_errors_total": "tests/unit/adapters/disk/test_trouble_metrics.py",
    "peer_lookups_total": "tests/integration/engine/test_peers.py",
    "peer_found_blocks_total": "tests/integration/engine/test_peers.py",
    "peer_read_blocks_total": "tests/integration/engine/test_peers.py",
    "peer_read_bytes_total": "tests/integration/engine/test_peers.py",
    "peer_failures_total": "tests/integration/engine/test_peers.py",
    "rank_ready": "tests/integration/ranks/test_three_ranks.py",
    "rank_memory_bytes": "tests/integration/ranks/test_three_ranks.py",
    "rank_step_seconds": "tests/integration/ranks/test_three_ranks.py",
    "rank_bytes_total": "tests/integration/ranks/test_three_ranks.py",
    "ranks_lost_total": "tests/integration/ranks/test_three_ranks.py",
    "trace_dropped_requests_total": "tests/unit/adapters/request_traces/test_writer.py",
}
"""Metrics of trouble that a healthy run does not have, and the test that makes it."""

ROOT = Path(__file__).resolve().parents[3]


def moved(before: Samples, after: Samples) -> set[str]:
    """Return the catalogue's names of the metrics whose samples differ."""
    changed = {key[0] for key, value in after.items() if before.get(key, 0.0) != value}
    return {
        name
        for name, spec in CATALOGUE.items()
        if PREFIX + name + ("_count" if spec.kind == "histogram" else "") in changed
    }


async def prompts_of_every_tier(daemon: WholeDaemon) -> None:
    words = "the cache keeps what agents said " * 12
    assert (await daemon.chat(words, agent="reader")).status == 200  # cold, its first request
    assert (await daemon.chat(words + "and more", agent="reader")).status == 200  # hot
    await daemon.written()
    evicted = await daemon.client.post("/v1/agents/reader/evict", {})
    assert evicted.status == 200, evicted.content
    warm = await daemon.chat(words + "and still more", agent="reader")
    assert "tier=warm" in warm.headers["x-semantic-cache"], warm.headers
    assert (await daemon.chat("something else altogether", agent="reader")).status == 200  # left its history


async def a_client_that_leaves(daemon: WholeDaemon) -> Samples:
    """Return what the page says while its answer is being decoded."""
    leave, answer = asyncio.Event(), Answer()
    asking = asyncio.create_task(
        daemon.chat(
            "count",
            agent="leaver",
            max_tokens=20_000,
            stream=True,
            ignore_eos=True,
            leave=leave,
            answer=answer,
        )
    )
    await until(lambda: len(answer.chunks) > 3)
    busy = await daemon.samples()
    leave.set()
    await asking
    return busy


def block_files(home: Path) -> set[Path]:
    """Return the files of the warm tier."""
    return set(home.glob("caches/blocks/**/*.safetensors"))


async def broken_and_missing_files(daemon: WholeDaemon, home: Path) -> None:
    for agent, harm in (("breaker", _flip_last_byte), ("loser", Path.unlink)):
        before = block_files(home)
        words = f"{agent} says that " * 12
        await daemon.chat(words, agent=agent)
        await daemon.written()
        await daemon.client.post(f"/v1/agents/{agent}/evict", {})
        for file in block_files(home) - before:
            harm(file)
        assert (await daemon.chat(words + "more", agent=agent)).status == 200


def _flip_last_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)


async def more_than_cap_and_budget_hold(daemon: WholeDaemon) -> None:
    async def fill(until_moved: str) -> None:
        for number in range(40):
            await daemon.chat(f"{until_moved} {number} " * 12, agent=f"writer-{until_moved}-{number}")
            await daemon.written()
            samples = await daemon.samples()
            if any(key[0] == PREFIX + until_moved and value for key, value in samples.items()):
                return
        raise AssertionError(f"{until_moved} did not move")

    await fill("warm_pruned_total")
    await fill("warm_refused_total")


async def swaps(daemon: WholeDaemon, other: Path) -> None:
    assert (await daemon.client.post("/admin/models/swap", {"model": str(other)})).status == 200
    assert (await daemon.client.post("/admin/models/swap", {"model": "no/such/model"})).status >= 400


async def a_control_client(daemon: WholeDaemon, path: Path) -> Samples:
    """Return what the page says while it is connected."""
    server = ControlServer(
        path=path,
        services=fake_services(),
        identity=Identity("0", 1),
        log=daemon.log,
        metrics=daemon.parts.metrics,
    )
    await server.start()
    try:
        async with await AsyncControlClient.connect(path, name="test"):
            return await daemon.samples()
    finally:
        await server.close()


async def too_many_requests(daemon: WholeDaemon) -> None:
    answers = [await daemon.chat("again", agent="hasty", max_tokens=1) for _ in range(7)]
    assert answers[-1].status == 429


def value_of(samples: Samples, name: str, **labels: str) -> float:
    """Return one sample's value."""
    return samples[PREFIX + name, tuple(sorted(labels.items()))]


async def test_every_metric_moves_when_its_thing_happens(tmp_path: Path) -> None:
    defaults = Settings()
    settings = replace(
        defaults,
        mlx=replace(defaults.mlx, cache_budget_mb=64, block_tokens=64),
        agent=replace(defaults.agent, cache_max_gb=0.001, write_budget_gb_per_day=0.002),
        server=replace(defaults.server, rate_limit_per_agent=6),
    )
    model = write_tiny_model(tmp_path / "tiny")
    other = write_tiny_model(tmp_path / "other", seed=1)
    async with WholeDaemon(tmp_path, model=model, settings=settings) as daemon:
        before: Samples = {}  # nought for all, as the page begins
        await prompts_of_every_tier(daemon)
        busy = await a_client_that_leaves(daemon)
        await broken_and_missing_files(daemon, tmp_path)
        await too_many_requests(daemon)
        connected = await a_control_client(daemon, tmp_path / "run" / "c.sock")
        await swaps(daemon, other)
        await more_than_cap_and_budget_hold(daemon)
        seen = moved(before, await daemon.samples()) | moved(before, busy) | moved(before, connected)
        assert value_of(busy, "sequences", state="decoding") == 1
        assert value_of(connected, "control_clients") == 1
        assert set(CATALOGUE) - seen == set(ELSEWHERE), "metrics that did not move, or that now do"
        loaded = [key[1] for key in await daemon.samples() if key[0] == "semanticd_model_weights_bytes"]
        assert loaded == [(("model", "other"),)], "a model that left is off the page"


def test_trouble_that_a_healthy_run_does_not_have_is_tested_where_it_is_made() -> None:
    for name, test in ELSEWHERE.items():
        assert name in CATALOGUE
        assert f'"{name}"' in (ROOT / test).read_text(encoding="utf-8"), f"{test} does not look at {name}"


async def test_second_names_count_what_ours_do(tmp_path: Path) -> None:
    async with WholeDaemon(tmp_path, model=write_tiny_model(tmp_path / "model")) as daemon:
        words = "the cache keeps what agents said " * 12
        answers = [await daemon.chat(words, agent="a", max_tokens=4, ignore_eos=True) for _ in range(2)]
        samples = await daemon.samples()
    found: dict[str, float] = {}
    for (name, labels), value in samples.items():
        if name.startswith("gen_ai_"):
            assert dict(labels)["gen_ai_operation_name"] == "chat"
            found[name] = found.get(name, 0.0) + value
    usages = [answer.json["usage"] for answer in answers]
    cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    assert cached
    ended = "gen_ai_client_inference_usage"
    assert found[f"{ended}_input_tokens_total"] == sum(usage["prompt_tokens"] for usage in usages)
    assert found[f"{ended}_cache_read_input_tokens_total"] == cached
    assert found[f"{ended}_output_tokens_total"] == 8
    for name, spec in GEN_AI.items():
        if spec.kind == "histogram":
            assert found[f"{name}_count"] == 2
            assert found[f"{name}_sum"] > 0
        else:
            assert name in found
