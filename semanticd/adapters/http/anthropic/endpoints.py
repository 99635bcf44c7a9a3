"""The Messages API as the OpenAPI document describes it."""

from __future__ import annotations

from semanticd.adapters.http.anthropic import wire as anthropic_wire
from semanticd.adapters.http.core.endpoint import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "post",
        "/v1/messages",
        "Anthropic: create a message",
        anthropic_wire.MessagesRequest,
        anthropic_wire.Message,
        streams=True,
    ),
    Endpoint(
        "post",
        "/v1/messages/count_tokens",
        "Anthropic: count a prompt's tokens",
        anthropic_wire.CountTokensRequest,
        anthropic_wire.CountTokensResponse,
    ),
)
