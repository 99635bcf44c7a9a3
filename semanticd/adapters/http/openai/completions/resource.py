"""The OpenAI plain-completions resource."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import msgspec
from falcon.asgi import Request, Response

from semanticd.adapters.http.core.adjustments import Adjustments
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
from semanticd.adapters.http.openai.completions import wire
from semanticd.adapters.http.openai.completions.parse import parse
from semanticd.adapters.http.openai.completions.render import (
    CompletionStream,
    PromptsStream,
    render,
    total_of_prompts,
)
from semanticd.adapters.http.openai.sampling import check_fields


class Completions:
    """`POST /v1/completions`, streaming and not; every prompt of a list is a request of its own below."""

    access: ClassVar[Access] = "key"

    def __init__(self, gateway: Gateway, config: HttpConfig, *, wall: Callable[[], float]) -> None:
        """Answer through a gateway; `wall` gives the date of an answer."""
        self._gateway = gateway
        self._config = config
        self._wall = wall

    async def on_post(self, req: Request, resp: Response) -> None:
        """Complete one or more prompts."""
        exchange = request_context_of(req)
        body = await read_object(req, wire.CompletionRequest, self._config)
        adjustments = Adjustments()
        check_fields(body, adjustments, strict=self._config.strict)
        reading = partial(
            parse,
            body,
            adjustments=adjustments,
            request_id=exchange.request_id,
            agent_id=agent_id_of(req, body.prompt_cache_key, body.user),
            priority=priority_of(req, service_tier=body.service_tier),
            max_prompts=self._config.max_messages,
        )
        requests = await translated(req, reading)
        completion_id, created = make_id("cmpl-"), int(self._wall())
        streams = await self._gateway.open_all(exchange, requests)
        if body.stream:
            renderer = CompletionStream(
                completion_id=completion_id,
                created=created,
                num_choices=body.n or 1,
                include_usage=bool(body.stream_options and body.stream_options.include_usage),
                logprobs=body.logprobs is not None,
            )
            joined = PromptsStream(streams, num_choices=body.n or 1)
            await self._gateway.follow(resp, exchange, joined, renderer)
            return
        # All prompts are being computed already; their results are only waited for in order.
        results = [await self._gateway.result(exchange, stream) for stream in streams]
        show_cache(resp, total_of_prompts([result.usage for result in results]).cache)
        answer = render(
            results, completion_id=completion_id, created=created, logprobs=body.logprobs is not None
        )
        resp.data = msgspec.json.encode(answer)
