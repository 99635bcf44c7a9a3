"""One model over three ranks: real processes, a real ring on 127.0.0.1; answers are those of one process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from semanticd.adapters.config import Settings
from semanticd.adapters.telemetry.catalogue import PREFIX
from tests.fakes.asgi_client import Answer
from tests.fakes.ranked_daemon import RankedDaemon, eventually
from tests.fakes.tiny_folder import Shape, write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon

pytestmark = pytest.mark.timeout(900)

SHAPE = Shape(hidden=192, heads=6, kv_heads=3, mlp=192)
SEA = "Tell me of the sea, and of the people who live by it. " * 12
HILLS = "What lies behind the hills, and who went there? " * 12
LONG = "How many words would there be if each of them were said? " * 400
DRAWN = {
    "model": "default",
    "messages": [{"role": "user", "content": SEA}],
    "max_tokens": 24,
    "temperature": 0.8,
    "seed": 7,
}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["sea", "sky"]}}}
SMALL_BLOCKS = Settings(mlx=replace(Settings().mlx, block_tokens=64))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", shape=SHAPE, ends=False)


_alone: dict[str, str] = {}


@pytest.fixture
async def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one process answers; asked once."""
    if not _alone:
        home = tmp_path_factory.mktemp("alone")
        async with WholeDaemon(home, model=model, settings=SMALL_BLOCKS) as daemon:
            _alone["sea"] = said(await daemon.chat(SEA, agent="sea", max_tokens=24))
            _alone["hills"] = said(await daemon.chat(HILLS, agent="hills", max_tokens=24))
            _alone["more"] = said(await next_turn(daemon, SEA, _alone["sea"], agent="sea"))
            _alone["drawn"] = said(await daemon.client.post("/v1/chat/completions", DRAWN))
            _alone["formed"] = said(await daemon.chat(SEA, agent="f", max_tokens=24, response_format=FORM))
    return _alone


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(answer: Answer) -> str:
    assert answer.status == 200, answer.content
    text: str = answer.json["choices"][0]["message"]["content"]
    return text


async def next_turn(daemon: WholeDaemon, first: str, answer: str, *, agent: str) -> Answer:
    messages = [user(first), {"role": "assistant", "content": answer}, user("And then?")]
    body = {"model": "default", "messages": messages, "max_tokens": 24, "temperature": 0}
    return await daemon.client.post("/v1/chat/completions", body, headers={"x-session-id": agent})


def cached(answer: Answer) -> tuple[int, int]:
    """Return how many prompt tokens came from the cache, and how many there were."""
    usage = answer.json["usage"]
    return usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]


async def test_answers_are_those_of_one_process_and_agents_resume_after_all_ranks_restart(
    model: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    async with RankedDaemon(tmp_path, model=model, settings=SMALL_BLOCKS) as daemon:
        sea, hills = await asyncio.gather(
            daemon.chat(SEA, agent="sea", max_tokens=24), daemon.chat(HILLS, agent="hills", max_tokens=24)
        )
        assert [said(sea), said(hills)] == [alone["sea"], alone["hills"]]
        assert said(await daemon.client.post("/v1/chat/completions", DRAWN)) == alone["drawn"]
        assert said(await daemon.chat(SEA, agent="f", max_tokens=24, response_format=FORM)) == alone["formed"]
        refused = await daemon.client.post("/v1/embeddings", {"model": "default", "input": "a text"})
        assert refused.status == 400, refused.content
        await daemon.written()
        status = (await daemon.client.get("/health/ready")).status
        ranks = (await daemon.parts.status.snapshot()).ranks
        assert (status, [one.state for one in ranks]) == (200, ["ready"] * 3)
        assert all(one.memory_bytes and one.sent_bytes and one.received_bytes for one in ranks)
        samples = await daemon.samples()
        for name in ("rank_ready", "rank_memory_bytes", "rank_step_seconds"):
            assert all(samples[PREFIX + name, (("rank", str(rank)),)] > 0 for rank in range(3)), name
        assert samples[PREFIX + "rank_bytes_total", (("direction", "sent"), ("rank", "1"))] > 0
    async with RankedDaemon(tmp_path, model=model, settings=SMALL_BLOCKS) as daemon:
        again = await next_turn(daemon, SEA, alone["sea"], agent="sea")
        found, whole = cached(again)
        assert said(again) == alone["more"]
        assert whole - found < 40
        same = await daemon.chat(HILLS, agent="hills", max_tokens=24)
        assert said(same) == alone["hills"]
        assert cached(same)[1] - cached(same)[0] <= 1


async def test_what_is_deleted_leaves_a_worker_that_was_away(model: Path, tmp_path: Path) -> None:
    async with RankedDaemon(tmp_path, model=model, settings=SMALL_BLOCKS) as daemon:
        await daemon.chat(SEA, agent="sea", max_tokens=4)
        await daemon.chat(HILLS, agent="hills", max_tokens=4)
        await daemon.written()
        here, away = daemon.workers
        before = names_of(away.cache_dir)
        assert before == names_of(here.cache_dir)
        assert (await daemon.client.send("DELETE", "/v1/agents/sea")).status in (200, 204)
        await eventually(lambda: names_of(here.cache_dir) < before and names_of(away.cache_dir) < before)
        left = names_of(away.cache_dir)
        await asyncio.to_thread(away.process.close)
        await daemon.lost()
        assert (await daemon.client.send("DELETE", "/v1/agents/hills")).status in (200, 204)
        away.restart()
        await daemon.serves()
        await eventually(lambda: not names_of(away.cache_dir))
        assert left


def names_of(folder: Path) -> set[str]:
    return {path.stem for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_a_worker_that_is_killed_fails_what_runs_and_comes_back(
    phase: str, model: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    async with RankedDaemon(tmp_path, model=model, settings=SMALL_BLOCKS) as daemon:
        assert said(await daemon.chat(SEA, agent="sea", max_tokens=24)) == alone["sea"]
        await daemon.written()
        tokens = 4000 if phase == "decode" else 4
        running = asyncio.create_task(daemon.chat(LONG, agent="long", max_tokens=tokens))
        engine = daemon.parts.status.engine
        if phase == "prefill":
            await eventually(lambda: engine().num_prefilling == 1, deadline_s=60)
        else:
            await eventually(lambda: engine().batch_size == 1, deadline_s=120)
        daemon.workers[1].kill()
        failed = await asyncio.wait_for(running, 120)
        assert failed.status == 503, failed.content
        assert "lost their connection" in failed.json["error"]["message"]
        assert [(one.kind, one.code) for one in daemon.parts.outcomes.recent()] == [("failed", "ranks_lost")]
        assert (await daemon.client.get("/health/live")).status == 200
        await daemon.serves()
        again = await next_turn(daemon, SEA, alone["sea"], agent="sea")
        assert said(again) == alone["more"]
        found, whole = cached(again)
        assert whole - found < 40
        assert (await daemon.client.get("/health/ready")).status == 200
        assert (await daemon.samples())[PREFIX + "ranks_lost_total", ()] == 1


async def test_a_worker_that_hangs_ends_what_runs_at_the_time_limit(
    model: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    async with RankedDaemon(tmp_path, model=model, settings=SMALL_BLOCKS, limit_s=10) as daemon:
        # A short prompt: reading a long one may take as long on a busy machine.
        running = asyncio.create_task(daemon.chat(SEA, agent="long", max_tokens=4000))
        await eventually(lambda: daemon.parts.status.engine().batch_size == 1, deadline_s=120)
        daemon.workers[0].pause()
        failed = await asyncio.wait_for(running, 120)
        assert failed.status == 503, failed.content
        ready = await daemon.client.get("/health/ready")
        assert ready.status == 503, ready.content
        await eventually(lambda: not daemon.parts.engine.models)
        turned_away = await daemon.chat(SEA, agent="sea")
        assert turned_away.status == 503, turned_away.content
        assert "rank 1 (127.0.0.1) has not joined" in turned_away.json["error"]["message"]
        assert [one.kind for one in daemon.parts.outcomes.recent()] == ["refused", "failed"]
        daemon.workers[0].kill()
        await daemon.serves()
        assert said(await daemon.chat(SEA, agent="sea", max_tokens=24)) == alone["sea"]


@pytest.mark.parametrize(("harm", "cause"), [("missing", "files_missing"), ("damaged", "files_damaged")])
async def test_a_shard_that_a_worker_lacks_is_computed_again_and_is_the_cause_of_the_miss(
    harm: str, cause: str, model: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    async with RankedDaemon(tmp_path, model=model, settings=SMALL_BLOCKS) as daemon:
        assert said(await daemon.chat(SEA, agent="sea", max_tokens=24)) == alone["sea"]
        await daemon.written()
        folder = daemon.workers[0].cache_dir
    files = sorted(folder.rglob("*.safetensors"))
    assert files
    for file in files[: len(files) // 2 + 1]:
        if harm == "missing":
            file.unlink()
        else:
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)
    async with RankedDaemon(tmp_path, model=model, settings=SMALL_BLOCKS) as daemon:
        again = await next_turn(daemon, SEA, alone["sea"], agent="sea")
        assert said(again) == alone["more"]
        found, whole = cached(again)
        assert whole - found >= 40
        (*_, turn) = (await daemon.parts.agents.why("sea")).turns
        assert turn.turn.miss is not None
        assert turn.turn.miss.cause == cause
        await daemon.written()
    async with RankedDaemon(tmp_path, model=model, settings=SMALL_BLOCKS) as daemon:
        healed = await next_turn(daemon, SEA, alone["sea"], agent="sea")
        assert said(healed) == alone["more"]
        assert cached(healed)[1] - cached(healed)[0] <= 1
