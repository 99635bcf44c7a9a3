"""Each kind of cache layer over two ranks: the answer is one process's, cold and from both disks after a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from semanticd.domain.errors import ModelLoadError
from tests.fakes.ranked_daemon import RankedDaemon, ask, settings
from tests.fakes.tiny_families import write_tiny_family
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon

pytestmark = pytest.mark.timeout(900)


# Plain attention, a sliding window with experts, a recurrent state; and one that is stored in 8 bits.
@pytest.mark.parametrize(
    ("family", "kv_bits"), [("llama", None), ("gpt_oss", None), ("qwen3_5", None), ("llama", 8)]
)
async def test_two_ranks_answer_as_one_process(family: str, kv_bits: int | None, tmp_path: Path) -> None:
    model = write_tiny_family(tmp_path / "model", family)
    async with WholeDaemon(tmp_path / "one", model=model, settings=settings(kv_bits)) as alone:
        expected, _ = await ask(alone)
    for restart in range(2):
        async with RankedDaemon(
            tmp_path / "two", model=model, settings=settings(kv_bits), world_size=2
        ) as daemon:
            said, num_computed = await ask(daemon)
            assert said == expected
            assert restart == 0 or num_computed <= 40
            await daemon.written()


async def test_one_rank_is_the_same_path_without_a_ring(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    async with WholeDaemon(tmp_path / "one", model=model, settings=settings()) as alone:
        expected, _ = await ask(alone)
    for restart in range(2):
        async with RankedDaemon(tmp_path / "ranks", model=model, settings=settings(), world_size=1) as daemon:
            said, num_computed = await ask(daemon)
            assert said == expected
            assert restart == 0 or num_computed <= 1
            await daemon.written()


async def test_what_cannot_be_spread_is_refused_before_any_rank_is_asked(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    daemon = RankedDaemon(tmp_path / "ranks", model=model, world_size=3)
    daemon.parts.engine.start()
    try:
        with pytest.raises(ModelLoadError, match="4 attention heads, which 3 does not divide"):
            await daemon.parts.models.load(str(model))
    finally:
        await daemon.__aexit__()


async def test_kv_takes_what_the_machine_with_the_least_room_has(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    daemon = RankedDaemon(tmp_path / "ranks", model=model, world_size=2)
    small = replace(daemon.settings, mlx=replace(daemon.settings.mlx, cache_budget_mb=24))
    daemon.use_worker(1, small)
    async with daemon:
        assert daemon.parts.store.ledger().budget_bytes == 24 << 20
        await ask(daemon)


async def test_a_worker_with_another_model_is_refused_by_name(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    other = write_tiny_model(tmp_path / "other" / "model", seed=7)
    daemon = RankedDaemon(tmp_path / "ranks", model=model, world_size=2)
    own = replace(daemon.settings, mlx=replace(daemon.settings.mlx, model_id=str(other)))
    daemon.use_worker(1, own)
    with pytest.raises(ModelLoadError, match="rank 1 has another model under this name"):
        await daemon.__aenter__()
