"""The HTTP edge put together; the only place where routes appear."""

from __future__ import annotations

from functools import cache, partial

import falcon
import falcon.asgi
import msgspec
from falcon.asgi import Request, Response

from semanticd.adapters.http.agents import endpoints as agents_endpoints
from semanticd.adapters.http.agents.resource import (
    Agent,
    AgentActions,
    AgentExports,
    AgentGenerate,
    Agents,
    AgentStats,
    AgentViews,
)
from semanticd.adapters.http.anthropic import endpoints as anthropic_endpoints
from semanticd.adapters.http.anthropic import prompt_readers as anthropic_prompts
from semanticd.adapters.http.anthropic.resource import CountTokens, Messages
from semanticd.adapters.http.core import errors
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.gateway import Gateway
from semanticd.adapters.http.core.guards import Guards
from semanticd.adapters.http.core.middleware import RequestContextWrapper
from semanticd.adapters.http.core.request_context import checked_ids, request_context_of
from semanticd.adapters.http.core.routes import DeclaredRouter
from semanticd.adapters.http.core.services import HttpServices
from semanticd.adapters.http.ollama import endpoints as ollama_endpoints
from semanticd.adapters.http.ollama.resource import Catalogue, Files, Generations, NotOffered, Vectors
from semanticd.adapters.http.openai import endpoints as openai_endpoints
from semanticd.adapters.http.openai import prompt_readers as openai_prompts
from semanticd.adapters.http.openai.chat.resource import ChatCompletions
from semanticd.adapters.http.openai.completions.resource import Completions
from semanticd.adapters.http.openai.embeddings.resource import EmbeddingVectors
from semanticd.adapters.http.openai.responses.resource import (
    Compact,
    Conversations,
    InputTokens,
    Responses,
)
from semanticd.adapters.http.openai.responses.stored import InputItems, KeptResponse
from semanticd.adapters.http.operations import endpoints as operations_endpoints
from semanticd.adapters.http.operations.admin import AdminCaches, AdminModels
from semanticd.adapters.http.operations.blocks import SharedBlockFiles
from semanticd.adapters.http.operations.docs import Docs, OpenApi
from semanticd.adapters.http.operations.health import Health, Metrics, Model, Models, Root
from semanticd.adapters.http.operations.openapi import make_document
from semanticd.adapters.http.operations.prefix import PrefixLookup
from semanticd.adapters.http.operations.text_tokens import TextToTokens, TokensToText
from semanticd.adapters.http.operations.tokenize import Tokenize
from semanticd.domain.errors import InvalidRequestError, SemanticError

ENDPOINTS = (
    *anthropic_endpoints.ENDPOINTS,
    *openai_endpoints.ENDPOINTS,
    *ollama_endpoints.ENDPOINTS,
    *agents_endpoints.ENDPOINTS,
    *operations_endpoints.ENDPOINTS,
)
"""The operations of the OpenAPI document; a test compares them with the routes."""


def create_app(services: HttpServices, config: HttpConfig) -> RequestContextWrapper:
    """Return the ASGI application that serves all dialects."""
    gateway = Gateway(services, config)
    router = DeclaredRouter()
    app = falcon.asgi.App(media_type=falcon.MEDIA_JSON, router=router)
    app.add_middleware(NamesInPaths())
    _handle_errors(app, services)

    app.add_route("/", Root(config))
    app.add_route("/health", Health(services.health.ready))
    app.add_route("/health/live", Health(services.health.live))
    app.add_route("/health/ready", Health(services.health.ready))
    app.add_route("/health/startup", Health(services.health.startup))
    document = cache(partial(make_document, ENDPOINTS, version=config.version))
    app.add_route("/openapi.json", OpenApi(document))
    app.add_route("/docs", Docs(document))
    app.add_route("/metrics", Metrics(services.metrics_text))

    app.add_route("/v1/models", Models(services.models))
    app.add_route("/v1/models/{name:path}", Model(services.models, config))
    blocks = SharedBlockFiles(services.shared, config)
    app.add_route("/v1/blocks", blocks, suffix="identity")
    app.add_route("/v1/blocks/lookup", blocks, suffix="lookup")
    app.add_route("/v1/blocks/{block_hash}", blocks)
    readers = {**anthropic_prompts.PROMPT_READERS, **openai_prompts.PROMPT_READERS}
    app.add_route("/v1/prefix/lookup", PrefixLookup(gateway, config, readers))
    app.add_route("/v1/tokenize", Tokenize(gateway, config, readers))
    app.add_route("/tokenize", TextToTokens(gateway, config))
    app.add_route("/detokenize", TokensToText(gateway, config))
    app.add_route("/v1/messages", Messages(gateway, config))
    app.add_route("/v1/messages/count_tokens", CountTokens(gateway, config))
    app.add_route("/v1/chat/completions", ChatCompletions(gateway, config, wall=services.wall))
    app.add_route("/v1/completions", Completions(gateway, config, wall=services.wall))
    app.add_route("/v1/embeddings", EmbeddingVectors(gateway, config))
    conversations = Conversations(gateway, config, services.responses)
    app.add_route("/v1/responses", Responses(conversations, wall=services.wall))
    app.add_route("/v1/responses/input_tokens", InputTokens(conversations))
    app.add_route("/v1/responses/compact", Compact(conversations, wall=services.wall))
    app.add_route("/v1/responses/{response_id}", KeptResponse(services.responses))
    app.add_route("/v1/responses/{response_id}/input_items", InputItems(services.responses))

    generations = Generations(gateway, config, wall=services.wall)
    catalogue, files, refused = (
        Catalogue(services.models, config),
        Files(services.models, config),
        NotOffered(),
    )
    for name in ("chat", "generate"):
        app.add_route(f"/api/{name}", generations, suffix=name)
    for name in ("tags", "ps", "show", "version"):
        app.add_route(f"/api/{name}", catalogue, suffix=name)
    for name in ("pull", "delete"):
        app.add_route(f"/api/{name}", files, suffix=name)
    vectors = Vectors(gateway, config, monotonic=services.monotonic)
    for name in ("embed", "embeddings"):
        app.add_route(f"/api/{name}", vectors, suffix=name)
    for name in ("create", "copy", "push"):
        app.add_route(f"/api/{name}", refused, suffix="make")

    actions = AgentActions(services.agents, config)
    views = AgentViews(services.agents)
    exports = AgentExports(services.agents, config)
    app.add_route("/v1/agents", Agents(services.agents, services.models, services.requests, config))
    app.add_route("/v1/agents/stats", AgentStats(services.agents))
    app.add_route("/v1/agents/import", exports, suffix="import")
    app.add_route("/v1/agents/{agent_id}", Agent(services.agents))
    app.add_route("/v1/agents/{agent_id}/generate", AgentGenerate(gateway, services.agents, config))
    app.add_route("/v1/agents/{agent_id}/messages", views, suffix="messages")
    app.add_route("/v1/agents/{agent_id}/cache", views, suffix="cache")
    app.add_route("/v1/agents/{agent_id}/export", exports, suffix="export")
    for action in ("fork", "rewind", "pin", "unpin", "evict", "cancel"):
        app.add_route(f"/v1/agents/{{agent_id}}/{action}", actions, suffix=action)

    admin = AdminModels(services.models, config)
    app.add_route("/admin/models", admin)
    app.add_route("/admin/models/available", admin)
    for action in ("current", "load", "unload", "swap"):
        app.add_route(f"/admin/models/{action}", admin, suffix=action)
    app.add_route("/admin/caches", AdminCaches(services.cache))
    return RequestContextWrapper(
        app,
        router,
        guards=Guards(services, config),
        services=services,
        body_timeout_s=config.body_timeout_s,
    )


class NamesInPaths:
    """Checks ids and names in the path before any resource sees them."""

    async def process_resource(
        self, req: Request, resp: Response, resource: object, params: dict[str, str]
    ) -> None:
        """Refuse what cannot be a name."""
        checked_ids(params)


def _handle_errors(app: falcon.asgi.App[Request, Response], services: HttpServices) -> None:
    async def ours(req: Request, resp: Response, error: Exception, params: dict[str, str]) -> None:
        _answer(req, resp, error)

    async def falcons(req: Request, resp: Response, error: falcon.HTTPError, params: dict[str, str]) -> None:
        _answer(req, resp, _translate(req, error))
        if isinstance(error, falcon.HTTPMethodNotAllowed):
            resp.set_headers(error.headers or {})

    async def unforeseen(req: Request, resp: Response, error: Exception, params: dict[str, str]) -> None:
        request_id = request_context_of(req).request_id
        services.log.error("http_request_failed", request_id=request_id, path=req.path, error=repr(error))
        _answer(req, resp, error)

    app.add_error_handler(Exception, unforeseen)
    app.add_error_handler(SemanticError, ours)
    app.add_error_handler(falcon.HTTPError, falcons)


def _answer(req: Request, resp: Response, error: BaseException) -> None:
    exchange = request_context_of(req)
    exchange.error = error
    dialect = errors.dialect_of(
        exchange.route.template, anthropic_version=req.get_header("anthropic-version")
    )
    made = errors.answer(error, dialect, request_id=exchange.echoed_id)
    resp.status = made.status
    resp.set_headers(dict(made.headers))
    resp.stream = None
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(made.body)


def _translate(req: Request, error: falcon.HTTPError) -> SemanticError:
    """Return Falcon's refusal as one of ours."""
    if isinstance(error, falcon.HTTPRouteNotFound):
        return errors.RouteNotFoundError(
            f"there is no endpoint at {req.method} {req.path}; /docs lists all endpoints"
        )
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        return errors.MethodNotAllowedError(f"{req.path} does not answer {req.method}; see the Allow header")
    return InvalidRequestError(str(error.description or error.title or "the request is malformed"))
