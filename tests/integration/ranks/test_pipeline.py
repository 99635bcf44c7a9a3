"""Models whose heads ranks cannot share, over two ranks with a range of layers each: the answer is one process's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from semanticd.domain.errors import ModelLoadError
from tests.fakes.ranked_daemon import RankedDaemon, ask, eventually, settings
from tests.fakes.tiny_families import WINDOW, write_tiny_family
from tests.fakes.whole_daemon import WholeDaemon

pytestmark = pytest.mark.timeout(900)

LONG = "How many words would there be if each of them were said? " * 200
ODD_HEADS: dict[str, Any] = {"num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 96}
SLIDING: dict[str, Any] = {
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "rope_parameters": {
        "rope_theta": 10000.0,
        "rope_type": "default",
        "llama_4_scaling_beta": 0.1,
        "original_max_position_embeddings": 4096,
    },
}


# Plain attention, latents, a sliding window beside full attention, a recurrent state beside it; and 8 bits.
@pytest.mark.parametrize(
    ("family", "config", "kv_bits"),
    [
        ("qwen2", ODD_HEADS, None),
        ("qwen2", ODD_HEADS, 8),
        ("deepseek_v2", {}, None),
        ("ministral3", SLIDING, None),
        ("qwen3_next", {}, None),
    ],
)
async def test_two_ranks_answer_as_one_process(
    family: str, config: dict[str, Any], kv_bits: int | None, tmp_path: Path
) -> None:
    model = write_tiny_family(tmp_path / "model", family, **config)
    async with WholeDaemon(tmp_path / "one", model=model, settings=settings(kv_bits)) as alone:
        expected, _ = await ask(alone)
    for restart in range(2):
        async with RankedDaemon(
            tmp_path / "two", model=model, settings=settings(kv_bits), world_size=2
        ) as daemon:
            (loaded,) = daemon.parts.engine.models.values()
            assert loaded.description["spread"] == "pipeline"
            said, num_computed = await ask(daemon)
            assert said == expected
            assert restart == 0 or num_computed <= 40
            await daemon.written()


async def test_layers_of_different_kinds_that_are_not_on_all_ranks_are_refused(tmp_path: Path) -> None:
    one_kind_each = {**SLIDING, "layer_types": ["sliding_attention"] * 2 + ["full_attention"] * 2}
    model = write_tiny_family(tmp_path / "model", "ministral3", **one_kind_each)
    daemon = RankedDaemon(tmp_path / "two", model=model, settings=settings(), world_size=2)
    with pytest.raises(ModelLoadError, match="would not have layers of each"):
        await daemon.__aenter__()


async def test_a_worker_that_is_killed_in_decode_comes_back_to_a_warm_cache(tmp_path: Path) -> None:
    model = write_tiny_family(tmp_path / "model", "deepseek_v2")
    async with RankedDaemon(tmp_path / "two", model=model, settings=settings(), world_size=2) as daemon:
        said, _ = await ask(daemon)
        await daemon.written()
        running = asyncio.create_task(daemon.chat(LONG, agent="long", max_tokens=4000))
        await eventually(lambda: daemon.parts.status.engine().batch_size == 1, deadline_s=120)
        daemon.workers[0].kill()
        failed = await asyncio.wait_for(running, 120)
        assert (failed.status, "lost their connection" in failed.json["error"]["message"]) == (503, True)
        assert (await daemon.client.get("/health/live")).status == 200
        await daemon.serves()
        again, num_computed = await ask(daemon)
        assert again == said
        assert num_computed <= 40


async def test_a_range_of_layers_that_a_worker_lacks_is_computed_again(tmp_path: Path) -> None:
    model = write_tiny_family(tmp_path / "model", "deepseek_v2")
    async with RankedDaemon(tmp_path / "two", model=model, settings=settings(), world_size=2) as daemon:
        said, whole = await ask(daemon)
        await daemon.written()
    files = sorted(daemon.workers[0].cache_dir.rglob("*.safetensors"))
    assert files
    for file in files[: len(files) // 2 + 1]:
        file.unlink()
    computed: list[int] = []
    for _ in range(2):
        async with RankedDaemon(tmp_path / "two", model=model, settings=settings(), world_size=2) as daemon:
            again, num_computed = await ask(daemon)
            assert again == said
            computed.append(num_computed)
            await daemon.written()
    assert 40 < computed[0] <= whole
    assert computed[1] <= 40
