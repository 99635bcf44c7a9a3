"""ControlClient: talk to the daemon with blocking calls.

    with ControlClient.connect() as client:
        print(client.call("status")["state"])
        for event in client.subscribe(["tokens"]):
            print(event.data["text"], end="")

One connection, one thread, one subscription at a time (to any number of topics). Events that arrive while a call
waits are kept for the subscription's iterator.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from semanticd.control import messages as m
from semanticd.control.address import default_socket_path
from semanticd.control.errors import (
    CommandFailedError,
    ConnectionLostError,
    ControlError,
    DaemonNotRunningError,
    ForeignProtocolError,
    ProtocolMismatchError,
    ReplyTimeoutError,
    UntrustedSocketError,
)
from semanticd.control.exchange import ClientExchange, as_exception, result_of, subscription_in
from semanticd.control.peer import HasDescriptor, peer_pid, peer_uid
from semanticd.control.private_files import UnsafePathError, check_socket
from semanticd.control.results import HelloResult, read

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "CommandFailedError",
    "ConnectionLostError",
    "ControlClient",
    "ControlError",
    "DaemonNotRunningError",
    "ProtocolMismatchError",
    "ReplyTimeoutError",
    "UntrustedSocketError",
    "default_socket_path",
]

CONNECT_TIMEOUT_S = 5.0
BUSY_PAUSE_S = 0.02
"""Between attempts to connect while the daemon's queue of connections is full."""
DEFAULT_TIMEOUT_S = 30.0
MAX_KEPT_EVENTS = 10_000
"""Events kept for an iterator that is not read; then the oldest go."""


class ControlClient:
    """A connection to the daemon after `hello`; `daemon` holds the reply."""

    def __init__(self, connection: socket.socket, path: Path) -> None:
        """Take over a connected socket; use `connect` instead."""
        self.path = path
        self.daemon = HelloResult()
        self._socket = connection
        self._exchange = ClientExchange()
        self._incoming: deque[m.Reply | m.Event] = deque()
        self._events: deque[m.Event] = deque(maxlen=MAX_KEPT_EVENTS)

    @classmethod
    def connect(
        cls,
        path: Path | str | None = None,
        *,
        name: str = "semanticd.control",
        timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> ControlClient:
        """Connect and say hello; `path` defaults to this user's socket.

        Raises:
            DaemonNotRunningError: No process listens there.
            UntrustedSocketError: The socket, its folder or its listener is another user's.
            ForeignProtocolError: Another program listens there.
            ProtocolMismatchError: The daemon speaks another major version.
        """
        chosen = default_socket_path() if path is None else Path(path)
        client = cls(_connected(chosen, timeout_s), chosen)
        try:
            hello = client.call("hello", client=name, protocol=m.PROTOCOL_VERSION, reply_within_s=timeout_s)
            client.daemon = read(HelloResult, hello)
        except ForeignProtocolError as error:
            client.close()
            raise another_program(chosen, error) from error
        except BaseException:
            client.close()
            raise
        return client

    def call(
        self,
        cmd: str,
        *,
        reply_within_s: float | None = DEFAULT_TIMEOUT_S,
        on_event: Callable[[m.Event], None] | None = None,
        **args: Any,
    ) -> dict[str, Any]:
        """Run a command and return its result; `on_event` sees events of subscriptions while it waits.

        Raises:
            CommandFailedError: The daemon says no.
            ReplyTimeoutError: No reply in `reply_within_s` seconds (None: wait forever). The connection stays usable.
            ConnectionLostError: The daemon went away.
        """
        number, data = self._exchange.command(cmd, args)
        deadline = None if reply_within_s is None else time.monotonic() + reply_within_s
        self._send(data, deadline)
        while True:
            message = self._next(deadline, waiting_for=cmd)
            if isinstance(message, m.Event):
                if on_event is not None:
                    on_event(message)
                else:
                    self._events.append(message)
            elif message.id == number:
                return result_of(message)
            elif message.id is None and message.error is not None:
                raise as_exception(message.error)

    def subscribe(self, topics: Sequence[str], *, agent: str | None = None) -> Iterator[m.Event]:
        """Subscribe at once and return an iterator over the events, for as long as the daemon lives."""
        result = self.call("subscribe", topics=list(topics), agent=agent)
        return self._iterate(subscription_in(result))

    def _iterate(self, sub: int) -> Iterator[m.Event]:
        while True:
            message = self._events.popleft() if self._events else self._next(None, waiting_for="events")
            if isinstance(message, m.Event) and message.sub == sub:
                yield message

    def _send(self, data: bytes, deadline: float | None) -> None:
        self._socket.settimeout(_remaining(deadline))
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            raise ConnectionLostError(f"the daemon at {self.path} does not read") from error
        except OSError:
            # It hung up; why may stand in what it sent before, which the caller reads next.
            return

    def _next(self, deadline: float | None, *, waiting_for: str) -> m.Reply | m.Event:
        while not self._incoming:
            self._socket.settimeout(_remaining(deadline))
            try:
                data = self._socket.recv(64 * 1024)
            except (TimeoutError, BlockingIOError) as error:
                raise ReplyTimeoutError(f"the daemon has not answered {waiting_for!r} in time") from error
            except OSError as error:
                raise ConnectionLostError(
                    f"lost the connection to the daemon while waiting for {waiting_for!r}: {error}"
                ) from error
            if not data:
                raise ConnectionLostError(
                    f"the daemon closed the connection while we waited for {waiting_for!r}"
                )
            self._incoming.extend(self._exchange.receive(data))
        return self._incoming.popleft()

    def close(self) -> None:
        """Close the connection; the daemon drops this client's subscriptions."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def listener_pid(path: Path, *, timeout_s: float = CONNECT_TIMEOUT_S) -> int | None:
    """Return the process of this user's that listens on a socket, also one that hangs; None: the system does not say.

    Whether it is a daemon is not looked at.

    Raises:
        DaemonNotRunningError: No process listens there.
        UntrustedSocketError: The socket, its folder or its listener is another user's.
    """
    with _connected(path, timeout_s) as connection:
        try:
            return peer_pid(connection)
        except OSError:
            return None


def _connected(path: Path, timeout_s: float) -> socket.socket:
    """Return a connection to a socket that is this user's, as its listener is."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        check_socket(path)
        _connect(connection, path, timeout_s)
        check_listener(connection, path)
    except OSError as error:
        connection.close()
        raise not_running(path, error) from error
    except UntrustedSocketError:
        connection.close()
        raise
    return connection


def _connect(connection: socket.socket, path: Path, timeout_s: float) -> None:
    """Connect, and again where too many others do so at this moment: a Unix socket does not wait for its turn."""
    deadline = time.monotonic() + timeout_s
    while (code := connection.connect_ex(str(path))) == errno.EAGAIN and time.monotonic() < deadline:
        time.sleep(BUSY_PAUSE_S)
    if code:
        raise OSError(code, os.strerror(code))


def not_running(path: Path, error: OSError) -> ControlError:
    """Return why no daemon could be reached."""
    if isinstance(error, UnsafePathError):
        return UntrustedSocketError(path, str(error))
    if isinstance(error, FileNotFoundError):
        return DaemonNotRunningError(path, "no socket")
    if isinstance(error, ConnectionRefusedError):
        return DaemonNotRunningError(path, "a stale socket")
    if isinstance(error, BlockingIOError):
        return ControlError(f"the daemon at {path} is busy: too many other clients are connecting; try again")
    return ControlError(f"cannot connect to the daemon at {path}: {error.strerror or error}")


def another_program(path: Path, error: ForeignProtocolError) -> ForeignProtocolError:
    """Return that what listens on the socket is not a daemon, and what to do."""
    return ForeignProtocolError(
        f"another program listens on {path}: {error}; stop it, or set SEMANTIC_RUNTIME_DIR to another folder"
    )


def check_listener(connection: HasDescriptor, path: Path) -> None:
    """Ask the kernel which user listens at the other end.

    Raises:
        UntrustedSocketError: It is not a process of this user.
    """
    try:
        uid = peer_uid(connection)
    except OSError as error:
        raise UntrustedSocketError(
            path, f"the system does not report which user listens on it ({error})"
        ) from error
    if uid != os.geteuid():
        raise UntrustedSocketError(path, f"user {uid} listens on it, not {os.geteuid()}")


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.001)
