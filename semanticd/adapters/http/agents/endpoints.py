"""The Direct Agent API as the OpenAPI document describes it."""

from __future__ import annotations

from semanticd.adapters.http.agents import wire as agents_wire
from semanticd.adapters.http.core.endpoint import Endpoint

_AGENT = "/v1/agents/{agent_id}"

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "post", "/v1/agents", "Create an agent", agents_wire.CreateAgent, status=201, optional_body=True
    ),
    Endpoint(
        "get", "/v1/agents", "List agents", answer=agents_wire.AgentList, query=("limit", "after", "order")
    ),
    Endpoint("get", "/v1/agents/stats", "Sum up all agents"),
    Endpoint(
        "post",
        "/v1/agents/import",
        "Read an agent export",
        status=201,
        query=("id",),
        content_type="application/octet-stream",
    ),
    Endpoint("get", _AGENT, "Show an agent"),
    Endpoint("delete", _AGENT, "Forget an agent"),
    Endpoint(
        "post",
        f"{_AGENT}/generate",
        "Generate an agent's next turn",
        agents_wire.Generate,
        agents_wire.Generated,
        streams=True,
    ),
    Endpoint("get", f"{_AGENT}/messages", "Show the conversation kept for an agent"),
    Endpoint("get", f"{_AGENT}/cache", "Show what an agent's requests reused, and why they missed"),
    Endpoint("get", f"{_AGENT}/export", "Write an agent export", content_type="application/octet-stream"),
    Endpoint("post", f"{_AGENT}/fork", "Copy an agent", agents_wire.Fork, status=201, optional_body=True),
    Endpoint(
        "post", f"{_AGENT}/rewind", "Forget an agent's last turns", agents_wire.Rewind, optional_body=True
    ),
    Endpoint("post", f"{_AGENT}/pin", "Keep an agent's blocks", agents_wire.Pin, optional_body=True),
    Endpoint("post", f"{_AGENT}/unpin", "Let an agent's blocks be evicted again"),
    Endpoint("post", f"{_AGENT}/evict", "Demote an agent's blocks to disk"),
    Endpoint("post", f"{_AGENT}/cancel", "Cancel the requests that an agent answers"),
)
