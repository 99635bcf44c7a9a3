"""Ollama's API as the OpenAPI document describes it."""

from __future__ import annotations

from semanticd.adapters.http.core.endpoint import Endpoint
from semanticd.adapters.http.ollama import wire as ollama_wire

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("post", "/api/chat", "Ollama: continue a conversation", ollama_wire.ChatRequest, streams=True),
    Endpoint("post", "/api/generate", "Ollama: answer a prompt", ollama_wire.GenerateRequest, streams=True),
    Endpoint("post", "/api/embed", "Ollama: vectors of texts", ollama_wire.EmbedRequest),
    Endpoint("post", "/api/embeddings", "Ollama: the vector of a text", ollama_wire.EmbeddingsRequest),
    Endpoint("get", "/api/tags", "Ollama: list the models that answer"),
    Endpoint("get", "/api/ps", "Ollama: list the loaded models"),
    Endpoint("post", "/api/show", "Ollama: describe a model", ollama_wire.ModelRequest),
    Endpoint("get", "/api/version", "Ollama: report the API's version"),
    Endpoint("post", "/api/pull", "Ollama: pull a model", ollama_wire.ModelRequest, streams=True),
    Endpoint("delete", "/api/delete", "Ollama: delete a model's files", ollama_wire.ModelRequest),
    *(
        Endpoint("post", f"/api/{name}", "Ollama: refused, with what to do instead")
        for name in ("create", "copy", "push")
    ),
)
