"""OpenAI's APIs as the OpenAPI document describes them."""

from __future__ import annotations

from semanticd.adapters.http.core.endpoint import Endpoint
from semanticd.adapters.http.openai.chat import wire as openai_chat_wire
from semanticd.adapters.http.openai.completions import wire as completions_wire
from semanticd.adapters.http.openai.embeddings import wire as embeddings_wire
from semanticd.adapters.http.openai.responses import wire as openai_responses_wire

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "post",
        "/v1/chat/completions",
        "OpenAI: create a chat completion",
        openai_chat_wire.ChatRequest,
        openai_chat_wire.ChatCompletion,
        streams=True,
    ),
    Endpoint(
        "post",
        "/v1/completions",
        "OpenAI: complete plain prompts",
        completions_wire.CompletionRequest,
        completions_wire.Completion,
        streams=True,
    ),
    Endpoint(
        "post",
        "/v1/embeddings",
        "OpenAI: vectors of texts",
        embeddings_wire.EmbeddingsRequest,
        embeddings_wire.EmbeddingsAnswer,
    ),
    Endpoint(
        "post",
        "/v1/responses",
        "OpenAI: create a response",
        openai_responses_wire.ResponsesRequest,
        openai_responses_wire.Response,
        streams=True,
    ),
    Endpoint(
        "get",
        "/v1/responses/{response_id}",
        "OpenAI: show a stored response",
        answer=openai_responses_wire.Response,
    ),
    Endpoint("delete", "/v1/responses/{response_id}", "OpenAI: forget a stored response"),
    Endpoint(
        "get",
        "/v1/responses/{response_id}/input_items",
        "OpenAI: list the conversation that a stored response answered",
        query=("limit", "order", "after", "before"),
    ),
    Endpoint(
        "post",
        "/v1/responses/input_tokens",
        "OpenAI: count a prompt's tokens",
        openai_responses_wire.InputTokensRequest,
        openai_responses_wire.InputTokens,
    ),
    Endpoint(
        "post",
        "/v1/responses/compact",
        "OpenAI: compact a conversation",
        openai_responses_wire.CompactRequest,
        openai_responses_wire.CompactedResponse,
    ),
)
