"""The Direct Agent API's resources: agents as durable things, whose conversation the server keeps."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, ClassVar, cast, get_args

import falcon
import msgspec
from falcon.asgi import Request, Response

from semanticd.adapters.http.agents import wire
from semanticd.adapters.http.core.body import read_object, save_upload, translated
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.gateway import IN_MEMORY_ONLY, Gateway
from semanticd.adapters.http.core.model_names import means_current
from semanticd.adapters.http.core.pages import check_names, page_size, word
from semanticd.adapters.http.core.request_context import (
    priority_of,
    request_context_of,
    show_cache,
)
from semanticd.adapters.http.core.routes import Access
from semanticd.adapters.http.core.services import named_model
from semanticd.application.services.agents import AgentsService
from semanticd.application.services.models import ModelsService
from semanticd.application.services.plain import plain
from semanticd.application.services.status import RequestsService
from semanticd.domain.agent_name import checked_agent_id
from semanticd.domain.agent_summary import AgentOrder, AgentQuery
from semanticd.domain.errors import (
    AgentNotFoundError,
    CacheError,
    InvalidRequestError,
    ModelNotFoundError,
    SemanticError,
    StorageFullError,
)
from semanticd.domain.ids import AgentId
from semanticd.domain.limits import LIMITS

PAGE = 100
MAX_PAGE = 1000
CHUNK_BYTES = 1 << 20


def _json(result: object) -> bytes:
    """Return a service's result, or a dictionary that holds some, as JSON."""
    return msgspec.json.encode(plain(result))


def _answer(resp: Response, result: object, *, unsaved: bool) -> None:
    """Answer with a change of an agent, and report a refusal of the disk: the change then holds in memory only."""
    if unsaved:
        resp.set_header("X-Semantic-Adjusted", IN_MEMORY_ONLY)
    resp.data = _json(result)


class Agents:
    """`/v1/agents`: create and list."""

    access: ClassVar[Access] = "key"

    def __init__(
        self, agents: AgentsService, models: ModelsService, requests: RequestsService, config: HttpConfig
    ) -> None:
        """Serve these agents, which are made for one of these models, and list their requests with them."""
        self._agents = agents
        self._models = models
        self._requests = requests
        self._config = config

    async def on_post(self, req: Request, resp: Response) -> None:
        """Create an agent."""
        body = await read_object(
            req, wire.CreateAgent, self._config, optional=True, max_bytes=LIMITS.agent_bytes
        )
        agent_id = None if body.id is None else checked_agent_id(body.id, param="id")
        config = wire.parse_create(body)
        if config.model:
            await self._check_model(config.model)
        made = await self._agents.create(agent_id, config, pin=bool(body.pin))
        resp.status = falcon.HTTP_201
        resp.set_header("Location", f"/v1/agents/{made.id}")
        _answer(resp, made, unsaved=made.unsaved)

    async def _check_model(self, name: str) -> None:
        """Raise `InvalidRequestError` unless a model goes by this name, loaded or not: all its turns would fail."""
        if means_current(name, self._config.model_patterns):
            return
        try:
            await named_model(self._models, name, patterns=())
        except ModelNotFoundError as error:
            raise InvalidRequestError(error.message, param="model") from error

    async def on_get(self, req: Request, resp: Response) -> None:
        """List agents, a page at a time: `limit`, `order`, and `after` with the last id of the page before."""
        check_names(req, "limit", "after", "order")
        limit = page_size(req, default=PAGE, maximum=MAX_PAGE)
        after = req.get_param("after")
        order = cast("AgentOrder", word(req, "order", allowed=get_args(AgentOrder)))
        query = AgentQuery(limit=limit, after=None if after is None else AgentId(after), order=order)
        try:
            page = await self._agents.page(query)
        except AgentNotFoundError:
            raise InvalidRequestError(f"there is no agent {(after or '')[:80]!r}", param="after") from None
        # With the first page only: running requests are not part of a walk through the pages.
        requests = [] if after is not None else plain(await self._requests.list())
        answer = wire.AgentList(plain(page.agents), page.next is not None, page.next, requests)
        resp.data = msgspec.json.encode(answer)


class AgentStats:
    """`/v1/agents/stats`: all agents in one sum."""

    access: ClassVar[Access] = "key"

    def __init__(self, agents: AgentsService) -> None:
        self._agents = agents

    async def on_get(self, req: Request, resp: Response) -> None:
        """Count agents by state, and their tokens and turns."""
        resp.data = _json(await self._agents.totals())


class Agent:
    """`/v1/agents/{agent_id}`: show and delete."""

    access: ClassVar[Access] = "key"

    def __init__(self, agents: AgentsService) -> None:
        self._agents = agents

    async def on_get(self, req: Request, resp: Response, agent_id: str) -> None:
        """Show one agent with its statistics."""
        resp.data = _json(await self._agents.show(AgentId(agent_id)))

    async def on_delete(self, req: Request, resp: Response, agent_id: str) -> None:
        """Forget an agent."""
        resp.data = _json(await self._agents.delete(AgentId(agent_id)))


class AgentViews:
    """`/v1/agents/{agent_id}/messages` and `/cache`: the conversation, and the causes of cache misses."""

    access: ClassVar[Access] = "key"

    def __init__(self, agents: AgentsService) -> None:
        self._agents = agents

    async def on_get_messages(self, req: Request, resp: Response, agent_id: str) -> None:
        """Return the conversation the server keeps."""
        resp.data = _json({"data": await self._agents.messages(AgentId(agent_id))})

    async def on_get_cache(self, req: Request, resp: Response, agent_id: str) -> None:
        """Return the miss report."""
        resp.data = _json(await self._agents.why(AgentId(agent_id)))


class AgentActions:
    """`/v1/agents/{agent_id}/…`: fork, rewind, pin, unpin, evict and cancel."""

    access: ClassVar[Access] = "key"

    def __init__(self, agents: AgentsService, config: HttpConfig) -> None:
        self._agents = agents
        self._config = config

    async def on_post_fork(self, req: Request, resp: Response, agent_id: str) -> None:
        """Make a second agent that shares the conversation so far."""
        body = await read_object(req, wire.Fork, self._config, optional=True)
        new_id = None if body.id is None else checked_agent_id(body.id, param="id")
        made = await self._agents.fork(AgentId(agent_id), new_id)
        resp.status = falcon.HTTP_201
        _answer(resp, made, unsaved=made.unsaved)

    async def on_post_rewind(self, req: Request, resp: Response, agent_id: str) -> None:
        """Forget the last turns."""
        body = await read_object(req, wire.Rewind, self._config, optional=True)
        changed = await self._agents.rewind(AgentId(agent_id), body.turns)
        _answer(resp, changed, unsaved=changed.unsaved)

    async def on_post_pin(self, req: Request, resp: Response, agent_id: str) -> None:
        """Keep the blocks from eviction."""
        body = await read_object(req, wire.Pin, self._config, optional=True)
        changed = await self._agents.pin(AgentId(agent_id), body.ttl_s or body.ttl)
        _answer(resp, changed, unsaved=changed.unsaved)

    async def on_post_unpin(self, req: Request, resp: Response, agent_id: str) -> None:
        """Let the blocks be evicted again."""
        changed = await self._agents.unpin(AgentId(agent_id))
        _answer(resp, changed, unsaved=changed.unsaved)

    async def on_post_evict(self, req: Request, resp: Response, agent_id: str) -> None:
        """Demote the blocks to disk now."""
        resp.data = _json(await self._agents.evict(AgentId(agent_id)))

    async def on_post_cancel(self, req: Request, resp: Response, agent_id: str) -> None:
        """Cancel the requests that it answers."""
        resp.data = _json(await self._agents.cancel(AgentId(agent_id)))


class AgentGenerate:
    """`/v1/agents/{agent_id}/generate`."""

    access: ClassVar[Access] = "key"

    def __init__(self, gateway: Gateway, agents: AgentsService, config: HttpConfig) -> None:
        self._gateway = gateway
        self._agents = agents
        self._config = config

    async def on_post(self, req: Request, resp: Response, agent_id: str) -> None:
        """Let the agent take its next turn; one that is not known is not made: its name may be mistyped."""
        exchange = request_context_of(req)
        body = await read_object(req, wire.Generate, self._config)
        if body.messages is not None and len(body.messages) > self._config.max_messages:
            raise InvalidRequestError(
                f"expected at most {self._config.max_messages} messages", param="messages"
            )
        reading = partial(
            wire.parse_generate,
            body,
            agent_id=AgentId(agent_id),
            request_id=exchange.request_id,
            priority=priority_of(req),
        )
        await self._agents.require(agent_id)
        request = await translated(req, reading)
        if body.stream and self._agents.is_unsaved(AgentId(agent_id)):
            # A stream's headers are sent before its turn ends; its last event says what happened to that.
            request = replace(request, adjustments=(*request.adjustments, IN_MEMORY_ONLY))
        if body.stream:
            await self._gateway.respond(resp, exchange, request, wire.AgentStream())
            return
        result = await self._gateway.complete(exchange, request)
        show_cache(resp, result.usage.cache)
        resp.data = msgspec.json.encode(wire.render(result))


class AgentExports:
    """`/v1/agents/{agent_id}/export` and `/v1/agents/import`: agent exports, by a temporary file here."""

    access: ClassVar[Access] = "key"

    def __init__(self, agents: AgentsService, config: HttpConfig) -> None:
        self._agents = agents
        self._config = config

    async def on_get_export(self, req: Request, resp: Response, agent_id: str) -> None:
        exchange = request_context_of(req)
        with own_file_unnamed("the file to be sent") as named:
            path = named(await temporary_file(exchange.on_end))
            written = await self._agents.export(AgentId(agent_id), path)
            file = await asyncio.to_thread(Path(path).open, "rb")
        exchange.at_end.callback(file.close)
        if written.num_missing_blocks:
            resp.set_header("X-Semantic-Adjusted", f"blocks_missing={written.num_missing_blocks}")
        resp.content_type = "application/octet-stream"
        resp.downloadable_as = f"{agent_id}.agent"
        resp.content_length = os.fstat(file.fileno()).st_size
        resp.stream = file_chunks(file)

    async def on_post_import(self, req: Request, resp: Response) -> None:
        """Read an agent export; `id` in the query renames the agent."""
        exchange = request_context_of(req)
        given = req.get_param("id")
        new_id = None if given is None else checked_agent_id(given, param="id")
        config = self._config
        with own_file_unnamed("the file that was sent") as named:
            path = named(await temporary_file(exchange.on_end))
            await save_upload(req, path, limit=config.max_import_bytes, stall_s=config.body_timeout_s)
            made = await self._agents.import_(path, new_id)
        resp.status = falcon.HTTP_201
        _answer(resp, made, unsaved=made.agent.unsaved)


@contextmanager
def own_file_unnamed(means: str) -> Iterator[Callable[[str], str]]:
    """Keep internal file names out of errors: they name what the file `means` to the client instead.

    Gives a function the file's path, and returns it.

    Raises:
        CacheError: The system does not take the file; StorageFullError (one of them): there is no room for it.
    """
    paths: list[str] = []

    def named(path: str) -> str:
        paths.append(path)
        return path

    try:
        yield named
    except SemanticError as error:
        for path in paths:
            error.message = error.message.replace(path, means)
        if error.param == "path":
            error.param = None  # the field of the control socket's command
        raise
    except (ConnectionError, TimeoutError):
        raise  # the client's, not the file's
    except OSError as error:
        kind = StorageFullError if error.errno in {errno.ENOSPC, errno.EDQUOT} else CacheError
        raise kind(
            f"the daemon cannot keep {means} in its temporary folder: {error.strerror or error}; make room there, or "
            "start it with another TMPDIR"
        ) from error


async def temporary_file(on_end: Callable[[Callable[[], Awaitable[None]]], None]) -> str:
    """Return the path of an empty file, readable by us only, that is removed when the exchange ends."""
    handle, path = tempfile.mkstemp(prefix="semanticd-", suffix=".agent")
    os.close(handle)

    async def remove() -> None:
        await asyncio.to_thread(Path(path).unlink, missing_ok=True)

    on_end(remove)
    return path


async def file_chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    """Yield a file's bytes in pieces, read outside of the event loop."""
    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield chunk
