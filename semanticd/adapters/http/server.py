"""Connections: their maximum number, their timeouts, and which are closed when there are too many.

uvicorn on h11 (`strict_connection`), without WebSockets. A connection waits for its client while no head, or no whole
body, has arrived; such a one can be closed to make room for another. One whose request is being answered is never
closed for that.
"""

from __future__ import annotations

import asyncio
import enum
import resource
import sys
from collections import OrderedDict
from dataclasses import replace
from http import HTTPStatus
from typing import Any, ClassVar

import h11
import msgspec
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from semanticd.adapters.http.core import errors
from semanticd.adapters.http.core.errors import HeadersTooLargeError, HttpOnlyError, InvalidHttpError
from semanticd.adapters.http.core.request_context import make_request_id
from semanticd.adapters.http.strict_connection import RefusedRequestError, StrictConnection
from semanticd.application.ports.telemetry import Log, Metrics
from semanticd.domain.limits import LIMITS, Limits

_FULL_BODY = (
    b'{"error": {"message": "too many connections", "type": "server_error", '
    b'"param": null, "code": "overloaded"}}'
)
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_FULL_BODY), _FULL_BODY)
)
_HEAD_TOO_LARGE = 431
_LOG_EVERY_S = 1.0
"""Of connections dropped for one reason, one in this time is logged; all are counted."""


class Waiting(enum.Enum):
    """States of a waiting connection, in the order in which connections are closed."""

    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"


class ConnectionBook:
    """All connections, by peer and by what they wait for, each the longest waiting first."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: dict[BoundedProtocol, Waiting] = {}
        self._peers: dict[str, dict[Waiting, OrderedDict[BoundedProtocol, None]]] = {}
        self._all: dict[Waiting, OrderedDict[BoundedProtocol, None]] = {
            kind: OrderedDict() for kind in Waiting
        }

    def __len__(self) -> int:
        return len(self._waiting)

    def num_waiting(self, waiting: Waiting) -> int:
        """Return how many connections wait for this."""
        return len(self._all[waiting])

    def enter(self, connection: BoundedProtocol) -> tuple[bool, BoundedProtocol | None]:
        """Add a connection; return whether there was room, and the connection to close for it."""
        peer = self._peers.setdefault(connection.peer, {kind: OrderedDict() for kind in Waiting})
        leaving: BoundedProtocol | None = None
        if sum(map(len, peer.values())) >= self._limits.connections_per_peer:
            leaving = _longest_waiting(peer)
        elif len(self) >= self._limits.connections:
            leaving = _longest_waiting(self._all)
        else:
            self._put(connection, Waiting.HEAD)
            return True, None
        if leaving is None:
            return False, None
        self.leave(leaving)
        self._peers.setdefault(connection.peer, peer)
        self._put(connection, Waiting.HEAD)
        return True, leaving

    def note(self, connection: BoundedProtocol, waiting: Waiting) -> None:
        """Set what a connection waits for; its place in the order stays while that is unchanged."""
        before = self._waiting.get(connection)
        if before is None or before is waiting:
            return
        del self._all[before][connection]
        del self._peers[connection.peer][before][connection]
        self._put(connection, waiting)

    def leave(self, connection: BoundedProtocol) -> None:
        """Forget a connection; one that is not known is ignored."""
        waiting = self._waiting.pop(connection, None)
        if waiting is None:
            return
        del self._all[waiting][connection]
        peer = self._peers[connection.peer]
        del peer[waiting][connection]
        if not any(peer.values()):
            del self._peers[connection.peer]

    def _put(self, connection: BoundedProtocol, waiting: Waiting) -> None:
        self._waiting[connection] = waiting
        self._all[waiting][connection] = None
        self._peers[connection.peer][waiting][connection] = None


def _longest_waiting(
    lines: dict[Waiting, OrderedDict[BoundedProtocol, None]],
) -> BoundedProtocol | None:
    for kind in (Waiting.HEAD, Waiting.BODY):
        for connection in lines[kind]:
            return connection
    return None


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol with deadlines for the client; `bounded_protocol` gives it its book and limits."""

    book: ClassVar[ConnectionBook]
    limits: ClassVar[Limits]
    log: ClassVar[Log]
    metrics: ClassVar[Metrics]
    logged_at: ClassVar[dict[str, float]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Begin without a peer."""
        super().__init__(*args, **kwargs)
        self.conn = StrictConnection(self.limits)
        self.peer = ""
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    # Events of the connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it in, or turn it away."""
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else "unix"
        entered, leaving = self.book.enter(self)
        if leaving is not None:
            leaving.drop("room")
        if not entered:
            self._note_dropped("full")
            transport.write(_FULL)
            transport.close()
            return
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Read on; a head has to be complete in time, however slowly it comes."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._note_state()

    def on_response_complete(self) -> None:
        """Wait for the next head."""
        super().on_response_complete()
        self._note_state()

    def send_400_response(self, msg: str) -> None:
        """Refuse an invalid or ambiguous request, and close: the start of the next one is unknown.

        uvicorn calls it while it handles h11's error. An answer that has begun is cut off.
        """
        cycle: RequestResponseCycle | None = self.cycle
        begun = cycle is not None and not cycle.response_complete
        if begun:
            # Its resource may still wait for the body.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._note_dropped("invalid")
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(self._refusal(sys.exc_info()[1], self.scope["path"] if begun else ""))
        self.transport.close()

    def _refusal(self, error: BaseException | None, path: str) -> bytes:
        """Return a whole answer, in the shape of the dialect whose path it is, if one was read."""
        dialect = errors.dialect_of(path or "other", anthropic_version=None)
        request_id = make_request_id()
        made = errors.answer(self._refused(error), dialect, request_id=request_id)
        content = msgspec.json.encode(made.body)
        head = (
            f"HTTP/1.1 {made.status} {HTTPStatus(made.status).phrase}\r\nContent-Type: application/json\r\n"
            f"X-Request-ID: {request_id}\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode("ascii") + content

    def _refused(self, error: BaseException | None) -> HttpOnlyError:
        if isinstance(error, RefusedRequestError):
            return InvalidHttpError(str(error))
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == _HEAD_TOO_LARGE:
            return HeadersTooLargeError(f"the headers exceed {self.limits.header_bytes} bytes")
        # h11's message quotes the request, and with it perhaps a key.
        return InvalidHttpError("the request is not valid HTTP/1.1")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_timers()
        self.book.leave(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client has not read what was sent: it has some time to continue."""
        super().pause_writing()
        if self._write_timer is None:
            self._expect_reading()

    def resume_writing(self) -> None:
        """It continued."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    # Timers and states that follow from the events.

    def _note_state(self) -> None:
        # uvicorn says `None` of a connection without a request so far, but its annotation does not.
        cycle: RequestResponseCycle | None = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if answering:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
            self.book.note(self, Waiting.BODY if self.cycle.more_body else Waiting.ANSWER)
            return
        self.book.note(self, Waiting.HEAD)
        # Between two requests uvicorn's own timer runs, until the first byte of the next head.
        begun = self.timeout_keep_alive_task is None or bool(self.conn.trailing_data[0])
        if self._head_timer is None and begun and not self.transport.is_closing():
            self._expect_head()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.header_timeout_s, self.drop, "head")

    def _expect_reading(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self.limits.write_timeout_s, self._check_reading)

    def _check_reading(self) -> None:
        self._write_timer = None
        if self._unsent - self.transport.get_write_buffer_size() < self.limits.write_progress_bytes:
            self.drop("write")
        else:
            self._expect_reading()

    def drop(self, reason: str) -> None:
        """Close the connection at once, dropping unsent bytes; `reason` goes into log and metrics."""
        self._stop_timers()
        self.book.leave(self)
        self._note_dropped(reason)
        self.transport.abort()

    def _note_dropped(self, reason: str) -> None:
        self.metrics.count("http_connections_dropped_total", reason=reason)
        now = self.loop.time()
        if now - self.logged_at.get(reason, -_LOG_EVERY_S) >= _LOG_EVERY_S:
            self.logged_at[reason] = now
            self.log.warning(
                "http_connection_dropped", reason=reason, peer=self.peer, num_connections=len(self.book)
            )

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = None


def bounded_protocol(*, log: Log, metrics: Metrics, limits: Limits = LIMITS) -> type[BoundedProtocol]:
    """Return a protocol class whose connections share one book."""

    class Protocol(BoundedProtocol):
        """A server's own connections."""

    Protocol.book = ConnectionBook(limits)
    Protocol.limits = limits
    Protocol.log = log
    Protocol.metrics = metrics
    Protocol.logged_at = {}
    return Protocol


def within_descriptors(limits: Limits) -> Limits:
    """Return the limits with as many connections as half of the descriptors that this process may have.

    The soft limit is raised first as far as it is needed and allowed: macOS begins with 256.
    """
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * limits.connections
        if soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    except (OSError, ValueError):
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = min(limits.connections, soft // 2)
    return replace(limits, connections=most, connections_per_peer=min(limits.connections_per_peer, most))


def server_config(
    app: Any, *, log: Log, metrics: Metrics, limits: Limits = LIMITS, **more: Any
) -> uvicorn.Config:
    """Return uvicorn's configuration for an app whose clients are not trusted."""
    return uvicorn.Config(
        app,
        http=bounded_protocol(log=log, metrics=metrics, limits=limits),
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=int(limits.idle_timeout_s),
        h11_max_incomplete_event_size=limits.header_bytes,
        server_header=False,
        # The admin routes depend on a client's address: a header must not set it.
        proxy_headers=False,
        **more,
    )
