"""`semanticd mcp`: tools for an agent to look at and steer its own cache, as an MCP server."""

from __future__ import annotations

import importlib
from typing import Any

import click

from semanticd.entrypoints.cli.daemon_link import settings_or_defaults, socket_path
from semanticd.entrypoints.cli.output import narrate

DEFAULT_PORT = 8765
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command("mcp")
@click.option("--agent", help="Agent for calls that do not name one.")
@click.option("--http", "over_http", is_flag=True, help="Serve HTTP instead of stdin and stdout.")
@click.option(
    "--host",
    type=click.Choice(_LOOPBACK),
    default="127.0.0.1",
    show_default=True,
    help="Loopback address of the HTTP server.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port of the HTTP server.",
)
def mcp(*, agent: str | None, over_http: bool, host: str, port: int) -> None:
    """Serve MCP tools that let agents manage their cache.

    The tools are status, why, fork, rewind and pin. A client of the Model Context Protocol starts this command and uses
    its stdin and stdout. With --http, the command is an HTTP server at /mcp and requires an API key if SEMANTIC_API_KEY
    is set. It needs the extra `mcp`.
    """
    # By name, because it brings a server stack of its own.
    server: Any = importlib.import_module("semanticd.entrypoints.mcp_server")
    if not over_http:
        server.serve_stdio(socket_path(), agent=agent)
        return
    keys = settings_or_defaults().security.api_key
    narrate(f"http://{host if ':' not in host else f'[{host}]'}:{port}{server.PATH} (Ctrl-C ends it)")
    server.serve_http(socket_path(), agent=agent, host=host, port=port, keys=keys)
