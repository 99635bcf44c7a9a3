"""Cached share of a prompt, and its place: for routers that send a prompt to the server with most of it cached.

Nothing is generated, and nothing is read but the index.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
from falcon.asgi import Request, Response

from semanticd.adapters.http.core.body import read_object, translated
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.gateway import Gateway
from semanticd.adapters.http.core.prompt_reader import PromptReaders, read_prompt
from semanticd.adapters.http.core.request_context import request_context_of
from semanticd.adapters.http.core.routes import Access
from semanticd.adapters.http.operations.text_tokens import TokenizeRequest, text_of
from semanticd.domain.errors import InvalidRequestError


class PrefixAnswer(msgspec.Struct):
    """Answer of `POST /v1/prefix/lookup`: tokens, which add up to `prompt_tokens`."""

    prompt_tokens: int
    hot_tokens: int
    """In RAM."""
    warm_tokens: int
    """On this machine's disk."""
    peer_tokens: int
    """At peers only."""
    missing_tokens: int
    """To be computed; a prompt's last token always is."""


class PrefixLookup:
    """`POST /v1/prefix/lookup`."""

    access: ClassVar[Access] = "key"

    def __init__(self, gateway: Gateway, config: HttpConfig, readers: PromptReaders) -> None:
        self._gateway = gateway
        self._config = config
        self._readers = readers

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer the cache tiers of a prompt's tokens; with `path` the body is that of the endpoint."""
        path = req.get_param("path")
        if path is not None:
            model, prompt = await read_prompt(req, self._config, self._readers, path=path)
            token_ids = await self._gateway.tokenize(model, prompt)
        else:
            model, token_ids = await self._read_text(req)
        found = await self._gateway.coverage(model, token_ids)
        resp.set_header("Cache-Control", "no-store")
        resp.data = msgspec.json.encode(
            PrefixAnswer(
                prompt_tokens=found.prompt_tokens,
                hot_tokens=found.hot_tokens,
                warm_tokens=found.warm_tokens,
                peer_tokens=found.peer_tokens,
                missing_tokens=found.missing_tokens,
            )
        )

    async def _read_text(self, req: Request) -> tuple[str, tuple[int, ...]]:
        body = await read_object(req, TokenizeRequest, self._config)
        if len(body.messages or ()) > self._config.max_messages:
            raise InvalidRequestError(
                f"expected at most {self._config.max_messages} messages", param="messages"
            )
        body.with_pieces = body.return_token_strs = None
        request_id = request_context_of(req).request_id
        text = await translated(req, lambda: text_of(body, request_id))
        read = await self._gateway.encode(body.model or "", text)
        return body.model or "", read.token_ids
