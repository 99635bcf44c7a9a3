"""Texts to vectors through the service: read, bounded, computed, and forgotten."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from semanticd.application.generation import embedding as embedding_module
from semanticd.application.generation.embedding import EmbeddingRequest, Embeddings
from semanticd.domain.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    PromptTooLongError,
    QueueFullError,
    RequestTooLargeError,
)
from semanticd.domain.ids import RequestId
from semanticd.domain.limits import LIMITS, Limits
from tests.fakes.engine_rig import wait_until
from tests.fakes.model_runner import vector_of
from tests.fakes.service_rig import ServiceRig
from tests.fakes.tokenizer import EOS, CharTokenizer


def ids(text: str) -> list[int]:
    return [*CharTokenizer().encode(text), EOS]


async def embed(rig: ServiceRig, *texts: Any, name: str = "e", **more: Any) -> Embeddings:
    request = EmbeddingRequest(RequestId(name), more.pop("model", ""), texts, **more)
    return await asyncio.wait_for(rig.embedding.embed(request), 60)


async def test_texts_and_ids_become_vectors_and_are_counted() -> None:
    async with ServiceRig() as rig:
        made = await embed(rig, "hello", (4, 5), model="one")
        assert made.model_id == "one"
        assert made.vectors == (vector_of(ids("hello")), vector_of((4, 5)))
        assert made.num_tokens == 8
        key = ("gen_ai_client_inference_usage_input_tokens_total", "embeddings", "semanticd", "one")
        assert rig.engine_rig.metrics.counters[key] == 8
        assert not rig.store.ledger().hot_bytes


async def test_what_cannot_be_embedded_is_refused_with_its_text() -> None:
    async with ServiceRig(context_length=64) as rig:
        for text in ("", ()):
            with pytest.raises(InvalidRequestError, match="empty") as refused:
                await embed(rig, "a", text)
            assert refused.value.param == "input.1"
        with pytest.raises(InvalidRequestError, match="vocabulary"):
            await embed(rig, (10**9,))
        with pytest.raises(PromptTooLongError):
            await embed(rig, "a" * 64)
        with pytest.raises(PromptTooLongError):
            await embed(rig, "a" * (LIMITS.prompt_characters_per_token * 65))
        with pytest.raises(ModelNotFoundError):
            await embed(rig, "a", model="nothing")
        with pytest.raises(InvalidRequestError, match="dimensions"):
            await embed(rig, "a", dimensions=5)
        assert (await embed(rig, "a" * 63)).num_tokens == 64


async def test_a_text_that_is_too_long_is_cut_where_the_client_wants_that() -> None:
    async with ServiceRig(context_length=64) as rig:
        made = await embed(rig, "a" * 10_000, truncate=True)
        assert made.vectors == (vector_of(ids("a" * 64)[:64]),)


async def test_all_texts_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_module, "LIMITS", Limits(embedding_tokens=10))
    async with ServiceRig() as rig:
        assert (await embed(rig, "aaaa", "aaaa")).num_tokens == 10
        with pytest.raises(RequestTooLargeError, match="at most 10 tokens"):
            await embed(rig, "aaaa", "aaaaa")


async def test_whoever_stops_waiting_ends_the_work_and_gives_everything_back() -> None:
    async with ServiceRig(max_queue=1) as rig:
        rig.runner.before = lambda operation: time.sleep(0.002)
        asking = asyncio.ensure_future(embed(rig, *["a" * 600] * 400))
        await asyncio.to_thread(wait_until, lambda: rig.runner.calls["embed_part"] > 2)
        with pytest.raises(QueueFullError):
            await embed(rig, "a", name="f")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.to_thread(wait_until, lambda: rig.engine.num_unanswered == 0)
        assert rig.runner.num_open == 0
        await rig.models.unload("one")
