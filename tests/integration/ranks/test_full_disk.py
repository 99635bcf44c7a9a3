"""A worker whose disk takes nothing more: answers stay right, and the daemon's log says which machine it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from semanticd.adapters.config import Settings
from tests.fakes.ranked_daemon import RankedDaemon
from tests.fakes.tiny_folder import Shape, write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon

pytestmark = pytest.mark.timeout(900)

SEA = "Tell me of the sea, and of the people who live by it. " * 12
HILLS = "What lies behind the hills, and who went there? " * 12
DEFAULTS = Settings()
SMALL_BLOCKS = replace(DEFAULTS, mlx=replace(DEFAULTS.mlx, block_tokens=64))
LITTLE_ROOM = replace(SMALL_BLOCKS, agent=replace(DEFAULTS.agent, cache_max_gb=0.0001))


async def answers(daemon: WholeDaemon) -> list[str]:
    found = []
    for agent, text in (("sea", SEA), ("hills", HILLS)):
        answer = await daemon.chat(text, agent=agent, max_tokens=24)
        assert answer.status == 200, answer.content
        found.append(answer.json["choices"][0]["message"]["content"])
    return found


async def test_a_worker_that_does_not_write_is_named_once_and_answers_stay_those_of_one_process(
    tmp_path: Path,
) -> None:
    model = write_tiny_model(tmp_path / "tiny", shape=Shape(heads=4, kv_heads=2), ends=False)
    async with WholeDaemon(tmp_path / "alone", model=model, settings=SMALL_BLOCKS) as alone:
        expected = await answers(alone)
    daemon = RankedDaemon(tmp_path / "ranked", model=model, world_size=2, settings=SMALL_BLOCKS)
    worker = daemon.use_worker(1, LITTLE_ROOM)
    async with daemon:
        assert await answers(daemon) == expected
        await daemon.written()
        reports = [fields for _, event, fields in daemon.log.lines if event == "rank_did_not_write"]
        assert [(one["rank"], one["reason"]) for one in reports] == [(1, "the cap is reached")]
        kept = {path.stem for path in worker.cache_dir.rglob("*.safetensors")}
    async with RankedDaemon(tmp_path / "ranked", model=model, world_size=2, settings=SMALL_BLOCKS) as again:
        assert await answers(again) == expected
    assert kept
