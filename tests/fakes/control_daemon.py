"""A control daemon without an engine: speaks the real protocol over a Unix socket, answers from a script, and
remembers which commands reached it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semanticd.control import messages as m
from semanticd.control.framing import FrameReader, frame

if TYPE_CHECKING:
    from typing_extensions import Self


class FakeControlDaemon:
    """`async with FakeControlDaemon(path) as daemon`; change `answers` and `failures` at any time.

    An answer may be a function of the command's arguments.
    """

    def __init__(self, path: Path, answers: Mapping[str, Any] | None = None) -> None:
        """Listen at `path` once entered."""
        self.path = path
        self.answers: dict[str, Any] = dict(answers or {})
        self.failures: dict[str, tuple[str, str]] = {}
        self.waits: dict[str, asyncio.Event] = {}
        """Commands that are answered once their event is set."""
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._subscribers: list[tuple[asyncio.StreamWriter, int, frozenset[str]]] = []
        self._server: asyncio.Server | None = None
        self._late: set[asyncio.Task[None]] = set()
        self._waiting: set[str] = set()

    async def __aenter__(self) -> Self:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Disconnect all clients and stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._late:
            task.cancel()
        for writer in list(self._writers):
            writer.close()
        self._subscribers.clear()
        self.path.unlink(missing_ok=True)

    def deeds(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the commands that change something or look at one thing, in order."""
        looks = {
            "hello",
            "subscribe",
            "unsubscribe",
            "status",
            "cache.stats",
            "history",
            "requests.failures",
            "log.recent",
        }
        ends = (".list", ".show", ".messages")
        return [one for one in self.commands if one[0] not in looks and not one[0].endswith(ends)]

    def is_asked(self, cmd: str) -> bool:
        """Whether a command came that waits for its answer; see `waits`."""
        return cmd in self._waiting

    async def publish(self, topic: str, data: Mapping[str, Any], dropped: int = 0) -> None:
        """Send an event to all subscribers of its topic."""
        for writer, sub, topics in list(self._subscribers):
            if topic in topics and not writer.is_closing():
                writer.write(frame(m.encode(m.Event(m.EVENT_NAMES[topic], sub, data, dropped))))
                with contextlib.suppress(ConnectionError):
                    await writer.drain()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        frames = FrameReader()
        try:
            while data := await reader.read(65536):
                for payload in frames.feed(data):
                    command = m.decode(payload)
                    assert isinstance(command, m.Command)
                    if command.cmd in self.waits:
                        self._late.add(asyncio.create_task(self._answer_late(writer, command)))
                    else:
                        writer.write(frame(m.encode(self._answer(writer, command))))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            self._subscribers = [one for one in self._subscribers if one[0] is not writer]
            writer.close()

    async def _answer_late(self, writer: asyncio.StreamWriter, command: m.Command) -> None:
        self._waiting.add(command.cmd)
        await self.waits[command.cmd].wait()
        writer.write(frame(m.encode(self._answer(writer, command))))

    def _answer(self, writer: asyncio.StreamWriter, command: m.Command) -> m.Reply:
        self.commands.append((command.cmd, dict(command.args)))
        if command.cmd in self.failures:
            return m.Reply(command.id, error=m.ErrorInfo(*self.failures[command.cmd]))
        if command.cmd == "hello":
            hello = {"server": "semanticd", "version": "1.0.0", "protocol": 1, "pid": 1}
            return m.Reply(
                command.id, {**hello, "commands": list(self.answers), **self.answers.get("hello", {})}
            )
        if command.cmd == "subscribe" and "subscribe" not in self.answers:
            sub = len(self.commands)
            self._subscribers.append((writer, sub, frozenset(command.args["topics"])))
            return m.Reply(command.id, {"sub": sub})
        answer = self.answers.get(command.cmd, {})
        return m.Reply(command.id, answer(command.args) if callable(answer) else answer)
