"""The OpenAI chat dialect's resource."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import msgspec
from falcon.asgi import Request, Response
from msgspec import UNSET

from semanticd.adapters.http.core.adjustments import Adjustments
from semanticd.adapters.http.core.body import echoed_metadata, read_object, translated
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.gateway import Gateway
from semanticd.adapters.http.core.request_context import (
    agent_id_of,
    make_id,
    priority_of,
    request_context_of,
    show_cache,
)
from semanticd.adapters.http.core.routes import Access
from semanticd.adapters.http.openai.chat import wire
from semanticd.adapters.http.openai.chat.parse import parse
from semanticd.adapters.http.openai.chat.render import ChatStream, render
from semanticd.adapters.http.openai.sampling import check_fields, tier_used
from semanticd.domain.errors import InvalidRequestError


class ChatCompletions:
    """`POST /v1/chat/completions`, streaming and not."""

    access: ClassVar[Access] = "key"

    def __init__(self, gateway: Gateway, config: HttpConfig, *, wall: Callable[[], float]) -> None:
        """Answer through a gateway; `wall` gives the date of an answer."""
        self._gateway = gateway
        self._config = config
        self._wall = wall

    async def on_post(self, req: Request, resp: Response) -> None:
        """Create a chat completion."""
        exchange = request_context_of(req)
        body = await read_object(req, wire.ChatRequest, self._config)
        if len(body.messages) > self._config.max_messages:
            raise InvalidRequestError(
                f"expected at most {self._config.max_messages} messages", param="messages"
            )
        adjustments = Adjustments()
        check_fields(body, adjustments, strict=self._config.strict)
        reading = partial(
            parse,
            body,
            adjustments=adjustments,
            request_id=exchange.request_id,
            agent_id=agent_id_of(req, body.prompt_cache_key, body.user),
            priority=priority_of(req, service_tier=body.service_tier),
        )
        request = await translated(req, reading)
        completion_id, created = make_id("chatcmpl-"), int(self._wall())
        tier = UNSET if body.service_tier is None else tier_used(body.service_tier, request.priority)
        if body.stream:
            renderer = ChatStream(
                completion_id=completion_id,
                created=created,
                num_choices=request.num_choices,
                include_usage=bool(body.stream_options and body.stream_options.include_usage),
                logprobs=bool(body.logprobs),
                service_tier=tier,
            )
            await self._gateway.respond(resp, exchange, request, renderer)
            return
        result = await self._gateway.complete(exchange, request)
        show_cache(resp, result.usage.cache)
        answer = render(
            result,
            completion_id=completion_id,
            created=created,
            logprobs=bool(body.logprobs),
            service_tier=tier,
            metadata=echoed_metadata(body.metadata),
        )
        resp.data = msgspec.json.encode(answer)
