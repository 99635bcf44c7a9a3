"""Resources about the server itself: health, metrics, and the list of models in both dialects."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, ClassVar

import falcon
import msgspec
from falcon.asgi import Request, Response

from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.pages import page_size
from semanticd.adapters.http.core.routes import Access
from semanticd.adapters.http.core.services import HealthAnswer, by_their_names, named_model
from semanticd.application.services.model_facts import ModelFacts
from semanticd.application.services.models import ModelsService
from semanticd.application.services.plain import plain
from semanticd.domain.errors import InvalidRequestError


class Root:
    """`/`: some clients look here first."""

    access: ClassVar[Access] = "open"

    def __init__(self, config: HttpConfig) -> None:
        self._config = config

    async def on_get(self, req: Request, resp: Response) -> None:
        """Return the name and version of the server."""
        resp.data = msgspec.json.encode(
            {"name": "semanticd", "version": self._config.version, "docs": "/docs"}
        )

    async def on_head(self, req: Request, resp: Response) -> None:
        """Confirm that the process is alive."""


class Health:
    """`/health` (the same as `/health/ready`), `/health/live` or `/health/startup`: 200 or 503, with the reason."""

    access: ClassVar[Access] = "open"

    def __init__(self, probe: Callable[[], HealthAnswer]) -> None:
        self._probe = probe

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer a supervisor."""
        answer = self._probe()
        resp.set_header("Cache-Control", "no-store")
        if not answer.ok:
            resp.status = falcon.HTTP_503
            resp.set_header("Retry-After", "1")
        resp.data = msgspec.json.encode(plain(answer))

    async def on_head(self, req: Request, resp: Response) -> None:
        """Answer with the status alone."""
        await self.on_get(req, resp)


class Metrics:
    """`/metrics` in Prometheus' text form."""

    access: ClassVar[Access] = "key"

    def __init__(self, metrics_text: Callable[[], bytes]) -> None:
        self._metrics_text = metrics_text

    async def on_get(self, req: Request, resp: Response) -> None:
        """Show the present values."""
        resp.content_type = "text/plain; version=0.0.4; charset=utf-8"
        resp.data = self._metrics_text()


def in_anthropic_shape(req: Request) -> bool:
    """Return whether the client uses the Anthropic dialect, which its version header shows."""
    return req.get_header("anthropic-version") is not None


class Models:
    """`/v1/models`."""

    access: ClassVar[Access] = "key"

    def __init__(self, models: ModelsService) -> None:
        self._models = models

    async def on_get(self, req: Request, resp: Response) -> None:
        """List the models."""
        # Only what answers now: a client takes any of these names for granted.
        found = by_their_names(model for model in await self._models.list() if model.loaded)
        if in_anthropic_shape(req):
            resp.data = msgspec.json.encode(_anthropic_page(found, req))
        else:
            resp.data = msgspec.json.encode(
                {"object": "list", "data": [openai_model(model) for model in found]}
            )


class Model:
    """`/v1/models/{name}`; names may hold slashes, aliases and patterns are followed."""

    access: ClassVar[Access] = "key"

    def __init__(self, models: ModelsService, config: HttpConfig) -> None:
        self._models = models
        self._config = config

    async def on_get(self, req: Request, resp: Response, name: str) -> None:
        """Show one model."""
        found = await named_model(self._models, name, patterns=self._config.model_patterns)
        shape = anthropic_model if in_anthropic_shape(req) else openai_model
        resp.data = msgspec.json.encode(shape(found))


def openai_model(model: ModelFacts) -> dict[str, Any]:
    """Return a model as OpenAI lists it, with the context length that many clients look for."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.since,
        "owned_by": model.owned_by,
        "loaded": model.loaded,
        "context_length": model.context_length,
        "max_model_len": model.context_length,
    }


def anthropic_model(model: ModelFacts) -> dict[str, Any]:
    """Return a model as Anthropic lists it."""
    created = datetime.fromtimestamp(model.since, tz=timezone.utc)
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.id,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": model.context_length,
        "max_tokens": model.context_length,
    }


def _anthropic_page(found: list[ModelFacts], req: Request) -> dict[str, Any]:
    limit = page_size(req, default=20, maximum=1000)
    ids = [model.id for model in found]
    after, before = req.get_param("after_id"), req.get_param("before_id")
    for name, given in (("after_id", after), ("before_id", before)):
        if given and given not in ids:
            raise InvalidRequestError(f"no loaded model has the id {given[:80]!r}", param=name)
    if after in ids:
        found = found[ids.index(after) + 1 :]
    page = found[:limit]
    if before in ids:
        found = found[: ids.index(before)]
        page = found[-limit:]
    return {
        "data": [anthropic_model(model) for model in page],
        "has_more": len(found) > len(page),
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }
