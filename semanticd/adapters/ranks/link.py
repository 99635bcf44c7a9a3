"""Link: a TCP connection that carries frames of msgpack, those of the control protocol with a larger limit.

One thread sends and one receives, at most; `send` takes a lock. Both raise `LinkLostError` once the other side is gone.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from semanticd.control.framing import FrameError, FrameReader, frame

GREETING_BYTES = 64 * 1024
"""Longest frame before the other side has proved that it knows the key."""
MAX_BYTES = 1 << 30
"""Longest frame after that: a block of a large model has some 100 MiB."""
_READ_BYTES = 1 << 18
_SEND_S = 60.0
_PROBED_AFTER_S, _PROBED_EVERY_S, _NUM_PROBES = 5, 5, 5
"""TCP keepalive, in seconds: a machine that was restarted resets the connection at the first probe; one that is off
loses it after half a minute."""


class LinkLostError(ConnectionError):
    """The other side is gone, or sent an invalid frame."""


class Link:
    """One connection; counts its bytes."""

    def __init__(self, connected: socket.socket) -> None:
        """Take over a connected socket; frames are short until `trust`."""
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _let_it_be_probed(connected)
        self.peer = _peer_of(connected)
        """The address of the other side's machine."""
        self._socket = connected
        self._frames = FrameReader(max_bytes=GREETING_BYTES)
        self._received: list[Any] = []
        self._sending = threading.Lock()
        self.num_sent = 0
        self.num_received = 0

    def fileno(self) -> int:
        """Return the descriptor, for `select`; -1 once it is closed."""
        return self._socket.fileno()

    def trust(self) -> None:
        """Take long frames from now on, without a time limit; nothing may have been received in part."""
        self._frames = FrameReader(max_bytes=MAX_BYTES)
        self._socket.settimeout(_SEND_S)

    def limit(self, seconds: float) -> None:
        """Let each step of sending and receiving take so long."""
        self._socket.settimeout(seconds)

    def send(self, message: Any) -> None:
        """Send a message.

        Raises:
            LinkLostError: The connection is broken.
        """
        self.send_bytes(encoded(message))

    def send_bytes(self, data: bytes) -> None:
        """Send what `encoded` returned."""
        try:
            with self._sending:
                self._socket.sendall(data)
        except OSError as error:
            raise LinkLostError(f"cannot send: {error.strerror or error}") from error
        self.num_sent += len(data)

    def ready(self) -> Iterator[Any]:
        """Read once without waiting, and yield the complete messages.

        Raises:
            LinkLostError: The connection is broken.
        """
        try:
            data = self._socket.recv(_READ_BYTES)
        except OSError as error:
            raise LinkLostError(f"cannot receive: {error.strerror or error}") from error
        if not data:
            raise LinkLostError("the connection was closed")
        self.num_received += len(data)
        try:
            payloads = list(self._frames.feed(data))
            yield from [msgspec.msgpack.decode(payload) for payload in payloads]
        except (FrameError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise LinkLostError(f"received an invalid message: {error}") from error

    def receive(self) -> Any:
        """Wait for the next message.

        Raises:
            LinkLostError: The connection is broken.
        """
        while not self._received:
            self._received += self.ready()
        return self._received.pop(0)

    def has_ended(self) -> bool:
        """Return whether the other side, which sends nothing at this time, has disconnected."""
        try:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            return True

    def takes_more(self) -> bool:
        """Return whether a short message can be sent without waiting for the other side."""
        try:
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            return False

    def wait_for_ever(self) -> None:
        """Let receiving take any time; for a thread that does nothing else."""
        self._socket.settimeout(None)

    def close(self) -> None:
        """Close the connection and wake its waiting threads. Idempotent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _let_it_be_probed(connected: socket.socket) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "darwin":
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPALIVE, _PROBED_AFTER_S)
    else:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBED_AFTER_S)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBED_EVERY_S)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _NUM_PROBES)


def _peer_of(connected: socket.socket) -> str:
    with contextlib.suppress(OSError):
        return str(connected.getpeername()[0])
    return "an unknown address"


def encoded(message: Any) -> bytes:
    """Return a message as it is sent."""
    return frame(msgspec.msgpack.encode(message), max_bytes=MAX_BYTES)
