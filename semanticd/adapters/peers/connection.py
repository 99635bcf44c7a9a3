"""One HTTP/1.1 connection to a peer, on h11, which the server speaks too: one request at a time, bounded in bytes.

There are no redirects, proxies, cookies or content codings to be misled by. Time is the caller's: who waits for a
request with a deadline ends it, and with it the connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import h11

PeerFailure = Literal[
    "unreachable", "timed_out", "refused", "busy", "gone", "malformed", "too_large", "cut_off", "damaged"
]
"""Failure of a peer, as the metrics name it."""

_READ_BYTES = 256 * 1024
_MAX_HEAD_BYTES = 64 * 1024

Headers = Sequence[tuple[str, str]]


class PeerFailedError(Exception):
    """A request to a peer failed; `failure` is the kind, the message has the cause."""

    def __init__(self, failure: PeerFailure, message: str, *, for_long: bool = False) -> None:
        """`for_long`: it will not do better soon."""
        super().__init__(message)
        self.failure: PeerFailure = failure
        self.for_long = for_long


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a peer."""

    host: str
    port: int
    encrypted: bool
    authority: str
    """As the Host header has it."""

    @classmethod
    def of(cls, url: str) -> Address:
        """Read `http://mac-2:8000`.

        Raises:
            ValueError: The text is not such an address.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(url)
        encrypted = parts.scheme == "https"
        port = parts.port or (443 if encrypted else 80)
        return cls(parts.hostname, port, encrypted, parts.netloc.rpartition("@")[2])


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    body: bytes


class PeerConnection:
    """An open connection."""

    def __init__(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take over an open socket; make one with `open`."""
        self._address = address
        self._reader = reader
        self._writer = writer
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self.bytes_read = 0
        """Of the present request's answer, so far."""

    @classmethod
    async def open(cls, address: Address) -> PeerConnection:
        """Connect.

        Raises:
            PeerFailedError: The peer cannot be reached.
        """
        context = ssl.create_default_context() if address.encrypted else None
        try:
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=context, limit=4 * _READ_BYTES
            )
        except (OSError, UnicodeError) as error:
            raise PeerFailedError("unreachable", f"it cannot be reached: {error}") from error
        return cls(address, reader, writer)

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request."""
        return self._state.our_state is h11.IDLE and not self._reader.at_eof()

    async def ask(
        self, method: str, path: str, *, headers: Headers = (), body: bytes = b"", max_bytes: int
    ) -> Reply:
        """Send a request and return its answer of at most `max_bytes`.

        Raises:
            PeerFailedError: The request failed, or the answer is malformed or too large.
        """
        self.bytes_read = 0
        try:
            return await self._ask(method, path, headers, body, max_bytes)
        except h11.LocalProtocolError as error:
            raise PeerFailedError("malformed", f"the request is not HTTP: {error}") from error
        except h11.RemoteProtocolError as error:
            # Also the end of the connection in the middle of an answer.
            cut = self._reader.at_eof()
            raise PeerFailedError("cut_off" if cut else "malformed", f"incomplete answer: {error}") from error
        except OSError as error:
            raise PeerFailedError("cut_off", f"the connection broke: {error}") from error

    async def _ask(self, method: str, path: str, headers: Headers, body: bytes, max_bytes: int) -> Reply:
        own = [("Host", self._address.authority), ("Content-Length", str(len(body))), *headers]
        self._writer.write(self._state.send(h11.Request(method=method, target=path, headers=own)) or b"")
        if body:
            self._writer.write(self._state.send(h11.Data(data=body)) or b"")
        self._writer.write(self._state.send(h11.EndOfMessage()) or b"")
        await self._writer.drain()
        status = 0
        pieces: list[bytes] = []
        while True:
            event = self._state.next_event()
            if event is h11.NEED_DATA:
                self._state.receive_data(await self._reader.read(_READ_BYTES))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                self.bytes_read += len(event.data)
                if self.bytes_read > max_bytes:
                    raise PeerFailedError("too_large", f"its answer is larger than {max_bytes} bytes")
                pieces.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise PeerFailedError("cut_off", "it closed the connection")
        if self._state.their_state is h11.DONE and self._state.our_state is h11.DONE:
            self._state.start_next_cycle()
        return Reply(status, b"".join(pieces))

    def close(self) -> None:
        """Close the socket without waiting."""
        self._writer.transport.abort()
