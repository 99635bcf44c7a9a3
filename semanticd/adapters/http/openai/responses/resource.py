"""The OpenAI responses dialect's resources, with the responses kept for later ones to go on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import msgspec
from falcon.asgi import Request, Response

from semanticd.adapters.http.core.body import read_object
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.gateway import Gateway
from semanticd.adapters.http.core.request_context import (
    RequestContext,
    agent_id_of,
    make_id,
    priority_of,
    request_context_of,
    show_cache,
)
from semanticd.adapters.http.core.routes import Access
from semanticd.adapters.http.openai.responses import wire
from semanticd.adapters.http.openai.responses.parse import Parsed, parse
from semanticd.adapters.http.openai.responses.reasoning import ReasoningForm, signing_key
from semanticd.adapters.http.openai.responses.render import begin, message_of, render, summary_of
from semanticd.adapters.http.openai.responses.store import ResponseStore, StoredResponse, estimated_bytes
from semanticd.adapters.http.openai.responses.stream import ResponseStream
from semanticd.adapters.http.openai.responses.truncation import without_oldest_turns
from semanticd.domain.errors import InvalidRequestError, PromptTooLongError
from semanticd.domain.generation import GenerationRequest

if TYPE_CHECKING:
    from semanticd.application.generation.service import GenerationStream


class Responses:
    """`POST /v1/responses`, streaming and not."""

    access: ClassVar[Access] = "key"

    def __init__(
        self, gateway: Gateway, config: HttpConfig, store: ResponseStore, *, wall: Callable[[], float]
    ) -> None:
        """Answer through a gateway and keep what may be gone on from; `wall` gives the date of an answer."""
        self._gateway = gateway
        self._config = config
        self._store = store
        self._wall = wall
        self._key = signing_key(config.api_keys)

    async def on_post(self, req: Request, resp: Response) -> None:
        """Create a response."""
        exchange = request_context_of(req)
        body = await read_object(req, wire.ResponsesRequest, self._config)
        if not isinstance(body.input, str) and len(body.input) > self._config.max_messages:
            raise InvalidRequestError(f"expected at most {self._config.max_messages} items", param="input")
        previous = self._store.previous(body.previous_response_id) if body.previous_response_id else None
        parsed = parse(
            body,
            earlier=previous.messages if previous else (),
            request_id=exchange.request_id,
            agent_id=agent_id_of(
                req, body.prompt_cache_key, body.user, previous.agent_id if previous else None
            ),
            priority=priority_of(req, service_tier=body.service_tier),
            look_up=self._store.item,
            key=self._key,
        )
        sealed = "reasoning.encrypted_content" in (body.include or ())
        reasoning = ReasoningForm(bool(summary_of(body)), self._key if sealed else None)
        begun = begin(body, response_id=make_id("resp_"), created=int(self._wall()), model=body.model)
        if body.stream:
            renderer = ResponseStream(
                begun,
                tools=parsed.tools,
                wall=self._wall,
                on_complete=lambda response: self._keep(response, parsed),
                reasoning=reasoning,
            )
            stream = await self._open(exchange, parsed.request, truncates=body.truncation == "auto")
            await self._gateway.follow(resp, exchange, stream, renderer)
            return
        stream = await self._open(exchange, parsed.request, truncates=body.truncation == "auto")
        result = await self._gateway.result(stream)
        show_cache(resp, result.usage.cache)
        answer = render(result, begun, tools=parsed.tools, completed=int(self._wall()), reasoning=reasoning)
        self._keep(answer, parsed)
        resp.data = msgspec.json.encode(answer)

    async def _open(
        self, exchange: RequestContext, request: GenerationRequest, *, truncates: bool
    ) -> GenerationStream:
        """Open a generation; with `truncates` the oldest turns are dropped until the prompt fits."""
        num_dropped = 0
        while True:
            opened = await self._try(exchange, request)
            if not isinstance(opened, PromptTooLongError):
                return opened
            num_turns = 0
            if truncates:
                request, num_turns = without_oldest_turns(
                    request, num_tokens=opened.num_tokens, maximum=opened.maximum
                )
            if not num_turns:
                raise opened
            num_dropped += num_turns
            words = [word for word in request.adjustments if not word.startswith("turns_dropped=")]
            request = replace(request, adjustments=(*words, f"turns_dropped={num_dropped}"))

    async def _try(
        self, exchange: RequestContext, request: GenerationRequest
    ) -> GenerationStream | PromptTooLongError:
        try:
            return await self._gateway.open(exchange, request)
        except PromptTooLongError as error:
            return error

    def _keep(self, response: wire.Response, parsed: Parsed) -> None:
        if response.store:
            messages = (*parsed.messages, message_of(response.output))
            size = estimated_bytes(messages, len(msgspec.json.encode(response)))
            self._store.keep(StoredResponse(response, messages, parsed.request.agent_id, size))


class StoredResponses:
    """`/v1/responses/{response_id}`: look up and delete."""

    access: ClassVar[Access] = "key"

    def __init__(self, store: ResponseStore) -> None:
        """Serve what is kept here."""
        self._store = store

    async def on_get(self, req: Request, resp: Response, response_id: str) -> None:
        """Show a response that is kept."""
        resp.data = msgspec.json.encode(self._store.get(response_id).response)

    async def on_delete(self, req: Request, resp: Response, response_id: str) -> None:
        """Forget a response."""
        self._store.forget(response_id)
        resp.data = msgspec.json.encode({"id": response_id, "object": "response", "deleted": True})
