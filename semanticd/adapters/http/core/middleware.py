"""Pure-ASGI wrappers around the Falcon app: the exchange with its client, and the guards at the door.

`RequestContextWrapper` keeps reading `receive()` while the app works, because Falcon does not: a client that leaves
cancels the app's task at once, in prefill as in decode, streaming or not.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

import msgspec

from semanticd.adapters.http.core import errors
from semanticd.adapters.http.core.body import within
from semanticd.adapters.http.core.errors import InvalidPathError, SlowBodyError
from semanticd.adapters.http.core.guards import Guards, header
from semanticd.adapters.http.core.paths import canonical_path
from semanticd.adapters.http.core.recording import Recording
from semanticd.adapters.http.core.request_context import SCOPE_KEY, RequestContext, make_request_id
from semanticd.adapters.http.core.routes import DeclaredRouter
from semanticd.adapters.http.core.services import HttpServices
from semanticd.domain.errors import CancelledByCallerError, OverloadedError, RanksLostError, SemanticError
from semanticd.domain.ids import RequestId

Scope = MutableMapping[str, Any]
AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]

_ECHOABLE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MAX_UNREAD_PARTS = 8
_NOTHING_YET: AsgiMessage = {"type": "http.request", "body": b"", "more_body": True}
"""Empty first message for Falcon, which reads one before it routes: the client is not asked for the body by that."""
_OK = 200
_CLIENT_ERROR = 400
_SERVER_ERROR = 500
_REFUSED = 1008
"""The WebSocket close code for a policy violation."""
_TRACE_HEADERS = ("traceparent", "tracestate")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class RequestContextWrapper:
    """Gives every request its ids, watches for its client's leaving, and cleans up however it ends."""

    def __init__(
        self,
        app: AsgiApp,
        router: DeclaredRouter,
        *,
        guards: Guards,
        services: HttpServices,
        body_timeout_s: float,
    ) -> None:
        """Wrap an app, whose router this is, behind its guards; a body begins within `body_timeout_s`."""
        self._body_timeout_s = body_timeout_s
        self._app = app
        self.router = router
        self._guards = guards
        self._services = services
        self._running: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; `lifespan` passes through, and a WebSocket is refused."""
        if scope["type"] == "websocket":
            # No resource speaks it, and no guard would be asked.
            await send({"type": "websocket.close", "code": _REFUSED})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = self._services.monotonic()
        exchange = self._begin(scope)
        with self._services.log_context(**_log_fields(exchange)):
            await self._exchange(scope, receive, send, exchange, begun=begun)

    async def _exchange(
        self, scope: Scope, receive: Receive, send: Send, exchange: RequestContext, *, begun: float
    ) -> None:
        answer = _Answer(exchange, send, self._guards.response_headers(scope))
        try:
            await self._work(scope, receive, answer, exchange)
        except Exception as error:  # noqa: BLE001 - the server's own handler would cut the stream
            self._services.log.error("http_request_failed", request_id=exchange.request_id, error=repr(error))
            if not answer.status:
                await answer.fail(error, scope)
        finally:
            self._running.discard(exchange.request_id)
            await exchange.at_end.aclose()
            self._note(exchange, answer, scope, seconds=self._services.monotonic() - begun)
            if exchange.error is not None:
                # Its frames hold the body and this exchange, which holds it: all stays until cycles are looked for.
                exchange.error.__traceback__ = exchange.error.__context__ = None
                exchange.error = None

    def _note(self, exchange: RequestContext, answer: _Answer, scope: Scope, *, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = exchange.route.template
        metrics = self._services.metrics
        metrics.count("http_requests_total", route=route, method=method, status=str(answer.status or "none"))
        metrics.observe("http_request_seconds", seconds, route=route)
        self._services.log.info(
            "http_request",
            request_id=exchange.request_id,
            caller=exchange.caller,
            method=method,
            route=route,
            status=answer.status,
            seconds=round(seconds, 4),
        )
        if method == "POST":
            self._note_outcome(exchange, answer, scope)
        if self._services.traces is not None and exchange.recording is not None and exchange.recording.body:
            self._services.traces.record(
                exchange.recording.request(
                    exchange.request_id, exchange.path, agent_id=exchange.agent_id, status=answer.status
                )
            )
        if exchange.span is not None:
            # A client that leaves gets no status; that is its affair and no failure.
            exchange.span.end(
                failed=answer.status >= _SERVER_ERROR,
                semanticd__request_id=exchange.request_id,
                http__request__method=method,
                http__route=route,
                http__response__status_code=answer.status,
                **(exchange.gen_ai.attributes() if exchange.gen_ai is not None else {}),
            )

    def _note_outcome(self, exchange: RequestContext, answer: _Answer, scope: Scope) -> None:
        """Note how a generation ended, and every request to the API that was refused before it became one."""
        error = exchange.error
        if error is None:
            if exchange.agent_id is not None and answer.status == _OK:
                self._services.outcomes.answered()
            return
        if isinstance(error, CancelledByCallerError) or not exchange.route.is_api:
            return
        known = errors.foreseen(error)
        status = errors.row_for(known).status
        # It is worth another try, as an overload is, but was accepted: nothing about the request or a limit ended it.
        was_accepted = isinstance(known, RanksLostError)
        refused = not was_accepted and (status < _SERVER_ERROR or isinstance(known, OverloadedError))
        self._services.outcomes.not_answered(
            known.code,
            known.message,
            kind="refused" if refused else "failed",
            request_id=exchange.request_id,
            agent_id=exchange.agent_id or header(scope, b"x-session-id"),
            status=answer.status if answer.status >= _CLIENT_ERROR else status,
        )

    def _begin(self, scope: Scope) -> RequestContext:
        asked = header(scope, b"x-request-id") or ""
        echoed = asked if _ECHOABLE.fullmatch(asked) else make_request_id()
        own = echoed if echoed not in self._running else make_request_id()
        self._running.add(own)
        address = (scope.get("client") or ("",))[0]
        exchange = RequestContext(RequestId(own), echoed, path=scope["path"], address=address)
        self._read_path(scope, exchange)
        if self._services.tracer is not None and scope["method"] == "POST" and exchange.route.is_api:
            headers = {name: header(scope, name.encode("ascii")) or "" for name in _TRACE_HEADERS}
            exchange.span = self._services.tracer.begin("request", headers=headers)
        if self._services.traces is not None:
            exchange.recording = Recording.of(
                scope,
                exchange.route.template,
                began_at=self._services.wall(),
                monotonic=self._services.monotonic,
            )
        scope[SCOPE_KEY] = exchange
        return exchange

    def _read_path(self, scope: Scope, exchange: RequestContext) -> None:
        """Find the route; the app sees the path as it was read here, and in no other spelling."""
        try:
            exchange.path = canonical_path(scope)
        except InvalidPathError as error:
            exchange.refusal = error
            return
        scope["path"] = exchange.path
        scope["raw_path"] = quote(exchange.path).encode("ascii")
        exchange.route = self.router.match(exchange.path)

    async def _work(self, scope: Scope, receive: Receive, answer: _Answer, exchange: RequestContext) -> None:
        try:
            if exchange.refusal is not None:
                raise exchange.refusal
            early = self._guards.admit(scope, exchange)
        except SemanticError as error:
            await answer.fail(error, scope)
            return
        if early is not None:
            await answer.plain(early.status, early.headers, early.body)
            return
        if _waits_to_be_asked(scope):
            # A body that its head rules out (too long, say) is refused before the client is asked for a byte of it.
            inbox = _Inbox(_NOTHING_YET, is_asked=False)
            send: Send = inbox.asking_with(answer.send)
        else:
            first = await self._first_part(receive, answer, scope)
            if first is None:
                return
            if first["type"] == "http.disconnect":
                self._note_left(exchange)
                return
            inbox, send = _Inbox(first, is_asked=True), answer.send
        work = asyncio.ensure_future(self._app(scope, inbox.get, send))
        watch = asyncio.create_task(inbox.fill(receive, work))
        try:
            await work
        except asyncio.CancelledError:
            # Swallowed only if it was the client's leaving; the server's own cancellation continues.
            if not (watch.done() and not watch.cancelled()):
                raise
            self._note_left(exchange)
        finally:
            watch.cancel()
            work.cancel()
            await asyncio.gather(watch, work, return_exceptions=True)

    async def _first_part(self, receive: Receive, answer: _Answer, scope: Scope) -> AsgiMessage | None:
        """Return the client's first message; None, and an error for the client, if none comes in time."""
        try:
            return await within(self._body_timeout_s, receive())
        except (asyncio.TimeoutError, TimeoutError):
            # Falcon waits for the first part of a body without a limit.
            late = SlowBodyError(f"the body did not begin within {self._body_timeout_s:g} seconds")
            await answer.fail(late, scope)
            return None

    def _note_left(self, exchange: RequestContext) -> None:
        self._services.log.info("http_client_left", request_id=exchange.request_id, path=exchange.path)
        self._services.metrics.count("http_clients_left_total")


def _log_fields(exchange: RequestContext) -> dict[str, str]:
    ids: dict[str, str] = {"request_id": exchange.request_id}
    return ids if exchange.span is None else {**ids, "trace_id": exchange.span.trace_id}


def _waits_to_be_asked(scope: Scope) -> bool:
    """Whether the client sends its body only after "100 Continue", which uvicorn sends when the body is first read."""
    return (header(scope, b"expect") or "").lower() == "100-continue"


class _Inbox:
    """The client's messages on their way to the app; for one request."""

    def __init__(self, first: AsgiMessage, *, is_asked: bool) -> None:
        """Begin with a message; nothing is read from a client that is not asked yet."""
        self._parts: asyncio.Queue[AsgiMessage] = asyncio.Queue(_MAX_UNREAD_PARTS)
        self._parts.put_nowait(first)
        self._asked = asyncio.Event()
        if is_asked:
            self._asked.set()

    async def get(self) -> AsgiMessage:
        """Return the next message; the client is asked for it."""
        if self._parts.empty():
            self._asked.set()
        return await self._parts.get()

    def asking_with(self, send: Send) -> Send:
        """Return a `send` that also reads from the client once its answer has begun, to see whether it leaves."""

        async def asking(message: AsgiMessage) -> None:
            await send(message)
            self._asked.set()

        return asking

    async def fill(self, receive: Receive, work: asyncio.Future[None]) -> None:
        """Take in what the client sends, and cancel the work when it leaves."""
        await self._asked.wait()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                work.cancel()
                return
            await self._parts.put(message)


class _Answer:
    """The way back to the client: adds the headers every answer has, and knows its status (0: none yet)."""

    def __init__(self, exchange: RequestContext, send: Send, extra: list[tuple[bytes, bytes]]) -> None:
        self.status = 0
        self._exchange = exchange
        self._send = send
        request_id = exchange.echoed_id.encode("ascii")
        self._headers = [(b"x-request-id", request_id), (b"request-id", request_id), *extra]

    async def send(self, message: AsgiMessage) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = message.get("headers", ())
            message = {**message, "headers": [*own, *self._headers, *self._exchange.answer_headers.items()]}
        await self._send(message)

    async def plain(self, status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
        """Send a complete answer."""
        length = (b"content-length", str(len(content)).encode("ascii"))
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        await self.send({"type": "http.response.body", "body": content})

    async def fail(self, error: BaseException, scope: Scope) -> None:
        """Send an error in the shape of the dialect that lives at the request's path."""
        self._exchange.error = error
        dialect = errors.dialect_of(
            self._exchange.route.template, anthropic_version=header(scope, b"anthropic-version")
        )
        made = errors.answer(error, dialect, request_id=self._exchange.echoed_id)
        headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in made.headers.items()]
        content = b"" if scope["method"] == "HEAD" else msgspec.json.encode(made.body)
        await self.plain(made.status, [(b"content-type", b"application/json"), *headers], content)
