"""Admin over HTTP: models and the cache as a whole. The guards have already asked for the admin key."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from falcon.asgi import Request, Response

from semanticd.adapters.http.core.body import read_object
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.routes import Access
from semanticd.adapters.http.operations.admin_wire import ModelName
from semanticd.application.services.cache import CacheService
from semanticd.application.services.models import ModelsService
from semanticd.application.services.plain import plain


class AdminModels:
    """`/admin/models…`: available, current, load, unload and swap."""

    access: ClassVar[Access] = "admin"

    def __init__(self, models: ModelsService, config: HttpConfig) -> None:
        self._models = models
        self._config = config

    async def on_get(self, req: Request, resp: Response) -> None:
        """List the models that could be loaded."""
        resp.data = msgspec.json.encode(plain({"data": await self._models.list()}))

    async def on_get_current(self, req: Request, resp: Response) -> None:
        """Show the model that answers, or null."""
        resp.data = msgspec.json.encode(plain({"model": await self._models.current()}))

    async def on_post_load(self, req: Request, resp: Response) -> None:
        """Load a model alongside the present one."""
        body = await read_object(req, ModelName, self._config)
        resp.data = msgspec.json.encode(plain(await self._models.load(body.model)))

    async def on_post_unload(self, req: Request, resp: Response) -> None:
        """Free a model's memory."""
        body = await read_object(req, ModelName, self._config)
        resp.data = msgspec.json.encode(plain(await self._models.unload(body.model)))

    async def on_post_swap(self, req: Request, resp: Response) -> None:
        """Make a model the current one."""
        body = await read_object(req, ModelName, self._config)
        resp.data = msgspec.json.encode(plain(await self._models.swap(body.model)))


class AdminCaches:
    """`/admin/caches`."""

    access: ClassVar[Access] = "admin"

    def __init__(self, cache: CacheService) -> None:
        self._cache = cache

    async def on_delete(self, req: Request, resp: Response) -> None:
        """Drop every block that no running request uses."""
        resp.data = msgspec.json.encode(plain(await self._cache.clear()))
