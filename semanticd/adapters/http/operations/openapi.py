"""The OpenAPI 3.1 document, made from the wire types themselves; a test compares its paths with the routes.

Unknown fields are allowed everywhere, since clients send beta fields; nulls stand for absence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from semanticd.adapters.http.core.endpoint import Endpoint, Facts
from semanticd.adapters.http.core.errors import dialect_of
from semanticd.domain.agent_name import AGENT_ID_PATTERN

REF_TEMPLATE = "#/components/schemas/{name}"


class OpenAIErrorDetail(Struct):
    """The error."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Struct):
    """An error in OpenAI's shape."""

    error: OpenAIErrorDetail


class AnthropicErrorDetail(Struct):
    """The error."""

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


def make_document(endpoints: Sequence[Endpoint], *, version: str) -> dict[str, Any]:
    """Return the document of these endpoints."""
    types: list[Any] = [OpenAIError, AnthropicError, OllamaError, Facts]
    for endpoint in endpoints:
        types.extend(kind for kind in (endpoint.body, endpoint.answer) if kind and kind not in types)
    made, components = msgspec.json.schema_components(types, ref_template=REF_TEMPLATE)
    schemas = dict(zip(types, made, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method] = _operation(endpoint, schemas)
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


def _operation(endpoint: Endpoint, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": endpoint.operation_id or _operation_id(endpoint),
        "tags": [endpoint.path.removeprefix("/v1").split("/")[1]],
        "parameters": _parameters(endpoint),
        "responses": _responses(endpoint, schemas),
        "security": _security(endpoint.path),
    }
    if endpoint.body is not None:
        made["requestBody"] = {
            "required": not endpoint.optional_body,
            "content": {"application/json": {"schema": schemas[endpoint.body]}},
        }
    elif endpoint.path.endswith("/import"):
        made["requestBody"] = {"required": True, "content": {endpoint.content_type: {}}}
    return made


_OF_OPERATORS = ("/admin/", "/api/pull", "/api/delete")
"""Paths that need the admin key."""


def _security(path: str) -> list[dict[str, list[str]]]:
    """Return the ways to be admitted; without configured keys nothing is asked for (`{}`)."""
    if path.startswith("/health"):
        return [{}]
    return [{"admin": []}, {}] if path.startswith(_OF_OPERATORS) else [{"bearer": []}, {"key": []}, {}]


def _operation_id(endpoint: Endpoint) -> str:
    words = re.sub(r"[^a-z]+", "_", endpoint.path.removeprefix("/v1")).strip("_")
    return f"{endpoint.method}_{words}"


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    inside = re.findall(r"{(\w+)}", endpoint.path)
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in inside
    ]
    for name in endpoint.query:
        number = {"type": "integer", "minimum": 1, "maximum": 1000}
        schema = number if name == "limit" else {"type": "string"}
        parameters.append({"name": name, "in": "query", "required": False, "schema": schema})
    if endpoint.streams:
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


def _responses(endpoint: Endpoint, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    answered = endpoint.content_type if endpoint.method == "get" else "application/json"
    content: dict[str, Any] = {answered: {}}
    if answered == "application/json":
        content[answered] = {"schema": schemas[endpoint.answer]}
    if endpoint.streams:
        content["application/x-ndjson" if endpoint.path.startswith("/api/") else "text/event-stream"] = {}
    error = _ERRORS[dialect_of(endpoint.path, anthropic_version=None)]
    failed = {"application/json": {"schema": schemas[error]}}
    responses: dict[str, Any] = {
        str(endpoint.status): {"description": "Done.", "content": content},
        "default": {"description": "An error in the dialect's shape.", "content": failed},
    }
    if endpoint.path.startswith("/health"):
        unwell = {"application/json": {"schema": schemas[Facts]}}
        responses["503"] = {"description": "Not now; `reason` says why.", "content": unwell}
    return responses
