"""A client inside the process: drives an ASGI application one exchange at a time, and can leave in the middle."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(slots=True)
class Answer:
    """What came back, chunk by chunk."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def content(self) -> bytes:
        """All bytes."""
        return b"".join(self.chunks)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.content)


@dataclass(slots=True)
class AsgiClient:
    """Sends requests to an application; `leave` is set to hang up on the request under way."""

    app: AsgiApp
    headers: dict[str, str] = field(default_factory=dict)
    client: tuple[str, int] | None = ("127.0.0.1", 50_000)

    async def send(
        self,
        method: str,
        url: str,
        body: bytes | Sequence[bytes] = b"",
        *,
        headers: dict[str, str] | None = None,
        leave: asyncio.Event | None = None,
        stall: bool = False,
        answer: Answer | None = None,
    ) -> Answer:
        """Return the whole answer; with `stall` the body's end never comes."""
        path, _, query = url.partition("?")
        given = {"host": "localhost:8000", **self.headers, **(headers or {})}
        chunks = [body] if isinstance(body, bytes) else list(body)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (name.lower().encode(), value.encode("latin-1")) for name, value in given.items() if value
            ],
            "client": self.client,
            "server": ("127.0.0.1", 8000),
        }
        made = answer or Answer()
        gone = leave or asyncio.Event()
        position = 0

        async def receive() -> dict[str, Any]:
            nonlocal position
            if position < len(chunks):
                position += 1
                more = position < len(chunks) or stall
                return {"type": "http.request", "body": chunks[position - 1], "more_body": more}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                made.status = message["status"]
                made.headers = {
                    name.decode().lower(): value.decode("latin-1") for name, value in message["headers"]
                }
            else:
                if message.get("body"):
                    made.chunks.append(message["body"])
                made.complete = not message.get("more_body", False)

        await self.app(scope, receive, send)
        return made

    async def post(self, url: str, body: object, **options: Any) -> Answer:
        """Send JSON."""
        headers = {"content-type": "application/json", **options.pop("headers", {})}
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send("POST", url, raw, headers=headers, **options)

    async def get(self, url: str, **options: Any) -> Answer:
        """Ask."""
        return await self.send("GET", url, **options)


async def until(condition: Callable[[], bool], *, deadline_s: float = 60.0) -> None:
    """Let the event loop run until a condition holds; fails at the deadline."""

    async def poll() -> None:
        num_rounds = 0
        while not condition():
            # What other tasks do takes a few rounds; the engine's thread needs the interpreter that rounds would keep.
            await asyncio.sleep(0 if num_rounds < 100 else 0.001)
            num_rounds += 1

    await asyncio.wait_for(poll(), deadline_s)
