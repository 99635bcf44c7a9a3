"""The token ids of a prompt in any dialect, by which a replay compares prompts.

Nothing is generated and nothing is cached. The body is the one that would be sent to `path`.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
from falcon.asgi import Request, Response

from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.gateway import Gateway
from semanticd.adapters.http.core.prompt_reader import PromptReaders, read_prompt
from semanticd.adapters.http.core.routes import Access

_DEFAULT = "/v1/chat/completions"


class Tokens(msgspec.Struct):
    """Answer of `POST /v1/tokenize`."""

    count: int
    tokens: list[int]


class Tokenize:
    """`POST /v1/tokenize`."""

    access: ClassVar[Access] = "key"

    def __init__(self, gateway: Gateway, config: HttpConfig, readers: PromptReaders) -> None:
        self._gateway = gateway
        self._config = config
        self._readers = readers

    async def on_post(self, req: Request, resp: Response) -> None:
        """Answer with the ids of the prompt that this body would be at `path`."""
        path = req.get_param("path") or _DEFAULT
        model, prompt = await read_prompt(req, self._config, self._readers, path=path)
        tokens = await self._gateway.tokenize(model, prompt)
        resp.data = msgspec.json.encode(Tokens(len(tokens), list(tokens)))
