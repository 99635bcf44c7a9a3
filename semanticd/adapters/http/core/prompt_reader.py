"""Readers of a body's prompt without an answer to it; each dialect offers its own to `/v1/tokenize`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from falcon.asgi import Request

from semanticd.adapters.http.core.body import read_object, translated
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.domain.chat import Prompt
from semanticd.domain.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class PromptReader:
    """Reads the bodies of one endpoint."""

    body: type[Any]
    messages: str
    """The body's field that holds the conversation."""
    read: Callable[[Any, Request], Prompt]


PromptReaders = Mapping[str, PromptReader]
"""By the path of the endpoint."""


async def read_prompt(
    req: Request, config: HttpConfig, readers: PromptReaders, *, path: str
) -> tuple[str, Prompt]:
    """Return the model's name and the prompt of a body as it would be sent to `path`.

    Raises:
        InvalidRequestError: no reader has this path, or the body is invalid there.
    """
    reader = readers.get(path)
    if reader is None:
        raise InvalidRequestError(f"expected one of {', '.join(readers)}", param="path")
    body = await read_object(req, reader.body, config)
    given = getattr(body, reader.messages)
    if isinstance(given, list) and len(given) > config.max_messages:
        raise InvalidRequestError(
            f"expected at most {config.max_messages} {reader.messages}", param=reader.messages
        )
    model: str = body.model
    return model, await translated(req, lambda: reader.read(body, req))
