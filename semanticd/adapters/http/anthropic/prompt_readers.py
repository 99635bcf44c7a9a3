"""The prompt of a Messages body, for `/v1/tokenize`."""

from __future__ import annotations

from falcon.asgi import Request

from semanticd.adapters.http.anthropic import wire
from semanticd.adapters.http.anthropic.parse import read_conversation
from semanticd.adapters.http.core.prompt_reader import PromptReader, PromptReaders
from semanticd.domain.chat import Prompt


def _messages(body: wire.CountTokensRequest, req: Request) -> Prompt:
    return read_conversation(body, version=req.get_header("anthropic-version")).prompt


PROMPT_READERS: PromptReaders = {"/v1/messages": PromptReader(wire.CountTokensRequest, "messages", _messages)}
