"""AsyncControlClient: talk to the daemon from asyncio; calls run side by side, events go to their subscriptions.

async with await AsyncControlClient.connect() as client:
    subscription = await client.subscribe(["status"])
    async for event in subscription:
        ...
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from semanticd.control import messages as m
from semanticd.control.address import default_socket_path
from semanticd.control.client import (
    BUSY_PAUSE_S,
    CONNECT_TIMEOUT_S,
    DEFAULT_TIMEOUT_S,
    another_program,
    check_listener,
    not_running,
)
from semanticd.control.errors import (
    ConnectionLostError,
    ControlError,
    ForeignProtocolError,
    ReplyTimeoutError,
)
from semanticd.control.exchange import ClientExchange, as_exception, result_of, subscription_in
from semanticd.control.private_files import check_socket
from semanticd.control.results import HelloResult, read

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_KEPT_EVENTS = 2048
"""Events that wait in a subscription; then the oldest go and are added to the next one's `dropped`."""


class EventSubscription:
    """An asynchronous iterator over one subscription's events; ends by raising when the connection does."""

    def __init__(self, client: AsyncControlClient, sub: int) -> None:
        """Made by `AsyncControlClient.subscribe`."""
        self.sub = sub
        self._client = client
        self._events: deque[m.Event] = deque()
        self._num_dropped = 0
        self._ready = asyncio.Event()
        self._failure: ControlError | None = None

    def offer(self, event: m.Event) -> None:
        """Take an event from the connection."""
        if len(self._events) >= MAX_KEPT_EVENTS:
            self._num_dropped += 1 + self._events.popleft().dropped
        self._events.append(event)
        self._ready.set()

    def fail(self, failure: ControlError) -> None:
        """End the iteration once what has arrived is read."""
        self._failure = failure
        self._ready.set()

    def __aiter__(self) -> EventSubscription:
        return self

    async def __anext__(self) -> m.Event:
        while not self._events:
            if self._failure is not None:
                raise self._failure
            self._ready.clear()
            await self._ready.wait()
        event = self._events.popleft()
        lost, self._num_dropped = self._num_dropped, 0
        return replace(event, dropped=event.dropped + lost) if lost else event

    async def close(self) -> None:
        """Unsubscribe; harmless when the connection is gone."""
        await self._client.unsubscribe(self)


class AsyncControlClient:
    """A connection to the daemon after `hello`; `daemon` holds the reply."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: Path) -> None:
        """Take over a connection; use `connect` instead."""
        self.path = path
        self.daemon = HelloResult()
        self._reader = reader
        self._writer = writer
        self._exchange = ClientExchange()
        self._waiting: dict[int, asyncio.Future[m.Reply]] = {}
        self._subscriptions: dict[int, EventSubscription] = {}
        self._ended: set[int] = set()
        self._failure: ControlError | None = None
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def connect(
        cls,
        path: Path | str | None = None,
        *,
        name: str = "semanticd.control",
        timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> AsyncControlClient:
        """Connect and say hello; `path` defaults to this user's socket.

        Raises:
            DaemonNotRunningError: No process listens there.
            UntrustedSocketError: The socket, its folder or its listener is another user's.
            ForeignProtocolError: Another program listens there.
            ProtocolMismatchError: The daemon speaks another major version.
        """
        chosen = default_socket_path() if path is None else Path(path)
        try:
            check_socket(chosen)
            reader, writer = await asyncio.wait_for(_connect(chosen), timeout_s)
        except asyncio.TimeoutError:
            raise ReplyTimeoutError(f"the daemon at {chosen} does not accept connections") from None
        except OSError as error:
            raise not_running(chosen, error) from error
        try:
            check_listener(writer.get_extra_info("socket"), chosen)
        except ControlError:
            writer.close()
            raise
        client = cls(reader, writer, chosen)
        try:
            hello = await client.call(
                "hello", client=name, protocol=m.PROTOCOL_VERSION, reply_within_s=timeout_s
            )
            client.daemon = read(HelloResult, hello)
        except ForeignProtocolError as error:
            await client.close()
            raise another_program(chosen, error) from error
        except BaseException:
            await client.close()
            raise
        return client

    @property
    def connected(self) -> bool:
        """Whether the connection is up, as far as is known."""
        return self._failure is None

    async def call(
        self, cmd: str, *, reply_within_s: float | None = DEFAULT_TIMEOUT_S, **args: Any
    ) -> dict[str, Any]:
        """Run a command and return its result.

        Raises:
            CommandFailedError: The daemon says no.
            ReplyTimeoutError: No reply in `reply_within_s` seconds (None: wait forever). The connection stays usable.
            ConnectionLostError: The daemon went away.
        """
        if self._failure is not None:
            raise self._failure
        number, data = self._exchange.command(cmd, args)
        future: asyncio.Future[m.Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            with contextlib.suppress(ConnectionError):  # the reading side knows why
                self._writer.write(data)
                await self._writer.drain()
            return result_of(await asyncio.wait_for(future, reply_within_s))
        except asyncio.TimeoutError:
            raise ReplyTimeoutError(f"the daemon has not answered {cmd!r} in {reply_within_s:g} s") from None
        finally:
            self._waiting.pop(number, None)

    async def subscribe(self, topics: Sequence[str], *, agent: str | None = None) -> EventSubscription:
        """Subscribe to topics; with `agent`, only to token events of this one."""
        result = await self.call("subscribe", topics=list(topics), agent=agent)
        return self._subscription(subscription_in(result))

    async def unsubscribe(self, subscription: EventSubscription) -> None:
        """End a subscription."""
        self._subscriptions.pop(subscription.sub, None)
        self._ended.add(subscription.sub)
        with contextlib.suppress(ControlError):
            await self.call("unsubscribe", sub=subscription.sub)

    def _subscription(self, sub: int) -> EventSubscription:
        # Events may be read before the caller of `subscribe` runs again, so the first of the two makes it.
        return self._subscriptions.setdefault(sub, EventSubscription(self, sub))

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(64 * 1024):
                for message in self._exchange.receive(data):
                    self._deliver(message)
            self._fail(ConnectionLostError(f"the daemon at {self.path} closed the connection"))
        except ControlError as error:
            self._fail(error)
        except OSError as error:
            self._fail(ConnectionLostError(f"lost the connection to the daemon at {self.path}: {error}"))

    def _deliver(self, message: m.Reply | m.Event) -> None:
        if isinstance(message, m.Event):
            if message.sub not in self._ended:
                self._subscription(message.sub).offer(message)
        elif message.id is not None:
            future = self._waiting.get(message.id)
            if future is not None and not future.done():
                future.set_result(message)
        elif message.error is not None:
            raise as_exception(message.error)

    def _fail(self, failure: ControlError) -> None:
        self._failure = failure
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(failure)
        for subscription in self._subscriptions.values():
            subscription.fail(failure)

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        if self._failure is None:
            self._fail(ConnectionLostError("this client has hung up"))
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, and again where too many others do so at this moment: a Unix socket does not wait for its turn.

    asyncio's own way takes such a refusal for a connection that is being made, and the socket for connected.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        while (code := connection.connect_ex(str(path))) == errno.EAGAIN:  # noqa: ASYNC110 (the kernel has no event for it)
            await asyncio.sleep(BUSY_PAUSE_S)
        if code:
            raise OSError(code, os.strerror(code))
        return await asyncio.open_unix_connection(sock=connection)
    except BaseException:
        connection.close()
        raise
