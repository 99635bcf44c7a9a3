"""The prompts of Chat Completions and Responses bodies, for `/v1/tokenize`."""

from __future__ import annotations

from falcon.asgi import Request

from semanticd.adapters.http.core.prompt_reader import PromptReader, PromptReaders
from semanticd.adapters.http.core.request_context import request_context_of
from semanticd.adapters.http.openai.chat import wire as chat_wire
from semanticd.adapters.http.openai.chat.parse import parse as parse_chat
from semanticd.adapters.http.openai.responses import wire as responses_wire
from semanticd.adapters.http.openai.responses.parse import parse as parse_response
from semanticd.domain.chat import Prompt
from semanticd.domain.errors import UnsupportedError
from semanticd.domain.ids import RequestId


def _chat(body: chat_wire.ChatRequest, req: Request) -> Prompt:
    return parse_chat(body, request_id=_id_of(req), agent_id=None, priority="interactive").prompt


def _response(body: responses_wire.ResponsesRequest, req: Request) -> Prompt:
    if body.previous_response_id:
        raise UnsupportedError("send the whole conversation", param="previous_response_id")
    parsed = parse_response(body, earlier=(), request_id=_id_of(req), agent_id=None, priority="interactive")
    return parsed.request.prompt


def _id_of(req: Request) -> RequestId:
    return request_context_of(req).request_id


PROMPT_READERS: PromptReaders = {
    "/v1/chat/completions": PromptReader(chat_wire.ChatRequest, "messages", _chat),
    "/v1/responses": PromptReader(responses_wire.ResponsesRequest, "input", _response),
}
