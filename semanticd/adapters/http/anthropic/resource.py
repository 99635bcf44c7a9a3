"""The Anthropic dialect's resources: messages and token counting."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import msgspec
from falcon.asgi import Request, Response
from msgspec import UNSET

from semanticd.adapters.http.anthropic import wire
from semanticd.adapters.http.anthropic.diagnostics import AnsweredMessages
from semanticd.adapters.http.anthropic.parse import parse, read_conversation
from semanticd.adapters.http.anthropic.render import MessageStream, render
from semanticd.adapters.http.core.body import read_object, translated
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
from semanticd.domain.errors import InvalidRequestError
from semanticd.domain.generation import CacheReport


class Messages:
    """`POST /v1/messages`, streaming and not."""

    access: ClassVar[Access] = "key"

    def __init__(self, gateway: Gateway, config: HttpConfig) -> None:
        self._gateway = gateway
        self._config = config
        self._answered = AnsweredMessages()

    async def on_post(self, req: Request, resp: Response) -> None:
        """Create a message."""
        exchange = request_context_of(req)
        body = await read_object(req, wire.MessagesRequest, self._config)
        check_count(body, self._config)
        reading = partial(
            parse,
            body,
            request_id=exchange.request_id,
            agent_id=agent_id_of(req, body.metadata.user_id if body.metadata else None),
            priority=priority_of(req, service_tier=body.service_tier),
            version=req.get_header("anthropic-version"),
        )
        request = await translated(req, reading)
        kept_for_s = request.cache_ttl_s if request.cache_breakpoints else None
        message_id = make_id("msg_")
        stream = await self._gateway.open(exchange, request)
        previous_id = body.diagnostics.previous_message_id if body.diagnostics else None

        def diagnose(cache: CacheReport) -> dict[str, Any] | None:
            return self._answered.diagnose(previous_id, stream.agent_id, cache) if previous_id else None

        self._answered.note(message_id, stream.agent_id)
        if not body.stream:
            result = await self._gateway.result(exchange, stream)
            show_cache(resp, result.usage.cache)
            answer = render(
                result,
                message_id=message_id,
                kept_for_s=kept_for_s,
                max_tokens=body.max_tokens,
                diagnose=diagnose,
                manages_context=body.context_management is not None,
            )
            resp.data = msgspec.json.encode(answer)
            return
        renderer = MessageStream(
            message_id=message_id,
            request_id=exchange.echoed_id,
            kept_for_s=kept_for_s,
            max_tokens=body.max_tokens,
            diagnose=diagnose,
            manages_context=body.context_management is not None,
        )
        await self._gateway.follow(resp, exchange, stream, renderer)


class CountTokens:
    """`POST /v1/messages/count_tokens`."""

    access: ClassVar[Access] = "key"

    def __init__(self, gateway: Gateway, config: HttpConfig) -> None:
        self._gateway = gateway
        self._config = config

    async def on_post(self, req: Request, resp: Response) -> None:
        """Count the prompt's tokens without answering it."""
        body = await read_object(req, wire.CountTokensRequest, self._config)
        check_count(body, self._config)
        reading = partial(read_conversation, body, version=req.get_header("anthropic-version"))
        conversation = await translated(req, reading)
        count = await self._gateway.count_tokens(body.model, conversation.prompt)
        managed = UNSET if body.context_management is None else {"original_input_tokens": count}
        resp.data = msgspec.json.encode(wire.CountTokensResponse(count, managed))


def check_count(body: wire.Conversation, config: HttpConfig) -> None:
    """Raise `InvalidRequestError` for more messages than the limit."""
    if len(body.messages) > config.max_messages:
        raise InvalidRequestError(f"expected at most {config.max_messages} messages", param="messages")
