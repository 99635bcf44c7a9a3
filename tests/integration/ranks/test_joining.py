"""Ranks that are waited for, lost while a model loads, or needed again at once: real processes, a real ring."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.telemetry.catalogue import PREFIX
from semanticd.application.services.model_facts import UnloadedModel
from semanticd.domain.errors import ModelLoadError, ModelNotFoundError
from semanticd.domain.ids import ModelId
from tests.fakes.ranked_daemon import HeldLoading, RankedDaemon, Worker, eventually
from tests.fakes.tiny_folder import Shape, write_tiny_model

pytestmark = pytest.mark.timeout(600)

USER = {"role": "user", "content": "hello"}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/responses/input_tokens": {"input": "hello"},
    "/v1/embeddings": {"input": "hello"},
    "/v1/tokenize": {"messages": [USER]},
    "/v1/prefix/lookup": {"prompt": "hello"},
    "/v1/messages": {"messages": [USER], "max_tokens": 4},
    "/v1/messages/count_tokens": {"messages": [USER]},
    "/api/generate": {"prompt": "hello"},
    "/api/chat": {"messages": [USER]},
    "/api/embed": {"input": "hello"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return write_tiny_model(folder, shape=Shape(heads=4, kv_heads=2), ends=False)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "other"
    return write_tiny_model(folder, shape=Shape(heads=2, kv_heads=2), ends=False)


def held_daemon(load: HeldLoading, model: Path, home: Path) -> RankedDaemon:
    """Return a daemon of two ranks whose load of a model is held in the middle."""
    daemon = RankedDaemon(home, model=model, world_size=2, around_loader=load)
    load.has_formed = lambda: daemon.group.formation is not None
    return daemon


async def test_every_api_asks_to_try_again_while_the_first_ranks_are_waited_for(
    model: Path, tmp_path: Path
) -> None:
    daemon = RankedDaemon(tmp_path, model=model, world_size=2)
    async with daemon.waiting(with_workers=False) as loading:
        await eventually(lambda: daemon.group.missing() == [1])
        ready = (await daemon.client.get("/health/ready")).json
        reason = "rank 1 (127.0.0.1) has not joined"
        assert reason in str(ready)
        for path, body in ASKED.items():
            answer = await daemon.client.post(path, {"model": "default", **body})
            in_its_own_way = 529 if path.startswith("/v1/messages") else 503
            assert answer.status == in_its_own_way, (path, answer.content)
            assert answer.headers["retry-after"] == "5", path
            assert reason in answer.content.decode(), path
        assert not loading.done()


async def test_a_rank_that_is_lost_while_the_first_model_loads_is_waited_for(
    model: Path, tmp_path: Path
) -> None:
    load = HeldLoading()
    daemon = held_daemon(load, model, tmp_path)
    async with daemon.waiting(with_workers=True) as loading:
        await eventually(lambda: load.held.is_set() or loading.done(), deadline_s=180)
        assert not loading.done()
        daemon.workers[0].kill()
        load.go_on.set()
        await asyncio.wait_for(loading, 180)
        assert (await daemon.chat("hello", agent="a")).status == 200
        assert (await daemon.client.get("/health/ready")).status == 200
        assert (await daemon.samples())[PREFIX + "ranks_lost_total", ()] == 1


async def test_a_model_that_does_not_exist_is_refused_before_any_rank_is_waited_for(
    model: Path, tmp_path: Path
) -> None:
    daemon = RankedDaemon(tmp_path, model=model, world_size=2)
    async with daemon.waiting(with_workers=False, name="no-such-model") as loading:
        with pytest.raises(ModelNotFoundError, match="no-such-model"):
            await asyncio.wait_for(loading, 60)
        assert 1 in daemon.group.missing()


async def test_a_model_that_is_unloaded_while_its_first_ranks_are_waited_for_is_not_loaded(
    model: Path, tmp_path: Path
) -> None:
    daemon = RankedDaemon(tmp_path, model=model, world_size=2)
    async with daemon.waiting(with_workers=False) as loading:
        await eventually(lambda: daemon.parts.status.why_no_model().startswith("rank"))
        given_up = await daemon.parts.models.unload(str(model))
        assert given_up == UnloadedModel(ModelId(model.name), loaded=False)
        await asyncio.wait_for(loading, 60)
        assert not daemon.parts.engine.models


async def test_a_model_whose_rank_is_away_is_said_to_come_back_unless_its_user_unloads_it(
    model: Path, tmp_path: Path
) -> None:
    async with RankedDaemon(tmp_path, model=model, world_size=2) as daemon:
        (worker,) = daemon.workers
        await asyncio.to_thread(worker.process.close)
        await daemon.lost()
        await eventually(lambda: not daemon.parts.engine.models and daemon.group.missing() == [1])
        ready = (await daemon.client.get("/health/ready")).json
        snapshot = await daemon.parts.status.snapshot()
        assert snapshot.model_away is not None
        assert snapshot.model_away in str(ready)
        assert "lost their connection (rank 1 (127.0.0.1)" in snapshot.model_away
        assert [one.last_failure is None for one in snapshot.ranks] == [True, False]
        given_up = await daemon.parts.models.unload(model.name)
        assert given_up == UnloadedModel(ModelId(model.name), loaded=False)
        assert (await daemon.parts.status.snapshot()).model_away is None
        assert (await daemon.chat("hello", agent="a")).status == 404
        worker.restart()
        await eventually(lambda: not daemon.group.missing(), deadline_s=180)
        assert "ranks_serve_again" not in {line[1] for line in daemon.log.lines}
        await daemon.parts.models.load(str(model))
        assert (await daemon.chat("hello", agent="a")).status == 200


async def test_a_model_that_cannot_be_loaded_ends_the_waiting(model: Path, tmp_path: Path) -> None:
    differs = write_tiny_model(tmp_path / "tiny", shape=Shape(heads=4, kv_heads=2), seed=9)
    daemon = RankedDaemon(tmp_path / "ranks", model=model, world_size=2)
    own = replace(daemon.settings, mlx=replace(daemon.settings.mlx, model_id=str(differs)))
    daemon.use_worker(1, own)
    async with daemon.waiting(with_workers=True) as loading:
        with pytest.raises(ModelLoadError, match="rank 1 has another model"):
            await asyncio.wait_for(loading, 180)
        assert (await daemon.samples())[PREFIX + "ranks_lost_total", ()] == 0, "no machine was lost"
        refused = await daemon.chat("hello", agent="a")
        assert refused.status == 404, refused.content


async def test_the_daemon_s_end_while_a_model_loads_is_no_loss(model: Path, tmp_path: Path) -> None:
    load = HeldLoading()
    daemon = held_daemon(load, model, tmp_path)
    async with daemon.waiting(with_workers=True) as loading:
        await eventually(lambda: load.held.is_set() or loading.done(), deadline_s=180)
        assert not loading.done()
        loading.cancel()
        await asyncio.to_thread(daemon.parts.engine.stop)
        assert daemon.group.formation is None
        assert daemon.group.num_failures == 0
        assert "ranks_lost" not in {line[1] for line in daemon.log.lines}


async def test_one_model_at_a_time_and_the_next_waits_for_the_ranks(
    model: Path, other: Path, tmp_path: Path
) -> None:
    async with RankedDaemon(tmp_path, model=model, world_size=2) as daemon:
        for change in (daemon.parts.models.load, daemon.parts.models.swap):
            with pytest.raises(ModelLoadError, match="unload it first") as refused:
                await change(str(other))
            assert f"`semanticd models unload {model.name}`" in refused.value.message
        assert (await daemon.chat("hello", agent="a")).status == 200
        await daemon.parts.models.unload(str(model))
        refused_now = await daemon.chat("hello", agent="a")
        assert refused_now.status == 404, "nothing brings it back: its user unloaded it"
        await daemon.parts.models.load(str(other))
        assert (await daemon.chat("hello", agent="a")).status == 200
        assert (await daemon.samples())[PREFIX + "ranks_lost_total", ()] == 0


async def test_a_second_worker_of_a_rank_waits_until_the_first_one_ends(model: Path, tmp_path: Path) -> None:
    async with RankedDaemon(tmp_path, model=model, world_size=2) as daemon:
        second = Worker(tmp_path / "second", rank=1, port=daemon.port, settings=daemon.settings)
        second.process.start()
        try:
            await eventually(lambda: "rank_taken" in {line[1] for line in daemon.log.lines})
            answer = await daemon.chat("hello", agent="a")
            assert answer.status == 200, answer.content
            assert daemon.group.num_failures == 0
            formed = daemon.group.formation
            await asyncio.to_thread(daemon.workers[0].process.close)
            # The second one may have taken its place by now.
            await eventually(lambda: daemon.group.formation is not formed)
            await daemon.serves()
            assert (await daemon.chat("hello", agent="a")).status == 200
        finally:
            await asyncio.to_thread(second.process.close)
