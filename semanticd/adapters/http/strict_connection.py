"""StrictConnection: h11's reading of requests, without those that a proxy in front may read in another way.

Rule: a request whose end is ambiguous is refused, and the connection closed. Otherwise the bytes after its end could be
a second request that the proxy never saw: it would bypass the proxy's rules, or another client would get its
answer.
"""

from __future__ import annotations

import re

import h11

from semanticd.domain.limits import Limits

_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_FOLDED_LINE = re.compile(rb"\n[ \t]")
_TOO_LONG_FOR_OTHERS = 2**63
"""From this size on, a reader that counts in 64 bits takes another number for it."""


class RefusedRequestError(h11.RemoteProtocolError):
    """A request whose end two readers may find in different places, or that costs too much; the message says why."""


class StrictConnection(h11.Connection):
    """A server's side of a connection, one meaning only."""

    def __init__(self, limits: Limits) -> None:
        """Read requests within these limits."""
        super().__init__(h11.SERVER, limits.header_bytes)
        self._limits = limits
        self._num_chunks = self._num_bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        """Return the next event.

        Raises:
            RefusedRequestError: The request breaks a limit or a strict rule (in addition to what h11 raises).
        """
        unread = self.trailing_data[0] if self.their_state is h11.IDLE else b""
        event = super().next_event()
        if isinstance(event, h11.Request):
            _check_head(event, unread[: len(unread) - len(self.trailing_data[0])])
            self._num_chunks = self._num_bytes = 0
        elif isinstance(event, h11.Data):
            self._check_chunks(event)
        elif isinstance(event, h11.EndOfMessage) and event.headers:
            raise RefusedRequestError("headers after the body are not accepted")
        # h11 has no event for a chunk's size alone, and takes off it what it has read; other bodies have no chunks.
        read = len(event.data) if isinstance(event, h11.Data) else 0
        if getattr(self._reader, "_bytes_in_chunk", 0) + read >= _TOO_LONG_FOR_OTHERS:
            raise RefusedRequestError("the size of a chunk does not fit into 64 bits")
        return event

    def _check_chunks(self, data: h11.Data) -> None:
        """Refuse a body of tiny chunks: each costs the event loop as much as a large one."""
        self._num_chunks += data.chunk_start
        self._num_bytes += len(data.data)
        # A chunk counts in full or not at all: only a part of the last one may have come.
        if (
            data.chunk_end
            and self._num_chunks > self._limits.small_chunks
            and self._num_bytes < self._num_chunks * self._limits.chunk_bytes
        ):
            raise RefusedRequestError(
                f"the body comes in more than {self._limits.small_chunks} chunks of less than "
                f"{self._limits.chunk_bytes} bytes"
            )


def _check_head(request: h11.Request, head: bytes) -> None:
    """Refuse an ambiguous head; `head` is the request's raw head."""
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" in names:
        if b"content-length" in names:
            raise RefusedRequestError("Content-Length and Transfer-Encoding exclude each other")
        if request.http_version < b"1.1":
            raise RefusedRequestError("Transfer-Encoding needs HTTP/1.1")
    if _BARE_LINE_FEED.search(head):
        raise RefusedRequestError("each line of the head must end in a carriage return and a line feed")
    if _FOLDED_LINE.search(head):
        raise RefusedRequestError("a header must be on one line")
