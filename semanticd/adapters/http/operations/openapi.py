"""The OpenAPI 3.1 document, made from the wire types themselves; a test compares its paths with the routes.

Unknown fields are allowed everywhere, since clients send beta fields; nulls stand for absence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from semanticd.adapters.http.agents import wire as agents_wire
from semanticd.adapters.http.anthropic import wire as anthropic_wire
from semanticd.adapters.http.core.errors import dialect_of
from semanticd.adapters.http.ollama import wire as ollama_wire
from semanticd.adapters.http.openai.chat import wire as openai_chat_wire
from semanticd.adapters.http.openai.completions import wire as completions_wire
from semanticd.adapters.http.openai.embeddings import wire as embeddings_wire
from semanticd.adapters.http.openai.responses import wire as openai_responses_wire
from semanticd.adapters.http.operations import text_tokens
from semanticd.adapters.http.operations.admin_wire import ModelName
from semanticd.adapters.http.operations.blocks import BlockLookup, PeerIdentity, StoredBlocks
from semanticd.adapters.http.operations.prefix import PrefixAnswer
from semanticd.adapters.http.operations.tokenize import Tokens
from semanticd.domain.agent_name import AGENT_ID_PATTERN

REF_TEMPLATE = "#/components/schemas/{name}"


class OpenAIErrorDetail(Struct):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Struct):
    """An error in OpenAI's shape."""

    error: OpenAIErrorDetail


class AnthropicErrorDetail(Struct):
    """What went wrong."""

    type: str
    message: str


class AnthropicError(Struct):
    """An error in Anthropic's shape."""

    type: str
    error: AnthropicErrorDetail
    request_id: str


class OllamaError(Struct):
    """An error in Ollama's shape."""

    error: str


class Facts(Struct):
    """Facts as a JSON object; later versions may add to them."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    body: type[Struct] | None = None
    answer: type[Struct] = Facts
    status: int = 200
    streams: bool = False
    optional_body: bool = False
    query: tuple[str, ...] = ()
    content_type: str = "application/json"
    operation_id: str | None = None
    """None: made from method and path."""


_AGENT = "/v1/agents/{agent_id}"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "post",
        "/v1/messages",
        "Anthropic: create a message",
        anthropic_wire.MessagesRequest,
        anthropic_wire.Message,
        streams=True,
    ),
    Operation(
        "post",
        "/v1/messages/count_tokens",
        "Anthropic: count a prompt's tokens",
        anthropic_wire.CountTokensRequest,
        anthropic_wire.CountTokensResponse,
    ),
    Operation(
        "post",
        "/v1/tokenize",
        "The token ids of a prompt; the body is the one of `path`",
        openai_chat_wire.ChatRequest,
        Tokens,
        query=("path",),
    ),
    Operation(
        "post",
        "/v1/prefix/lookup",
        "Where the tokens of a prompt lie; with `path` the body is the one of that endpoint",
        text_tokens.TokenizeRequest,
        PrefixAnswer,
        query=("path",),
    ),
    Operation(
        "post",
        "/v1/blocks/lookup",
        "For peers: which blocks of a prompt are stored here",
        BlockLookup,
        StoredBlocks,
    ),
    Operation(
        "get",
        "/v1/blocks",
        "For a peer's doctor: the version, and the models that are loaded",
        answer=PeerIdentity,
    ),
    Operation(
        "get",
        "/v1/blocks/{block_hash}",
        "For peers: a block file",
        content_type="application/octet-stream",
    ),
    Operation(
        "post",
        "/tokenize",
        "The token ids of a text or a conversation, as vLLM and llama.cpp name them",
        text_tokens.TokenizeRequest,
        text_tokens.TokenizeAnswer,
        operation_id="post_text_tokens",
    ),
    Operation(
        "post",
        "/detokenize",
        "The text of token ids",
        text_tokens.DetokenizeRequest,
        text_tokens.DetokenizeAnswer,
    ),
    Operation(
        "post",
        "/v1/chat/completions",
        "OpenAI: create a chat completion",
        openai_chat_wire.ChatRequest,
        openai_chat_wire.ChatCompletion,
        streams=True,
    ),
    Operation(
        "post",
        "/v1/completions",
        "OpenAI: complete plain prompts",
        completions_wire.CompletionRequest,
        completions_wire.Completion,
        streams=True,
    ),
    Operation(
        "post",
        "/v1/embeddings",
        "OpenAI: vectors of texts",
        embeddings_wire.EmbeddingsRequest,
        embeddings_wire.EmbeddingsAnswer,
    ),
    Operation(
        "post",
        "/v1/responses",
        "OpenAI: create a response",
        openai_responses_wire.ResponsesRequest,
        openai_responses_wire.Response,
        streams=True,
    ),
    Operation(
        "get",
        "/v1/responses/{response_id}",
        "OpenAI: show a stored response",
        answer=openai_responses_wire.Response,
    ),
    Operation("delete", "/v1/responses/{response_id}", "OpenAI: forget a stored response"),
    Operation(
        "get",
        "/v1/responses/{response_id}/input_items",
        "OpenAI: list the conversation that a stored response answered",
        query=("limit", "order", "after", "before"),
    ),
    Operation(
        "post",
        "/v1/responses/input_tokens",
        "OpenAI: count a prompt's tokens",
        openai_responses_wire.InputTokensRequest,
        openai_responses_wire.InputTokens,
    ),
    Operation(
        "post",
        "/v1/responses/compact",
        "OpenAI: sum a conversation up",
        openai_responses_wire.CompactRequest,
        openai_responses_wire.CompactedResponse,
    ),
    Operation(
        "get",
        "/v1/models",
        "List models, in Anthropic's shape if anthropic-version is sent",
        query=("limit", "after_id", "before_id"),
    ),
    Operation("get", "/v1/models/{name}", "Show a model"),
    Operation("post", "/api/chat", "Ollama: continue a conversation", ollama_wire.ChatRequest, streams=True),
    Operation("post", "/api/generate", "Ollama: answer a prompt", ollama_wire.GenerateRequest, streams=True),
    Operation("post", "/api/embed", "Ollama: vectors of texts", ollama_wire.EmbedRequest),
    Operation("post", "/api/embeddings", "Ollama: the vector of a text", ollama_wire.EmbeddingsRequest),
    Operation("get", "/api/tags", "Ollama: list the models that answer"),
    Operation("get", "/api/ps", "Ollama: list the loaded models"),
    Operation("post", "/api/show", "Ollama: describe a model", ollama_wire.ModelRequest),
    Operation("get", "/api/version", "Ollama: say which API is spoken"),
    Operation("post", "/api/pull", "Ollama: fetch a model", ollama_wire.ModelRequest, streams=True),
    Operation("delete", "/api/delete", "Ollama: delete a model's files", ollama_wire.ModelRequest),
    *(
        Operation("post", f"/api/{name}", "Ollama: refused, with what to do instead")
        for name in ("create", "copy", "push")
    ),
    Operation(
        "post", "/v1/agents", "Create an agent", agents_wire.CreateAgent, status=201, optional_body=True
    ),
    Operation(
        "get", "/v1/agents", "List agents", answer=agents_wire.AgentList, query=("limit", "after", "order")
    ),
    Operation("get", "/v1/agents/stats", "Sum up all agents"),
    Operation(
        "post",
        "/v1/agents/import",
        "Read an agent export",
        status=201,
        query=("id",),
        content_type="application/octet-stream",
    ),
    Operation("get", _AGENT, "Show an agent"),
    Operation("delete", _AGENT, "Forget an agent"),
    Operation(
        "post",
        f"{_AGENT}/generate",
        "Let an agent take its next turn",
        agents_wire.Generate,
        agents_wire.Generated,
        streams=True,
    ),
    Operation("get", f"{_AGENT}/messages", "Show the conversation kept for an agent"),
    Operation("get", f"{_AGENT}/cache", "Show what an agent's requests reused, and why they missed"),
    Operation("get", f"{_AGENT}/export", "Write an agent export", content_type="application/octet-stream"),
    Operation("post", f"{_AGENT}/fork", "Copy an agent", agents_wire.Fork, status=201, optional_body=True),
    Operation(
        "post", f"{_AGENT}/rewind", "Forget an agent's last turns", agents_wire.Rewind, optional_body=True
    ),
    Operation("post", f"{_AGENT}/pin", "Keep an agent's blocks", agents_wire.Pin, optional_body=True),
    Operation("post", f"{_AGENT}/unpin", "Let an agent's blocks be evicted again"),
    Operation("post", f"{_AGENT}/evict", "Demote an agent's blocks to disk"),
    Operation("post", f"{_AGENT}/cancel", "Cancel the requests that an agent answers"),
    Operation("get", "/admin/models", "Admin: list models that could be loaded"),
    Operation("get", "/admin/models/available", "Admin: list models that could be loaded"),
    Operation("get", "/admin/models/current", "Admin: show the model in use"),
    Operation("post", "/admin/models/load", "Admin: load a model", ModelName),
    Operation("post", "/admin/models/unload", "Admin: unload a model", ModelName),
    Operation("post", "/admin/models/swap", "Admin: make a model the one in use", ModelName),
    Operation("delete", "/admin/caches", "Admin: drop all blocks that no request uses"),
    Operation("get", "/health", "Whether requests are taken"),
    Operation("get", "/health/live", "Whether the process works"),
    Operation("get", "/health/ready", "Whether requests are taken"),
    Operation("get", "/health/startup", "Whether starting has finished"),
    Operation("get", "/metrics", "Metrics for Prometheus", content_type="text/plain"),
)


def make_document(*, version: str) -> dict[str, Any]:
    """Return the whole document."""
    types: list[Any] = [OpenAIError, AnthropicError, OllamaError, Facts]
    for operation in OPERATIONS:
        types.extend(kind for kind in (operation.body, operation.answer) if kind and kind not in types)
    made, components = msgspec.json.schema_components(types, ref_template=REF_TEMPLATE)
    schemas = dict(zip(types, made, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "semanticd",
            "version": version,
            "description": "Language models for agents, with every agent's KV cache kept.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "admin": {"type": "apiKey", "in": "header", "name": "X-Admin-Key"},
            },
        },
    }


def _operation(operation: Operation, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.operation_id or _operation_id(operation),
        "tags": [operation.path.removeprefix("/v1").split("/")[1]],
        "parameters": _parameters(operation),
        "responses": _responses(operation, schemas),
        "security": _security(operation.path),
    }
    if operation.body is not None:
        made["requestBody"] = {
            "required": not operation.optional_body,
            "content": {"application/json": {"schema": schemas[operation.body]}},
        }
    elif operation.path.endswith("/import"):
        made["requestBody"] = {"required": True, "content": {operation.content_type: {}}}
    return made


_OF_OPERATORS = ("/admin/", "/api/pull", "/api/delete")
"""Paths that need the admin key."""


def _security(path: str) -> list[dict[str, list[str]]]:
    """Return the ways to be admitted; without configured keys nothing is asked for (`{}`)."""
    if path.startswith("/health"):
        return [{}]
    return [{"admin": []}, {}] if path.startswith(_OF_OPERATORS) else [{"bearer": []}, {"key": []}, {}]


def _operation_id(operation: Operation) -> str:
    words = re.sub(r"[^a-z]+", "_", operation.path.removeprefix("/v1")).strip("_")
    return f"{operation.method}_{words}"


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    inside = re.findall(r"{(\w+)}", operation.path)
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in inside
    ]
    for name in operation.query:
        number = {"type": "integer", "minimum": 1, "maximum": 1000}
        schema = number if name == "limit" else {"type": "string"}
        parameters.append({"name": name, "in": "query", "required": False, "schema": schema})
    if operation.streams:
        who = "The agent whose cached conversation this belongs to."
        urgency = {"type": "string", "enum": ["interactive", "background"]}
        named = {"type": "string", "pattern": f"^{AGENT_ID_PATTERN}$"}
        parameters.append({"name": "X-Session-ID", "in": "header", "description": who, "schema": named})
        parameters.append({"name": "X-Priority", "in": "header", "schema": urgency})
    return parameters


_ERRORS: Mapping[str, type[Struct]] = {
    "anthropic": AnthropicError,
    "openai": OpenAIError,
    "ollama": OllamaError,
}


def _responses(operation: Operation, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    answered = operation.content_type if operation.method == "get" else "application/json"
    content: dict[str, Any] = {answered: {}}
    if answered == "application/json":
        content[answered] = {"schema": schemas[operation.answer]}
    if operation.streams:
        content["application/x-ndjson" if operation.path.startswith("/api/") else "text/event-stream"] = {}
    error = _ERRORS[dialect_of(operation.path, anthropic_version=None)]
    failed = {"application/json": {"schema": schemas[error]}}
    responses: dict[str, Any] = {
        str(operation.status): {"description": "Done.", "content": content},
        "default": {"description": "An error in the dialect's shape.", "content": failed},
    }
    if operation.path.startswith("/health"):
        unwell = {"application/json": {"schema": schemas[Facts]}}
        responses["503"] = {"description": "Not now; `reason` says why.", "content": unwell}
    return responses
