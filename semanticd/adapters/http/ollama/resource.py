"""The Ollama dialect's resources: chat and generate, the models' catalogue, and fetching and deleting for operators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, ClassVar

import msgspec
from falcon.asgi import Request, Response

from semanticd.adapters.http.core.body import read_object, translated
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.errors import body as error_body
from semanticd.adapters.http.core.errors import foreseen
from semanticd.adapters.http.core.gateway import Gateway
from semanticd.adapters.http.core.request_context import (
    agent_id_of,
    priority_of,
    request_context_of,
    show_cache,
)
from semanticd.adapters.http.core.routes import Access
from semanticd.adapters.http.core.services import by_their_names, named_model
from semanticd.adapters.http.core.vectors import as_numbers, written
from semanticd.adapters.http.ollama import catalogue, wire
from semanticd.adapters.http.ollama.parse import model_name, only_loads, parse, texts_of
from semanticd.adapters.http.ollama.render import OllamaStream, Shape, line, loaded, render
from semanticd.application.generation.embedding import EmbeddingRequest, Embeddings
from semanticd.application.ports.models import PullProgress
from semanticd.application.services.models import ModelsService
from semanticd.domain.chat import TextPrompt
from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.ids import ModelId

API_LEVEL = "0.12.0"
"""The version of Ollama whose API this is: clients refuse older ones. The answer names our own version too."""
NDJSON = "application/x-ndjson"


class Generations:
    """`POST /api/chat` and `/api/generate`, streaming unless `stream` is false."""

    access: ClassVar[Access] = "key"

    def __init__(self, gateway: Gateway, config: HttpConfig, *, wall: Callable[[], float]) -> None:
        """Answer through a gateway; `wall` gives the date of an answer."""
        self._gateway = gateway
        self._config = config
        self._wall = wall

    async def on_post_chat(self, req: Request, resp: Response) -> None:
        """Continue a conversation."""
        body = await read_object(req, wire.ChatRequest, self._config)
        if len(body.messages or ()) > self._config.max_messages:
            raise InvalidRequestError(
                f"expected at most {self._config.max_messages} messages", param="messages"
            )
        await self._answer(req, resp, body, "chat")

    async def on_post_generate(self, req: Request, resp: Response) -> None:
        """Continue a text, or answer a single message."""
        await self._answer(req, resp, await read_object(req, wire.GenerateRequest, self._config), "generate")

    async def _answer(
        self, req: Request, resp: Response, body: wire.ChatRequest | wire.GenerateRequest, shape: Shape
    ) -> None:
        exchange = request_context_of(req)
        if only_loads(body):
            name = model_name(body.model)
            # Counting asks the model, which loads it where requests may.
            await self._gateway.count_tokens(name, TextPrompt(" "))
            answer = loaded(name, shape, created_at=self._wall())
            resp.data = msgspec.json.encode(answer)
            return
        reading = partial(
            parse,
            body,
            request_id=exchange.request_id,
            agent_id=agent_id_of(req),
            priority=priority_of(req),
        )
        request = await translated(req, reading)
        if body.stream is not False:
            await self._gateway.respond(resp, exchange, request, OllamaStream(shape, created_at=self._wall()))
            resp.content_type = NDJSON
            return
        result = await self._gateway.complete(exchange, request)
        show_cache(resp, result.usage.cache)
        resp.data = msgspec.json.encode(render(result, shape, created_at=self._wall()))


class Vectors:
    """`POST /api/embed` and `/api/embeddings`."""

    access: ClassVar[Access] = "key"

    def __init__(self, gateway: Gateway, config: HttpConfig, *, monotonic: Callable[[], float]) -> None:
        """Embed through a gateway; `monotonic` times the answer."""
        self._gateway = gateway
        self._config = config
        self._monotonic = monotonic

    async def on_post_embed(self, req: Request, resp: Response) -> None:
        """Answer with a vector for each text."""
        began = self._monotonic()
        body = await read_object(req, wire.EmbedRequest, self._config)
        name = model_name(body.model)
        texts = texts_of(body.input)
        made = await self._embed(
            req, name, texts, dimensions=body.dimensions, truncate=body.truncate is not False
        )
        seconds = self._monotonic() - began

        def answer() -> dict[str, Any]:
            return {
                "model": name,
                "embeddings": [as_numbers(vector) for vector in made.vectors],
                "total_duration": round(seconds * 1e9),
                "load_duration": 0,
                "prompt_eval_count": made.num_tokens,
            }

        resp.data = await written(made.vectors, answer)

    async def on_post_embeddings(self, req: Request, resp: Response) -> None:
        """Answer with the vector of one text."""
        body = await read_object(req, wire.EmbeddingsRequest, self._config)
        made = await self._embed(req, model_name(body.model), texts_of(body.prompt), truncate=True)
        numbers = as_numbers(made.vectors[0]) if made.vectors else []
        resp.data = msgspec.json.encode({"embedding": numbers})

    async def _embed(
        self,
        req: Request,
        name: str,
        texts: tuple[str, ...],
        *,
        truncate: bool,
        dimensions: int | None = None,
    ) -> Embeddings:
        if not texts:
            # Counting asks the model, which loads it where requests may.
            await self._gateway.count_tokens(name, TextPrompt(" "))
            return Embeddings(ModelId(name), (), 0)
        request_id = request_context_of(req).request_id
        return await self._gateway.embed(
            EmbeddingRequest(request_id, name, texts, dimensions=dimensions, truncate=truncate)
        )


class Catalogue:
    """`/api/tags`, `/api/ps`, `/api/show` and `/api/version`."""

    access: ClassVar[Access] = "key"

    def __init__(self, models: ModelsService, config: HttpConfig) -> None:
        self._models = models
        self._config = config

    async def on_get_tags(self, req: Request, resp: Response) -> None:
        """List the models that answer now: a client takes any of these names for granted."""
        loaded = by_their_names(model for model in await self._models.list() if model.loaded)
        found = [catalogue.entry(model) for model in loaded]
        resp.data = msgspec.json.encode({"models": found})

    async def on_get_ps(self, req: Request, resp: Response) -> None:
        """List the loaded models."""
        found = [catalogue.running(model) for model in await self._models.list() if model.loaded]
        resp.data = msgspec.json.encode({"models": found})

    async def on_post_show(self, req: Request, resp: Response) -> None:
        """Describe a model."""
        body = await read_object(req, wire.ModelRequest, self._config)
        name = model_name(body.model or body.name)
        model = await named_model(self._models, name, patterns=self._config.model_patterns)
        resp.data = msgspec.json.encode(catalogue.description(model))

    async def on_get_version(self, req: Request, resp: Response) -> None:
        """Return the version of the API."""
        resp.data = msgspec.json.encode({"version": API_LEVEL, "semanticd": self._config.version})


class Files:
    """`POST /api/pull` and `DELETE /api/delete`: they change the machine's disk, so that they are an operator's."""

    access: ClassVar[Access] = "admin"

    def __init__(self, models: ModelsService, config: HttpConfig) -> None:
        self._models = models
        self._config = config

    async def on_post_pull(self, req: Request, resp: Response) -> None:
        """Fetch a model; progress comes as lines, unless `stream` is false."""
        body = await read_object(req, wire.ModelRequest, self._config)
        name = model_name(body.model or body.name)
        pulling = _Pull(self._models, name)
        request_context_of(req).on_end(pulling.leave)
        if body.stream is False:
            await pulling.end()
            resp.data = msgspec.json.encode({"status": "success"})
            return
        await pulling.begin()
        resp.content_type = NDJSON
        resp.stream = pulling.lines()

    async def on_delete_delete(self, req: Request, resp: Response) -> None:
        """Delete a model's files."""
        body = await read_object(req, wire.ModelRequest, self._config)
        await self._models.remove(model_name(body.model or body.name))


class _Pull:
    """A download and its progress lines; a client that disconnects does not end it, as with Ollama."""

    def __init__(self, models: ModelsService, name: str) -> None:
        self._name = name
        self._progress: asyncio.Queue[PullProgress | None] = asyncio.Queue(maxsize=64)
        self._task = asyncio.ensure_future(models.pull(name, self._report))
        self._task.add_done_callback(lambda _: self._offer(None))
        self._first: PullProgress | None = None

    async def end(self) -> None:
        """Wait until the pull has ended; a caller that stops waiting does not stop it.

        Raises:
            Exception: The error that ended the download.
        """
        await asyncio.shield(self._task)

    async def begin(self) -> None:
        """Wait until the pull makes progress or has ended.

        Raises:
            Exception: The error that ended the download, while a status can still be sent.
        """
        self._first = await self._progress.get()
        if self._first is None and self._task.exception() is not None:
            await self._task

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the progress and the end."""
        yield line({"status": "pulling manifest"})
        current = self._first
        while current is not None:
            yield line(self._line(current))
            current = await self._progress.get()
        try:
            await self.end()
        except Exception as error:  # noqa: BLE001 (the status is gone: the client hears of it in a line)
            yield line(error_body(foreseen(error), "ollama", request_id=""))
            return
        yield line({"status": "success"})

    async def leave(self) -> None:
        """Run the download; an exception is kept as the model's last failure."""
        self._task.add_done_callback(lambda task: None if task.cancelled() else task.exception())

    def _line(self, progress: PullProgress) -> dict[str, Any]:
        told: dict[str, Any] = {"status": progress.stage}
        if progress.total_bytes:
            told |= {"digest": self._name, "total": progress.total_bytes, "completed": progress.done_bytes}
        return told

    def _report(self, progress: PullProgress) -> None:
        self._offer(progress)

    def _offer(self, progress: PullProgress | None) -> None:
        if self._progress.full():
            # Only how far it is now matters to a reader that is slow.
            self._progress.get_nowait()
        self._progress.put_nowait(progress)


class NotOffered:
    """Routes of Ollama that this server does not support; each answers with the alternative."""

    access: ClassVar[Access] = "key"

    async def on_post_make(self, req: Request, resp: Response) -> None:
        """Refuse to make, copy or publish models."""
        raise UnsupportedError(
            "models are not made, copied or published here; give one a name of its own under [models.NAME] in "
            "config.toml, or load a file with `semanticd models load FILE.gguf`"
        )
