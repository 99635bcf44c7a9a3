"""Texts to vectors: read them in a worker thread, let the engine compute them between its steps, and wait."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Protocol

from semanticd.application.engine.embedding_job import HOLDER, EmbeddingJob
from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.generation.places import ReadingPlaces
from semanticd.application.generation.prompt_size import check_size, check_vocabulary
from semanticd.application.ports.inference import LoadedModel
from semanticd.application.ports.telemetry import GEN_AI_PROVIDER, Clock, Metrics
from semanticd.application.services.model_routing import ModelRouting
from semanticd.domain.chat import TextPrompt
from semanticd.domain.errors import InvalidRequestError, PromptTooLongError, RequestTooLargeError
from semanticd.domain.ids import AgentId, ModelId, RequestId
from semanticd.domain.limits import LIMITS

Text = str | tuple[int, ...]
"""A text, or its token ids."""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """The input of an embedding request."""

    request_id: RequestId
    model: str
    texts: tuple[Text, ...]
    dimensions: int | None = None
    """Leading numbers of each vector that are wanted; None: all."""
    truncate: bool = False
    """Whether a text that is longer than the model's context is cut, instead of being refused."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A vector for each text (float32, little-endian, of length one), and the tokens of all texts."""

    model_id: ModelId
    vectors: tuple[bytes, ...]
    num_tokens: int


class Embedder(Protocol):
    """Texts to vectors; `EmbeddingService` below is the real one."""

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return the vectors.

        Raises:
            SemanticError: The model is unknown, a text is too long, the queue is full, ...
        """


class EmbeddingService:
    """Embeds with loaded models, in slices between the engine's other work."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        routing: ModelRouting,
        places: ReadingPlaces,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """Embed on this engine; texts are read for as many requests as `places` has."""
        self._engine = engine
        self._routing = routing
        self._places = places
        self._clock = clock
        self._metrics = metrics

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return the vectors; see the protocol. Cancelling the call ends the work."""
        began = self._clock.monotonic()
        async with contextlib.AsyncExitStack() as leased:
            with self._places.take(None, 1, holder=HOLDER) as taken:
                # The model stays until the vectors are there, the place until the engine has the texts.
                model = await leased.enter_async_context(self._routing.lease(request.model))
                texts = await asyncio.to_thread(_read, model, request)
                job = EmbeddingJob(
                    request_id=request.request_id,
                    agent_id=AgentId(request.request_id),
                    model_id=model.model_id,
                    texts=texts,
                    dimensions=request.dimensions,
                )
                self._engine.embed(job)
                taken.used(1)
            vectors = await asyncio.wrap_future(job.vectors)
        num_tokens = sum(map(len, texts))
        labels = {
            "gen_ai_operation_name": "embeddings",
            "gen_ai_provider_name": GEN_AI_PROVIDER,
            "gen_ai_response_model": str(model.model_id),
        }
        self._metrics.observe(
            "gen_ai_server_request_duration_seconds", self._clock.monotonic() - began, **labels
        )
        self._metrics.count("gen_ai_client_inference_usage_input_tokens_total", num_tokens, **labels)
        return Embeddings(model.model_id, vectors, num_tokens)


def _read(model: LoadedModel, request: EmbeddingRequest) -> tuple[tuple[int, ...], ...]:
    """Return the texts' ids.

    Raises:
        SemanticError: The request itself is invalid.
    """
    texts, left = [], LIMITS.embedding_tokens
    for index, text in enumerate(request.texts):
        ids = _ids(model, text, truncate=request.truncate, param=f"input.{index}")
        left -= len(ids)
        if left < 0:
            raise RequestTooLargeError(
                f"expected at most {LIMITS.embedding_tokens} tokens in all texts together; send several requests",
                param="input",
            )
        texts.append(ids)
    return tuple(texts)


def _ids(model: LoadedModel, text: Text, *, truncate: bool, param: str) -> tuple[int, ...]:
    context = model.context_length
    if isinstance(text, str):
        if truncate:
            text = text[: context * LIMITS.prompt_characters_per_token]
        check_size(TextPrompt(text), context)
        ids = tuple(model.tokenizer.embedding_ids(text)) if text else ()
    else:
        check_vocabulary(text, model.tokenizer.vocab_size, param=param)
        ids = text
    if not ids:
        raise InvalidRequestError("the text is empty", param=param)
    if len(ids) > context and not truncate:
        raise PromptTooLongError(num_tokens=len(ids), maximum=context)
    return ids[:context]
