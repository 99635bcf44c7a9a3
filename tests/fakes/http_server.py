"""A real server on a loopback port, in a thread of its own, for clients that open sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from semanticd.adapters.event_loop import new_event_loop

make_loop: Callable[[], asyncio.AbstractEventLoop] = new_event_loop
"""Makes the loop of each server, as the daemon's is made; tests of what depends on it try others."""


@contextmanager
def serving(app: Any, *, config: uvicorn.Config | None = None) -> Iterator[str]:
    """Serve an application and yield its URL, with uvicorn's `config` if it is not to be a plain one."""
    # The protocol is named as the daemon names it: asyncio sends without delay only where it is.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    plain = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config or plain)
    started = threading.Event()
    startup = server.startup

    async def tell(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = tell  # type: ignore[method-assign]

    def run() -> None:
        loop = make_loop()
        loop.run_until_complete(server.serve([listener]))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    if not started.wait(60):
        raise RuntimeError("the test server did not start")
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
