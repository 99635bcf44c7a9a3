"""Vectors through the whole daemon: the same alone, in a batch and during another answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.asgi_client import until
from tests.fakes.engine_rig import wait_until
from tests.fakes.tiny_families import write_tiny_family
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon

LONG = "the time that people made for water and words " * 60
TEXTS = ["the water", "which words are long", LONG, "<|im_end|> is text"]


async def vectors_of(daemon: WholeDaemon, given: Any, **more: Any) -> np.ndarray:
    answer = await daemon.client.post("/v1/embeddings", {"model": "default", "input": given, **more})
    assert answer.status == 200, answer.content
    return np.array([one["embedding"] for one in answer.json["data"]])


def stand_still_until_two_ask(daemon: WholeDaemon) -> None:
    """Let the next answer wait, with its first step, for another request."""
    runner: Any = next(iter(daemon.parts.engine.models.values())).runner
    decode = runner.decode

    def beside(*given: Any) -> Any:
        wait_until(lambda: daemon.parts.engine.num_unanswered == 2, "another request")
        runner.decode = decode
        return decode(*given)

    runner.decode = beside


@pytest.mark.parametrize("family", ["llama", "qwen3_next"])
async def test_vectors_are_the_same_alone_together_and_beside_an_answer(tmp_path: Path, family: str) -> None:
    async with WholeDaemon(tmp_path, model=write_tiny_family(tmp_path / "model", family)) as daemon:
        alone = np.concatenate([await vectors_of(daemon, [text]) for text in TEXTS])
        np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1.0, atol=1e-5)
        np.testing.assert_allclose(await vectors_of(daemon, TEXTS), alone, atol=1e-4)
        expected = (await daemon.chat("count", agent="a", max_tokens=60, ignore_eos=True)).json
        await daemon.client.post("/v1/agents/a/evict", {})
        stand_still_until_two_ask(daemon)
        asking = asyncio.ensure_future(daemon.chat("count", agent="b", max_tokens=60, ignore_eos=True))
        beside = await vectors_of(daemon, TEXTS)
        np.testing.assert_allclose(beside, alone, atol=1e-4)
        answer = (await asking).json
        assert answer["choices"][0]["message"] == expected["choices"][0]["message"]
        assert answer["usage"]["completion_tokens"] == 60


async def test_a_folder_says_what_is_pooled_and_ollama_gets_the_same_vector(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    async with WholeDaemon(tmp_path / "mean", model=model) as daemon:
        (mean,) = await vectors_of(daemon, "the water")
        (short,) = await vectors_of(daemon, "the water", dimensions=4)
        np.testing.assert_allclose(short, mean[:4] / np.linalg.norm(mean[:4]), atol=1e-5)
        body = {"model": "default", "input": ["the water"]}
        answer = await daemon.client.post("/api/embed", body)
        np.testing.assert_allclose(answer.json["embeddings"][0], mean, atol=1e-6)
        refused = await daemon.client.post("/v1/embeddings", {**body, "dimensions": 999})
        assert (refused.status, refused.json["error"]["param"]) == (400, "dimensions")
        agents = (await daemon.client.get("/v1/agents")).json
        assert agents["data"] == [], "no agent is left behind"
    (model / "1_Pooling").mkdir()
    settings = {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}
    (model / "1_Pooling" / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    async with WholeDaemon(tmp_path / "last", model=model) as daemon:
        (last,) = await vectors_of(daemon, "the water")
    assert np.abs(last - mean).max() > 1e-3


async def test_a_client_that_hangs_up_ends_the_work(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    async with WholeDaemon(tmp_path, model=model) as daemon:
        leave, vectors = asyncio.Event(), []
        runner = next(iter(daemon.parts.engine.models.values())).runner
        compute = runner.embed_part

        def counting(*given: Any, **more: Any) -> bytes | None:
            vector = compute(*given, **more)
            vectors.extend([vector] if vector else [])
            return vector

        runner.embed_part = counting  # type: ignore[method-assign]
        body = {"model": "default", "input": [LONG] * 300}
        asking = asyncio.ensure_future(daemon.client.post("/v1/embeddings", body, leave=leave))
        await until(lambda: daemon.parts.engine.num_unanswered == 1)
        leave.set()
        await asking
        await until(lambda: daemon.parts.engine.num_unanswered == 0)
        assert len(vectors) < 300
        assert daemon.parts.engine.call(runner.running_bytes).result(60) == 0
        assert "http_request_failed" not in daemon.log.events("error")
        assert (await vectors_of(daemon, "the water")).shape == (1, 128)
