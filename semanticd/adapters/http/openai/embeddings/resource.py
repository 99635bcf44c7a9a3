"""The OpenAI embeddings dialect's resource."""

from __future__ import annotations

from typing import ClassVar

from falcon.asgi import Request, Response

from semanticd.adapters.http.core.body import read_object, translated
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.gateway import Gateway
from semanticd.adapters.http.core.request_context import request_context_of
from semanticd.adapters.http.core.routes import Access
from semanticd.adapters.http.core.vectors import written
from semanticd.adapters.http.openai.embeddings import wire
from semanticd.adapters.http.openai.embeddings.parse import parse
from semanticd.adapters.http.openai.embeddings.render import render


class EmbeddingVectors:
    """`POST /v1/embeddings`."""

    access: ClassVar[Access] = "key"

    def __init__(self, gateway: Gateway, config: HttpConfig) -> None:
        self._gateway = gateway
        self._config = config

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer with a vector for each text."""
        body = await read_object(req, wire.EmbeddingsRequest, self._config)
        request_id = request_context_of(req).request_id
        request = await translated(req, lambda: parse(body, request_id=request_id))
        made = await self._gateway.embed(request)
        resp.data = await written(made.vectors, lambda: render(made, packed=body.encoding_format == "base64"))
