"""One control client: hello first, then commands side by side, events in between.

Rules: a command that has begun runs to its end even if its client leaves (a half-done swap helps no client); what goes
out goes through one lock, so a reader who is slow holds up only itself; a broken frame ends the connection, a broken
message within a good frame is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any

from semanticd.adapters.control.arguments import Argument, ArgumentError, check
from semanticd.adapters.control.commands import COMMANDS, CommandContext, need, run_command
from semanticd.adapters.control.services import Facts, Services, Subscription
from semanticd.adapters.control.snapshots import SNAPSHOTS, take_snapshot
from semanticd.application.ports.telemetry import Log
from semanticd.control import messages as m
from semanticd.control.framing import FrameError, FrameReader, FrameTooLargeError, frame
from semanticd.domain.errors import RestartNeededError, SemanticError
from semanticd.domain.limits import LIMITS

CONNECTION_COMMANDS = ("hello", "ping", "subscribe", "unsubscribe")
_SHOWN_CHARACTERS = 60
"""Of a command that is not there."""
_HELLO = (Argument("client", default=""), Argument("protocol", "integer", default=None, minimum=1))
_SUBSCRIBE = (
    Argument("topics", "texts", meaning=", ".join(m.TOPICS)),
    Argument("agent", meaning="only events about this agent (tokens)", default=None),
)
_UNSUBSCRIBE = (Argument("sub", "integer"),)


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """The limits of one client; times in seconds."""

    max_clients: int = 256
    """Beyond it the client that has asked nothing for longest leaves; one that waits for something stays."""
    max_commands: int = 32
    """Commands of one client that run at the same time."""
    max_subscriptions: int = 32
    hello_timeout_s: float = 10.0
    frame_timeout_s: float = 30.0
    """Time from the first byte of a frame to its last, while nothing else comes."""
    linger_s: float = 10.0
    """Time for running commands to be answered after the client closed its sending side."""
    refusal_linger_s: float = 2.0
    """Time in which what a refused client still sends is read and dropped, so that it can read why."""
    snapshot_interval_s: float = 0.5
    send_buffer_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """The daemon's identity, as `hello` reports it."""

    version: str
    pid: int


class _RefusedError(Exception):
    """Answers a command with an error of the protocol itself."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Connection:
    """Serves one connected client until it leaves."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        services: Services,
        identity: Identity,
        limits: ControlLimits,
        log: Log,
        background: set[asyncio.Task[None]],
    ) -> None:
        """`background` is the server's set of tasks that outlive their client."""
        self._reader = reader
        self._writer = writer
        self._services = services
        self._identity = identity
        self._limits = limits
        self._log = log
        self._background = background
        self._frames = FrameReader()
        self._sending = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()
        self._subscriptions: dict[int, tuple[Subscription, asyncio.Task[None]]] = {}
        self._next_sub = 1
        self._context: CommandContext | None = None
        self._heard_at = time.monotonic()
        writer.transport.set_write_buffer_limits(high=limits.send_buffer_bytes)

    @property
    def is_busy(self) -> bool:
        """Whether the connection has running commands or subscriptions."""
        return bool(self._running or self._subscriptions)

    @property
    def worth(self) -> tuple[bool, float]:
        """The order in which idle clients are closed: first those without a `hello`, then the longest silent one."""
        return self._context is not None, self._heard_at

    def make_room(self, error: m.ErrorInfo) -> None:
        """Close the connection in favour of another client, with a message if the client reads; never waits."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(frame(m.encode(m.Reply(None, error=error))))
        if self._writer.transport.get_write_buffer_size():
            self._writer.transport.abort()
        else:
            self._writer.close()

    async def serve(self) -> None:
        """Read commands until the client leaves, breaks the protocol, or the server closes."""
        try:
            if await self._read_all():
                if self._running:
                    await asyncio.wait(self._running, timeout=self._limits.linger_s)
            else:
                await self._let_it_read_why()
        except (ConnectionError, asyncio.TimeoutError):
            pass
        finally:
            for sub in list(self._subscriptions):
                self._drop(sub)
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()

    async def _read_all(self) -> bool:
        """Serve the client until it disconnects; returns False where it was refused instead."""
        try:
            async for payload in self._payloads():
                if not await self._take(payload):
                    return False
        except FrameTooLargeError as error:
            await self._refuse(None, m.FRAME_TOO_LARGE, str(error))
            return False
        except FrameError as error:
            await self._refuse(None, m.MALFORMED_FRAME, str(error))
            return False
        return True

    async def _let_it_read_why(self) -> None:
        """Read on, and drop it: a socket closed with bytes unread breaks the client's sending, and its reading too."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

        async def drop() -> None:
            while await self._reader.read(64 * 1024):
                pass

        await asyncio.wait_for(drop(), self._limits.refusal_linger_s)

    async def _payloads(self) -> AsyncIterator[bytes]:
        while True:
            data = await asyncio.wait_for(self._reader.read(64 * 1024), self._patience())
            if not data:
                return
            self._heard_at = time.monotonic()
            for payload in self._frames.feed(data):
                yield payload

    def _patience(self) -> float | None:
        if self._context is None:
            return self._limits.hello_timeout_s
        return self._limits.frame_timeout_s if self._frames.num_pending_bytes else None

    async def _take(self, payload: bytes) -> bool:
        """Start the command of a payload; returns whether to read on."""
        try:
            message = m.decode(payload, max_values=LIMITS.command_values)
        except m.UnsupportedVersionError as error:
            await self._refuse(error.request_id, m.UNSUPPORTED_VERSION, str(error))
            return False
        except m.MalformedMessageError as error:
            request = m.readable_id(payload, max_values=LIMITS.command_values)
            await self._refuse(request, m.MALFORMED_MESSAGE, str(error))
            return self._context is not None
        if not isinstance(message, m.Command):
            await self._refuse(None, m.MALFORMED_MESSAGE, "clients may only send commands")
            return self._context is not None
        if self._context is None:
            return await self._greet(message)
        if len(self._running) >= self._limits.max_commands:
            text = (
                f"{self._limits.max_commands} commands of this client are running already; wait for a reply"
            )
            await self._refuse(message.id, m.TOO_MANY_COMMANDS, text)
        else:
            self._start(self._answer(message))
        return True

    async def _greet(self, message: m.Command) -> bool:
        if message.cmd != "hello":
            text = f"say hello before {message.cmd!r}: the first command names client and protocol"
            await self._refuse(message.id, m.HELLO_FIRST, text)
            return False
        try:
            args = check(message.args, _HELLO)
        except ArgumentError as error:
            await self._refuse(message.id, m.INVALID_ARGUMENT, f"hello: {error}")
            return False
        if args["protocol"] is not None and args["protocol"] > m.PROTOCOL_VERSION:
            text = f"protocol {args['protocol']} is not supported; this daemon supports {m.PROTOCOL_VERSION}"
            await self._refuse(message.id, m.UNSUPPORTED_VERSION, text)
            return False
        self._context = CommandContext(self._services, args["client"])
        await self._send(m.Reply(message.id, self._hello()))
        return True

    def _hello(self) -> Facts:
        return {
            "server": "semanticd",
            "version": self._identity.version,
            "protocol": m.PROTOCOL_VERSION,
            "pid": self._identity.pid,
            "features": list(m.FEATURES),
            "commands": [*CONNECTION_COMMANDS, *COMMANDS],
            "topics": list(m.TOPICS),
        }

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        for group in (self._running, self._background):
            group.add(task)
            task.add_done_callback(group.discard)

    async def _answer(self, command: m.Command) -> None:
        try:
            reply = m.Reply(command.id, await self._run(command))
        except ArgumentError as error:
            reply = _failed(command, m.INVALID_ARGUMENT, f"{command.cmd}: {error}")
        except (SemanticError, _RefusedError) as error:
            reply = _failed(command, error.code, error.message)
        except ImportError as error:
            self._log.error("control_command_failed", command=command.cmd, error=repr(error))
            reply = _failed(
                command,
                RestartNeededError.code,
                f"{command.cmd}: a part of the daemon could not be loaded ({error}): restart the daemon, its files "
                "changed since it started (`semanticd restart`)",
            )
        except Exception as error:  # noqa: BLE001 (a failing command must answer, and must not end the connection)
            self._log.error("control_command_failed", command=command.cmd, error=repr(error))
            reply = _failed(
                command, m.INTERNAL_ERROR, f"{command.cmd} failed inside the daemon ({error!r}); see its log"
            )
        with contextlib.suppress(ConnectionError):
            await self._send(reply)

    async def _run(self, command: m.Command) -> Facts:
        if command.cmd == "hello":
            check(command.args, _HELLO)
            return self._hello()
        if command.cmd == "ping":
            check(command.args, ())
            return {"pong": True}
        if command.cmd == "subscribe":
            return self._subscribe(**check(command.args, _SUBSCRIBE))
        if command.cmd == "unsubscribe":
            return self._unsubscribe(**check(command.args, _UNSUBSCRIBE))
        spec = COMMANDS.get(command.cmd)
        if spec is None:
            raise _RefusedError(m.UNKNOWN_COMMAND, _unknown(command.cmd))
        assert self._context is not None
        return await run_command(spec, self._context, check(command.args, spec.arguments))

    # Subscriptions.

    def _subscribe(self, topics: list[str], agent: str | None) -> Facts:
        unknown = [topic for topic in topics if topic not in m.TOPICS]
        if unknown:
            raise ArgumentError(f"unknown topic {unknown[0]!r}; topics are {', '.join(m.TOPICS)}")
        if len(self._subscriptions) >= self._limits.max_subscriptions:
            text = f"this client has {self._limits.max_subscriptions} subscriptions, which is the maximum"
            raise _RefusedError(m.TOO_MANY_COMMANDS, text)
        subscription = need(self._services.events, "events").subscribe(topics, agent=agent)
        sub, self._next_sub = self._next_sub, self._next_sub + 1
        task = asyncio.create_task(self._pump(sub, subscription, topics))
        self._subscriptions[sub] = (subscription, task)
        return {"sub": sub, "topics": list(dict.fromkeys(topics))}

    def _unsubscribe(self, sub: int) -> Facts:
        if sub not in self._subscriptions:
            raise ArgumentError(f"this client has no subscription {sub}")
        self._drop(sub)
        return {"sub": sub}

    def _drop(self, sub: int) -> None:
        subscription, task = self._subscriptions.pop(sub)
        subscription.close()
        task.cancel()

    async def _pump(self, sub: int, subscription: Subscription, topics: list[str]) -> None:
        with contextlib.suppress(ConnectionError):
            for topic in SNAPSHOTS.keys() & set(topics):
                if (data := await take_snapshot(self._services, topic, log=self._log)) is not None:
                    await self._send(m.Event(m.EVENT_NAMES[topic], sub, data))
            while True:
                topic, data, num_dropped = await subscription.next()
                if num_dropped and m.AGENT_CHANGES in topics:
                    # Changes may be among the lost messages: start again with all agents.
                    whole = await take_snapshot(self._services, m.AGENT_CHANGES, log=self._log)
                    if whole is not None:
                        await self._send(m.Event(m.EVENT_NAMES[m.AGENT_CHANGES], sub, whole))
                await self._send(m.Event(m.EVENT_NAMES.get(topic, topic), sub, data, num_dropped))

    # Sending.

    async def _refuse(self, request: int | None, code: str, message: str) -> None:
        with contextlib.suppress(ConnectionError):
            await self._send(m.Reply(request, error=m.ErrorInfo(code, message)))

    async def _send(self, message: m.Reply | m.Event) -> None:
        data = self._framed(message)
        if data is None:
            return
        async with self._sending:
            if self._writer.is_closing():
                raise ConnectionResetError
            self._writer.write(data)
            await self._writer.drain()

    def _framed(self, message: m.Reply | m.Event) -> bytes | None:
        try:
            return frame(m.encode(message))
        except FrameTooLargeError as error:
            code, text = m.RESULT_TOO_LARGE, f"the result does not fit into a frame: {error}"
        except (TypeError, ValueError, OverflowError) as error:
            self._log.error("control_result_not_encodable", error=repr(error))
            code, text = m.INTERNAL_ERROR, f"the result cannot be encoded: {error!r}"
        if isinstance(message, m.Event):
            return None
        return frame(m.encode(m.Reply(message.id, error=m.ErrorInfo(code, text))))


def _failed(command: m.Command, code: str, message: str) -> m.Reply:
    return m.Reply(command.id, error=m.ErrorInfo(code, message))


def _unknown(cmd: str) -> str:
    """Return the message for an unknown command, with the closest name; its length is bounded."""
    typed = cmd[:_SHOWN_CHARACTERS]
    close = difflib.get_close_matches(typed, [*CONNECTION_COMMANDS, *COMMANDS], n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`semanticd ctl hello` lists them"
    return f"unknown command {typed!r}; {hint}"
