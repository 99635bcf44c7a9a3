"""The token ids of a prompt, whatever dialect it is written in: what a replay compares prompts by.

Nothing is generated and nothing is cached. The body is the one that would be sent to `path`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec
from falcon.asgi import Request, Response

from semanticd.adapters.http.anthropic import wire as anthropic_wire
from semanticd.adapters.http.anthropic.parse import read_conversation
from semanticd.adapters.http.core.body import read_object, translated
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.gateway import Gateway
from semanticd.adapters.http.core.request_context import request_context_of
from semanticd.adapters.http.core.routes import Access
from semanticd.adapters.http.openai.chat import wire as chat_wire
from semanticd.adapters.http.openai.chat.parse import parse as parse_chat
from semanticd.adapters.http.openai.responses import wire as responses_wire
from semanticd.adapters.http.openai.responses.parse import parse as parse_response
from semanticd.domain.chat import Prompt
from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.ids import RequestId

_DEFAULT = "/v1/chat/completions"


class Tokens(msgspec.Struct):
    """Answer of `POST /v1/tokenize`."""

    count: int
    tokens: list[int]


def _messages(body: anthropic_wire.CountTokensRequest, req: Request) -> Prompt:
    return read_conversation(body, version=req.get_header("anthropic-version")).prompt


def _chat(body: chat_wire.ChatRequest, req: Request) -> Prompt:
    return parse_chat(body, request_id=_id_of(req), agent_id=None, priority="interactive").prompt


def _response(body: responses_wire.ResponsesRequest, req: Request) -> Prompt:
    if body.previous_response_id:
        raise UnsupportedError("send the whole conversation", param="previous_response_id")
    parsed = parse_response(body, earlier=(), request_id=_id_of(req), agent_id=None, priority="interactive")
    return parsed.request.prompt


def _id_of(req: Request) -> RequestId:
    return request_context_of(req).request_id


READERS: Mapping[str, tuple[type[Any], Callable[[Any, Request], Prompt]]] = {
    "/v1/messages": (anthropic_wire.CountTokensRequest, _messages),
    "/v1/chat/completions": (chat_wire.ChatRequest, _chat),
    "/v1/responses": (responses_wire.ResponsesRequest, _response),
}
"""What `path` may be, and how such a body becomes a prompt."""


async def read_prompt(req: Request, config: HttpConfig, *, path: str) -> tuple[str, Prompt]:
    """Return the model's name and the prompt of a body as it would be sent to `path`.

    Raises:
        InvalidRequestError: there is no such path, or the body is none of its.
    """
    if path not in READERS:
        raise InvalidRequestError(f"expected one of {', '.join(READERS)}", param="path")
    wire_type, read = READERS[path]
    body = await read_object(req, wire_type, config)
    name = "input" if path == "/v1/responses" else "messages"
    given = getattr(body, name)
    if isinstance(given, list) and len(given) > config.max_messages:
        raise InvalidRequestError(f"expected at most {config.max_messages} {name}", param=name)
    model: str = body.model
    return model, await translated(req, lambda: read(body, req))


class Tokenize:
    """`POST /v1/tokenize`."""

    access: ClassVar[Access] = "key"

    def __init__(self, gateway: Gateway, config: HttpConfig) -> None:
        """Tokenize through a gateway."""
        self._gateway = gateway
        self._config = config

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer with the ids of the prompt that this body would be at `path`."""
        model, prompt = await read_prompt(req, self._config, path=req.get_param("path") or _DEFAULT)
        tokens = await self._gateway.tokenize(model, prompt)
        resp.data = msgspec.json.encode(Tokens(len(tokens), list(tokens)))
