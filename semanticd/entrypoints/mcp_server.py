"""An MCP server by which an agent looks at and steers its own cache, over the daemon's control socket.

Rule: every tool is one command of the control socket, on a connection of its own, so that the daemon may restart
meanwhile; what the daemon refuses is the tool's error. The extra `mcp` brings the SDK.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from semanticd import __version__
from semanticd.control.async_client import AsyncControlClient
from semanticd.control.errors import ControlError
from semanticd.control.results import AgentRow, StatusResult, WhyResult, read, read_all, rows_in
from semanticd.domain.errors import ConfigurationError, DaemonError
from semanticd.entrypoints.cli.agents import explained

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp_types import ToolAnnotations
except ImportError as missing:
    raise DaemonError(
        f"the MCP SDK is not installed ({missing}); install it with `pip install 'semanticd[mcp]'`"
    ) from missing

PATH = "/mcp"
_SHOWN_AGENTS = 20
_MOST_TURNS = 50
_LOOKS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_CHANGES = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_ADDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
_FORGETS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False
)
_INSTRUCTIONS = """\
Tools about the prompt cache of the model server that answers you. `status` says how the server is and lists agents, the
ones used last first. `why` says why an agent's turns took their time, and where its prompt left what was cached. `fork`
copies a conversation, `rewind` forgets its last turns, `pin` keeps it in memory. Where the server was started with an
agent's name, that one is meant unless another is named."""

Facts = dict[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class CacheTools:
    """The tools, for the daemon behind a socket."""

    def __init__(self, socket: Path, *, agent: str | None = None) -> None:
        """Query the daemon at `socket`; `agent` is used for calls that do not name one."""
        self._socket = socket
        self._agent = agent

    async def status(self) -> Facts:
        """Report the server's state: its models, the cache in RAM and on disk, and the most recently used agents."""
        async with await self._connected() as client:
            found = read(StatusResult, await self._called(client, "status"))
            page = await self._called(client, "agents.list", limit=_SHOWN_AGENTS)
        cache = found.cache
        return {
            "state": found.state,
            "version": found.version,
            "model": found.model,
            "models": [model.id for model in found.models],
            "cache": {
                "hot_bytes": cache.hot_bytes,
                "budget_bytes": cache.budget_bytes,
                "warm_bytes": cache.warm_bytes,
            },
            "own_agent": self._agent,
            "agents": [
                {
                    "id": row.id,
                    "model": row.model,
                    "state": row.state,
                    "tokens": row.num_tokens,
                    "turns": row.num_turns,
                    "hot_bytes": row.hot_bytes,
                    "warm_bytes": row.warm_bytes,
                    "pinned": row.pinned,
                    "last_reuse_ratio": row.last_reuse_ratio,
                }
                for row in read_all(AgentRow, rows_in(page, "agents"))
            ],
        }

    async def why(self, agent: str | None = None, turns: int = 1) -> str:
        """Explain the duration of an agent's last turns: what they reused, and where a prompt left the cache."""
        if not 1 <= turns <= _MOST_TURNS:
            raise ToolError(f"turns: expected 1 to {_MOST_TURNS}, got {turns}")
        answer = await self._ask("agents.why", agent=self._meant(agent))
        found = read(WhyResult, answer).turns[-turns:]
        return "\n".join(map(explained, found)) or "no turn has finished yet"

    async def fork(self, agent: str | None = None, new_id: str | None = None) -> Facts:
        """Make a second agent with the same conversation, whose cache is shared; returns it."""
        return await self._ask("agents.fork", agent=self._meant(agent), new_id=new_id)

    async def rewind(self, agent: str | None = None, turns: int = 1) -> Facts:
        """Forget an agent's last turns permanently; the turns before them stay cached."""
        return await self._ask("agents.rewind", agent=self._meant(agent), turns=turns)

    async def pin(self, agent: str | None = None, seconds: float | None = None, keep: bool = True) -> Facts:
        """Keep an agent's cache in memory, for this many seconds or permanently; keep=false ends the pin."""
        if not keep:
            return await self._ask("agents.unpin", agent=self._meant(agent))
        return await self._ask("agents.pin", agent=self._meant(agent), ttl_s=seconds)

    def _meant(self, agent: str | None) -> str:
        if agent or self._agent:
            return agent or str(self._agent)
        raise ToolError("name an agent; `status` lists them, `semanticd mcp --agent NAME` sets one")

    async def _ask(self, cmd: str, **args: Any) -> Facts:
        async with await self._connected() as client:
            return await self._called(client, cmd, **args)

    async def _connected(self) -> AsyncControlClient:
        try:
            return await AsyncControlClient.connect(self._socket, name="semanticd-mcp")
        except ControlError as error:
            raise ToolError(str(error)) from error

    @staticmethod
    async def _called(client: AsyncControlClient, cmd: str, **args: Any) -> Facts:
        try:
            return await client.call(cmd, **args)
        except ControlError as error:
            raise ToolError(str(error)) from error


def make_server(socket: Path, *, agent: str | None = None) -> Any:
    """Return the MCP server for the daemon behind `socket`; see `CacheTools`."""
    tools = CacheTools(socket, agent=agent)
    server = MCPServer(
        "semanticd",
        title="semanticd's cache",
        instructions=_INSTRUCTIONS,
        version=__version__,
        log_level="WARNING",
    )
    for tool, hints in (
        (tools.status, _LOOKS),
        (tools.why, _LOOKS),
        (tools.fork, _ADDS),
        (tools.rewind, _FORGETS),
        (tools.pin, _CHANGES),
    ):
        server.add_tool(tool, annotations=hints)
    return server


def serve_stdio(socket: Path, *, agent: str | None) -> None:
    """Serve the program that started this one, over stdin and stdout, until it closes them."""
    asyncio.run(make_server(socket, agent=agent).run_stdio_async())


def serve_http(socket: Path, *, agent: str | None, host: str, port: int, keys: Sequence[str]) -> None:
    """Serve HTTP until it is interrupted; with `keys`, one of them is asked for as a bearer token.

    Raises:
        ConfigurationError: The port is taken.
    """
    import uvicorn

    app = http_app(socket, agent=agent, host=host, keys=keys)
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[_bound(host, port)])


def http_app(socket: Path, *, agent: str | None, host: str, keys: Sequence[str]) -> AsgiApp:
    """Return the ASGI application: the SDK's, which checks Host and Origin, behind the keys."""
    app = make_server(socket, agent=agent).streamable_http_app(
        streamable_http_path=PATH, stateless_http=True, json_response=True, host=host
    )
    return _Keyed(app, keys) if keys else app


class _Keyed:
    """Admits requests that have a key."""

    def __init__(self, app: AsgiApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_known(scope):
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b"Bearer")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send(
            {"type": "http.response.body", "body": b"an API key is needed: Authorization: Bearer KEY\n"}
        )

    def _is_known(self, scope: MutableMapping[str, Any]) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        # All of them are compared, so that the time says nothing.
        matches = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        return scheme.lower() == b"bearer" and any(matches)


def _bound(host: str, port: int) -> Any:
    import socket as sockets

    family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
    made = sockets.socket(family, sockets.SOCK_STREAM)
    made.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port"
        ) from error
    return made
