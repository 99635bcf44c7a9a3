"""`/tokenize` and `/detokenize`, in the shapes that clients of vLLM and of llama.cpp's server send and read.

```
{"prompt": …} or {"messages": …}   vLLM:       {"count", "max_model_len", "tokens", "token_strs"}; the text behind a BOS
{"content": …}                     llama.cpp:  {"tokens"}, with `with_pieces` each as {"id", "piece"};     no BOS
```
One answer serves both. `/v1/tokenize` reports how much of a request's prompt is cached.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, ClassVar

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from semanticd.adapters.http.core.body import read_object, translated
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.gateway import Gateway
from semanticd.adapters.http.core.request_context import request_context_of
from semanticd.adapters.http.core.routes import Access
from semanticd.adapters.http.openai.chat import wire as chat_wire
from semanticd.adapters.http.openai.chat.parse import parse as parse_chat
from semanticd.application.generation.text_tokens import ReadText, TextToRead
from semanticd.domain.chat import ChatPrompt
from semanticd.domain.errors import InvalidRequestError
from semanticd.domain.ids import RequestId

_MANY = 10_000
"""Answers about more tokens are written outside of the event loop."""


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """Body of `POST /tokenize`: one of `prompt`, `content` and `messages`."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: Annotated[list[chat_wire.ChatMessage], Meta(min_length=1)] | None = None
    tools: list[chat_wire.Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    """Whether the answer is begun behind `messages` (the default)."""
    continue_final_message: bool | None = None
    """Whether an assistant's message that stands last is continued instead."""
    add_special_tokens: bool | None = None
    """Whether `prompt` gets the BOS that the tokenizer wants (the default)."""
    add_special: bool | None = None
    """The same for `content`, where the default is not to."""
    parse_special: bool | None = None
    """Whether special tokens written in a text are those tokens (the default)."""
    return_token_strs: bool | None = None
    with_pieces: bool | None = None


class TokenPiece(msgspec.Struct):
    """A token with its text, or with its bytes where they are a part of a character."""

    id: int
    piece: str | list[int]


class TokenizeAnswer(msgspec.Struct):
    """Answer of `POST /tokenize`; `tokens` are objects with `with_pieces`."""

    count: int
    max_model_len: int
    tokens: list[int | TokenPiece]
    token_strs: list[str] | None = None


class DetokenizeRequest(msgspec.Struct):
    """Body of `POST /detokenize`."""

    tokens: list[Annotated[int, Meta(ge=0, le=2**31 - 1)]]
    model: str | None = None


class DetokenizeAnswer(msgspec.Struct):
    """Answer of `POST /detokenize`: the text under both servers' names."""

    prompt: str
    content: str


class TextToTokens:
    """`POST /tokenize`."""

    access: ClassVar[Access] = "key"

    def __init__(self, gateway: Gateway, config: HttpConfig) -> None:
        self._gateway = gateway
        self._config = config

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer with the ids of a text or a conversation."""
        body = await read_object(req, TokenizeRequest, self._config)
        if len(body.messages or ()) > self._config.max_messages:
            raise InvalidRequestError(
                f"expected at most {self._config.max_messages} messages", param="messages"
            )
        request_id = request_context_of(req).request_id
        text = await translated(req, lambda: text_of(body, request_id))
        read = await self._gateway.encode(body.model or "", text)
        if len(read.token_ids) > _MANY:
            resp.data = await asyncio.to_thread(_written, body, read)
        else:
            resp.data = _written(body, read)


class TokensToText:
    """`POST /detokenize`."""

    access: ClassVar[Access] = "key"

    def __init__(self, gateway: Gateway, config: HttpConfig) -> None:
        self._gateway = gateway
        self._config = config

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer with the text of ids."""
        body = await read_object(req, DetokenizeRequest, self._config)
        text = await self._gateway.decode(body.model or "", body.tokens)
        resp.data = msgspec.json.encode(DetokenizeAnswer(text, text))


def text_of(body: TokenizeRequest, request_id: RequestId) -> TextToRead:
    """Return the text or messages of a body.

    Raises:
        InvalidRequestError: The body has none of the three forms.
    """
    given = [name for name in ("prompt", "content", "messages") if getattr(body, name) is not None]
    if len(given) != 1:
        raise InvalidRequestError(
            "send one of prompt, content and messages", param=given[1] if given else "prompt"
        )
    pieces = bool(body.with_pieces or body.return_token_strs)
    parse_special = body.parse_special is not False
    if body.content is not None:
        return TextToRead(
            body.content,
            add_special=bool(body.add_special),
            parse_special=parse_special,
            with_pieces=pieces,
        )
    if body.prompt is not None:
        return TextToRead(
            body.prompt,
            add_special=body.add_special_tokens is not False,
            parse_special=parse_special,
            with_pieces=pieces,
        )
    continues = body.continue_final_message is True
    return TextToRead(
        _conversation(body, request_id, continues=continues),
        add_generation_prompt=continues or body.add_generation_prompt is not False,
        with_pieces=pieces,
    )


def _conversation(body: TokenizeRequest, request_id: RequestId, *, continues: bool) -> ChatPrompt:
    request = parse_chat(
        chat_wire.ChatRequest(
            model=body.model or "",
            messages=body.messages or [],
            tools=body.tools,
            chat_template_kwargs=body.chat_template_kwargs,
            continue_final_message=continues,
        ),
        request_id=request_id,
        agent_id=None,
        priority="interactive",
    )
    assert isinstance(request.prompt, ChatPrompt)
    return request.prompt


def _written(body: TokenizeRequest, read: ReadText) -> bytes:
    tokens: list[int | TokenPiece] = list(read.token_ids)
    strings = None
    if read.pieces is not None and body.with_pieces:
        tokens = [
            TokenPiece(token_id, _piece(piece))
            for token_id, piece in zip(read.token_ids, read.pieces, strict=True)
        ]
    if read.pieces is not None and body.return_token_strs:
        strings = [piece.decode(errors="replace") for piece in read.pieces]
    return msgspec.json.encode(TokenizeAnswer(len(read.token_ids), read.context_length, tokens, strings))


def _piece(piece: bytes) -> str | list[int]:
    """Return a piece as llama.cpp's server writes it: text, or the bytes of a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
