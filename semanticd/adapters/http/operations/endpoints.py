"""Tokens, blocks, health, metrics and administration as the OpenAPI document describes them."""

from __future__ import annotations

from semanticd.adapters.http.core.endpoint import Endpoint
from semanticd.adapters.http.openai.chat import wire as chat_wire
from semanticd.adapters.http.operations import text_tokens
from semanticd.adapters.http.operations.admin_wire import ModelName
from semanticd.adapters.http.operations.blocks import BlockLookup, PeerIdentity, StoredBlocks
from semanticd.adapters.http.operations.prefix import PrefixAnswer
from semanticd.adapters.http.operations.tokenize import Tokens

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "post",
        "/v1/tokenize",
        "The token ids of a prompt; the body is that of the endpoint `path`",
        chat_wire.ChatRequest,
        Tokens,
        query=("path",),
    ),
    Endpoint(
        "post",
        "/v1/prefix/lookup",
        "The cache tiers of a prompt's tokens; with `path` the body is that of the endpoint",
        text_tokens.TokenizeRequest,
        PrefixAnswer,
        query=("path",),
    ),
    Endpoint(
        "post",
        "/v1/blocks/lookup",
        "For peers: which blocks of a prompt are stored here",
        BlockLookup,
        StoredBlocks,
    ),
    Endpoint(
        "get",
        "/v1/blocks",
        "For a peer's doctor: the version, and the models that are loaded",
        answer=PeerIdentity,
    ),
    Endpoint(
        "get",
        "/v1/blocks/{block_hash}",
        "For peers: a block file",
        content_type="application/octet-stream",
    ),
    Endpoint(
        "post",
        "/tokenize",
        "The token ids of a text or a conversation, as vLLM and llama.cpp name them",
        text_tokens.TokenizeRequest,
        text_tokens.TokenizeAnswer,
        operation_id="post_text_tokens",
    ),
    Endpoint(
        "post",
        "/detokenize",
        "The text of token ids",
        text_tokens.DetokenizeRequest,
        text_tokens.DetokenizeAnswer,
    ),
    Endpoint(
        "get",
        "/v1/models",
        "List models, in Anthropic's shape if anthropic-version is sent",
        query=("limit", "after_id", "before_id"),
    ),
    Endpoint("get", "/v1/models/{name}", "Show a model"),
    Endpoint("get", "/admin/models", "Admin: list models that could be loaded"),
    Endpoint("get", "/admin/models/available", "Admin: list models that could be loaded"),
    Endpoint("get", "/admin/models/current", "Admin: show the current model"),
    Endpoint("post", "/admin/models/load", "Admin: load a model", ModelName),
    Endpoint("post", "/admin/models/unload", "Admin: unload a model", ModelName),
    Endpoint("post", "/admin/models/swap", "Admin: make a model the current one", ModelName),
    Endpoint("delete", "/admin/caches", "Admin: drop all blocks that no request uses"),
    Endpoint("get", "/health", "Whether requests are taken"),
    Endpoint("get", "/health/live", "Whether the process is alive"),
    Endpoint("get", "/health/ready", "Whether requests are taken"),
    Endpoint("get", "/health/startup", "Whether startup has finished"),
    Endpoint("get", "/metrics", "Metrics for Prometheus", content_type="text/plain"),
)
