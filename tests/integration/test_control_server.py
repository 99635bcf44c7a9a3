"""The control server over a real Unix socket, with services in memory."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import msgpack
import pytest

from semanticd.adapters.control.connection import ControlLimits, Identity
from semanticd.adapters.control.server import ControlServer
from semanticd.adapters.control.services import Services
from semanticd.control.async_client import AsyncControlClient
from semanticd.control.client import (
    CommandFailedError,
    ConnectionLostError,
    ControlClient,
    DaemonNotRunningError,
    ProtocolMismatchError,
)
from semanticd.control.framing import MAX_FRAME_BYTES, FrameReader
from semanticd.domain.errors import DaemonError
from semanticd.domain.limits import LIMITS
from tests.fakes.control_services import NullLog, fake_services
from tests.fakes.full_volume import remount, small_volume


@asynccontextmanager
async def serving(folder: Path, *, services: Services | None = None, **options: Any):
    server = ControlServer(
        path=folder / "semanticd.sock",
        services=services or fake_services(),
        identity=Identity(version="0.1.0", pid=os.getpid()),
        log=options.pop("log", NullLog()),
        **options,
    )
    await server.start()
    try:
        yield server
    finally:
        await server.close()


class RawClient:
    """A client that sends whatever bytes it likes."""

    opened: ClassVar[list[RawClient]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened.append(self)
        self.reader, self.writer = reader, writer
        self.frames = FrameReader()
        self.received: list[dict[str, Any]] = []

    @classmethod
    async def connect(cls, server: ControlServer, *, hello: bool = True) -> RawClient:
        client = cls(*await asyncio.open_unix_connection(str(server.path)))
        if hello:
            client.send({"v": 1, "id": 0, "cmd": "hello", "args": {"client": "raw"}})
            assert (await client.receive())["ok"]
        return client

    def send(self, fields: object) -> None:
        self.send_bytes(msgpack.packb(fields))

    def send_bytes(self, payload: bytes) -> None:
        self.writer.write(struct.pack(">I", len(payload)) + payload)

    async def receive(self) -> dict[str, Any]:
        while not self.received:
            data = await asyncio.wait_for(self.reader.read(65536), 60)
            if not data:
                raise EOFError
            self.received += [msgpack.unpackb(payload) for payload in self.frames.feed(data)]
        return self.received.pop(0)

    async def ended(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(), 60) == b""
        except ConnectionError:
            return True


@pytest.fixture(autouse=True)
async def no_client_stays() -> AsyncIterator[None]:
    """Close every raw client: a socket that the collector finds would fail a later test."""
    yield
    while RawClient.opened:
        RawClient.opened.pop().writer.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + 60
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"timed out waiting until {what}"
        await asyncio.sleep(0.01)


async def test_a_socket_that_cannot_be_removed_does_not_keep_the_server_from_closing(
    short_tmp_path: Path,
) -> None:
    with small_volume(short_tmp_path / "run", num_bytes=1 << 20) as folder:
        async with serving(folder) as server:
            client = await RawClient.connect(server)
            remount(folder, read_only=True)
        assert await client.ended()
        assert server.path.exists()
        remount(folder, read_only=False)
        async with serving(folder) as server:
            await RawClient.connect(server)
        assert not server.path.exists()


async def test_hello_says_who_answers_and_what_it_can_do(short_tmp_path: Path) -> None:
    async with serving(short_tmp_path) as server, await AsyncControlClient.connect(server.path) as client:
        assert client.daemon.server == "semanticd"
        assert client.daemon.protocol == 1
        assert client.daemon.pid == os.getpid()
        assert {"hello", "ping", "status", "subscribe", "models.swap"} <= set(client.daemon.commands)
        assert await client.call("ping") == {"pong": True}


async def test_every_command_reaches_its_service(short_tmp_path: Path) -> None:
    file = str(short_tmp_path / "p.agent")
    calls: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("status", {}, {"state": "ready"}),
        ("config.show", {}, {"settings": [{"name": "server.port", "value": 8000, "origin": "default"}]}),
        ("doctor", {}, {"ok": True}),
        ("doctor", {"generate": False}, {"ok": True}),
        ("log.recent", {}, {"lines": [{"level": "info", "event": "daemon_ready", "fields": {}}]}),
        ("history", {"after": 0}, {"first": 1, "series": {"queue": [2.0]}}),
        ("log.level", {"level": "debug"}, {"level": "debug", "previous": "info"}),
        ("agents.show", {"agent": "planner"}, {"id": "planner"}),
        ("agents.messages", {"agent": "planner"}, {"messages": [{"role": "user", "content": "hello"}]}),
        ("agents.why", {"agent": "planner"}, {"id": "planner"}),
        ("agents.say", {"agent": "planner", "text": "a b c", "max_tokens": 2}, {"text": "a b"}),
        ("agents.pin", {"agent": "planner", "ttl_s": 60}, {"pinned": True}),
        ("agents.unpin", {"agent": "planner"}, {"pinned": False}),
        ("agents.fork", {"agent": "planner", "new_id": "copy"}, {"id": "copy"}),
        ("agents.rewind", {"agent": "planner", "turns": 2}, {"num_turns": 1}),
        ("agents.evict", {"agent": "planner"}, {"state": "warm"}),
        ("agents.export", {"agent": "planner", "path": file}, {"path": file}),
        ("agents.import", {"path": file, "new_id": "back"}, {"id": "back"}),
        ("agents.delete", {"agent": "copy"}, {"deleted": True}),
        ("models.info", {"model": "small"}, {"id": "small"}),
        ("models.pull", {"model": "small"}, {"id": "small"}),
        ("models.rm", {"model": "large"}, {"removed": True}),
        ("models.load", {"model": "small"}, {"id": "small"}),
        ("models.swap", {"model": "large"}, {"previous": "small"}),
        ("models.unload", {"model": "small"}, {"id": "small"}),
        ("cache.stats", {}, {"hot_bytes": 12345}),
        ("cache.verify", {"fix": True}, {"num_checked": 3}),
        (
            "cache.sizes",
            {},
            {
                "models": [
                    {"fingerprint": "f-small", "layout": "exact", "num_blocks": 3, "num_bytes": 3 << 20},
                    {"fingerprint": "gone", "layout": "q8", "num_blocks": 1, "num_bytes": 1 << 20},
                ]
            },
        ),
        ("cache.prune", {"target_bytes": 0}, {"freed_bytes": 2048}),
        ("cache.clear", {}, {"freed_hot_bytes": 12345}),
        (
            "requests.failures",
            {},
            {
                "failures": [
                    {
                        "at": 1.0,
                        "kind": "refused",
                        "code": "queue_full",
                        "message": "full",
                        "request": "req-0",
                        "agent": "planner",
                        "status": 429,
                    }
                ]
            },
        ),
        (
            "requests.prompt",
            {"request": "req-1"},
            {
                "request": "req-1",
                "agent": "planner",
                "messages": [
                    {"role": "transcript", "content": "<|im_start|>user\nWhy?<|im_end|>\n", "num_tokens": 9}
                ],
            },
        ),
        ("requests.cancel", {"request": "req-1"}, {"cancelled": True}),
        ("requests.list", {}, {"requests": []}),
        ("drain", {"timeout_s": 1.5}, {"state": "draining"}),
        ("shutdown", {"now": True}, {"state": "draining"}),
    ]

    services = fake_services()
    async with (
        serving(short_tmp_path, services=services) as server,
        await AsyncControlClient.connect(server.path) as client,
    ):
        assert [row["id"] for row in (await client.call("agents.list"))["agents"]] == [
            "planner",
            "coder",
        ]
        assert len((await client.call("models.list"))["models"]) == 2
        for command, args, expected in calls:
            result = await client.call(command, **args)
            assert {key: result[key] for key in expected} == expected, command
        tested = {command for command, _, _ in calls} | {"agents.list", "models.list"}
        assert tested == set(client.daemon.commands) - {
            "hello",
            "ping",
            "subscribe",
            "unsubscribe",
        }
    assert services.agents.pinned_for == [60]
    assert services.lifecycle.told == [("drain", 1.5, False), ("shutdown", None, True)]


async def test_domain_errors_arrive_with_their_code_and_text(short_tmp_path: Path) -> None:
    async with serving(short_tmp_path) as server, await AsyncControlClient.connect(server.path) as client:
        with pytest.raises(CommandFailedError, match="nobody") as failed:
            await client.call("agents.show", agent="nobody")
        assert failed.value.code == "agent_not_found"


@pytest.mark.parametrize(
    ("command", "args", "code", "words"),
    [
        ("agents.show", {}, "invalid_argument", "'agent' is missing"),
        ("agents.show", {"agent": 5}, "invalid_argument", "expected text"),
        ("agents.pin", {"agent": "planner", "ttl": 5}, "invalid_argument", "did you mean 'ttl_s'"),
        ("agents.pin", {"agent": "planner", "ttl_s": -1}, "invalid_argument", "a number above 0"),
        ("agents.pin", {"agent": "planner", "ttl_s": 0}, "invalid_argument", "a number above 0"),
        ("agents.pin", {"agent": "planner", "ttl_s": float("inf")}, "invalid_argument", "at most 315360000"),
        ("agents.pin", {"agent": "planner", "ttl_s": 1e300}, "invalid_argument", "at most 315360000"),
        ("shutdown", {"timeout_s": float("nan")}, "invalid_argument", "from 0 to 315360000"),
        ("agents.rewind", {"agent": "planner", "turns": 1.5}, "invalid_argument", "whole number"),
        ("log.level", {"level": "loud"}, "invalid_argument", "debug, info"),
        ("status", {"verbose": True}, "invalid_argument", "takes none"),
        ("subscribe", {"topics": ["weather"]}, "invalid_argument", "weather"),
        ("subscribe", {"topics": []}, "invalid_argument", "topics"),
        ("unsubscribe", {"sub": 9}, "invalid_argument", "no subscription 9"),
        ("agents.shwo", {}, "unknown_command", "agents.shwo"),
    ],
)
async def test_wrong_arguments_are_named(
    short_tmp_path: Path, command: str, args: dict[str, Any], code: str, words: str
) -> None:
    async with serving(short_tmp_path) as server, await AsyncControlClient.connect(server.path) as client:
        with pytest.raises(CommandFailedError, match=words) as failed:
            await client.call(command, **args)
        assert failed.value.code == code


async def test_a_missing_service_answers_not_available(short_tmp_path: Path) -> None:
    async with (
        serving(short_tmp_path, services=replace(fake_services(), models=None, events=None)) as server,
        await AsyncControlClient.connect(server.path) as client,
    ):
        for command, args in [("models.list", {}), ("subscribe", {"topics": ["log"]})]:
            with pytest.raises(CommandFailedError) as failed:
                await client.call(command, **args)
            assert failed.value.code == "not_available"


async def test_a_command_that_fails_unexpectedly_answers_and_is_logged(short_tmp_path: Path) -> None:
    class Broken:
        async def snapshot(self) -> dict[str, Any]:
            raise ZeroDivisionError("boom")

    class NotPlain:
        async def stats(self) -> dict[str, Any]:
            return {"thing": object()}

    log = NullLog()
    services = replace(fake_services(), status=Broken(), cache=NotPlain())
    async with (
        serving(short_tmp_path, services=services, log=log) as server,
        await AsyncControlClient.connect(server.path) as client,
    ):
        for command in ("status", "cache.stats"):
            with pytest.raises(CommandFailedError) as failed:
                await client.call(command)
            assert failed.value.code == "internal_error"
        assert await client.call("ping") == {"pong": True}
    assert [line[1] for line in log.lines] == ["control_command_failed", "control_result_not_encodable"]


async def test_a_command_whose_files_are_gone_asks_for_a_restart(short_tmp_path: Path) -> None:
    class Gone:
        async def snapshot(self) -> dict[str, Any]:
            raise ModuleNotFoundError("No module named 'x'")

    async with (
        serving(short_tmp_path, services=replace(fake_services(), status=Gone())) as server,
        await AsyncControlClient.connect(server.path) as client,
    ):
        with pytest.raises(CommandFailedError, match="semanticd restart") as failed:
            await client.call("status")
        assert failed.value.code == "restart_needed"


async def test_a_result_larger_than_a_frame_is_an_error_and_not_the_end(short_tmp_path: Path) -> None:
    class Huge:
        async def stats(self) -> dict[str, Any]:
            return {"text": "x" * (MAX_FRAME_BYTES + 1)}

    async with (
        serving(short_tmp_path, services=replace(fake_services(), cache=Huge())) as server,
        await AsyncControlClient.connect(server.path) as client,
    ):
        with pytest.raises(CommandFailedError) as failed:
            await client.call("cache.stats")
        assert failed.value.code == "result_too_large"
        assert await client.call("ping") == {"pong": True}


async def test_commands_of_one_client_run_side_by_side(short_tmp_path: Path) -> None:
    services = fake_services()
    services.models.gate.clear()
    async with (
        serving(short_tmp_path, services=services) as server,
        await AsyncControlClient.connect(server.path) as client,
    ):
        swap = asyncio.create_task(client.call("models.swap", model="large"))
        assert await client.call("ping") == {"pong": True}
        assert not swap.done()
        services.models.gate.set()
        assert (await swap)["id"] == "large"


async def test_too_many_commands_at_once_are_refused_by_name(short_tmp_path: Path) -> None:
    services = fake_services()
    services.models.gate.clear()
    async with serving(short_tmp_path, services=services, limits=ControlLimits(max_commands=2)) as server:
        client = await RawClient.connect(server)
        for number in range(1, 4):
            client.send({"v": 1, "id": number, "cmd": "models.swap", "args": {"model": "large"}})
        reply = await client.receive()
        assert (reply["id"], reply["error"]["code"]) == (3, "too_many_commands")
        services.models.gate.set()
        assert {(await client.receive())["id"] for _ in range(2)} == {1, 2}


async def test_a_change_runs_to_its_end_although_its_client_left(short_tmp_path: Path) -> None:
    services = fake_services()
    services.models.gate.clear()
    limits = ControlLimits(linger_s=0.05)
    async with serving(short_tmp_path, services=services, limits=limits) as server:
        client = await RawClient.connect(server)
        hub = services.events
        listening = hub.subscribe(["models"])
        client.send({"v": 1, "id": 1, "cmd": "models.swap", "args": {"model": "large"}})
        assert (await listening.next())[1]["stage"] == "loading"
        client.writer.close()
        await until(lambda: server.num_clients == 0, "the client is gone")
        services.models.gate.set()
        await until(lambda: services.models.current_id == "large", "the swap is done")


async def test_a_client_that_closes_its_sending_side_still_gets_its_replies(short_tmp_path: Path) -> None:
    async with serving(short_tmp_path) as server:
        client = await RawClient.connect(server)
        client.send({"v": 1, "id": 1, "cmd": "status", "args": {}})
        client.writer.write_eof()
        assert (await client.receive())["ok"]
        assert await client.ended()


# Greeting.


async def test_a_newer_protocol_is_refused_by_name(short_tmp_path: Path) -> None:
    async with serving(short_tmp_path) as server:
        for hello in (
            {"v": 2, "id": 7, "cmd": "hello", "args": {}},
            {"v": 1, "id": 7, "cmd": "hello", "args": {"protocol": 2}},
        ):
            client = await RawClient.connect(server, hello=False)
            client.send(hello)
            reply = await client.receive()
            assert (reply["id"], reply["error"]["code"]) == (7, "unsupported_version")
            assert await client.ended()


async def test_the_client_names_a_version_mismatch(short_tmp_path: Path) -> None:
    async with serving(short_tmp_path) as server:
        client = AsyncControlClient(*await asyncio.open_unix_connection(str(server.path)), server.path)
        try:
            with pytest.raises(ProtocolMismatchError, match="semanticd restart"):
                await client.call("hello", client="future", protocol=99)
        finally:
            await client.close()


async def test_anything_before_hello_is_refused_and_ends_the_connection(short_tmp_path: Path) -> None:
    async with serving(short_tmp_path) as server:
        client = await RawClient.connect(server, hello=False)
        client.send({"v": 1, "id": 3, "cmd": "status", "args": {}})
        reply = await client.receive()
        assert (reply["id"], reply["error"]["code"]) == (3, "hello_first")
        assert await client.ended()


async def test_a_client_that_never_says_hello_is_hung_up(short_tmp_path: Path) -> None:
    async with serving(short_tmp_path, limits=ControlLimits(hello_timeout_s=0.05)) as server:
        client = await RawClient.connect(server, hello=False)
        assert await client.ended()
        await until(lambda: server.num_clients == 0, "the server forgot it")


async def test_a_frame_that_never_ends_is_hung_up_but_silence_is_not(short_tmp_path: Path) -> None:
    async with serving(short_tmp_path, limits=ControlLimits(frame_timeout_s=0.05)) as server:
        silent = await RawClient.connect(server)
        half = await RawClient.connect(server)
        half.writer.write(struct.pack(">I", 100) + b"only a beginning")
        assert await half.ended()
        silent.send({"v": 1, "id": 1, "cmd": "ping"})
        assert (await silent.receive())["result"] == {"pong": True}


# Broken input.


async def test_an_oversized_frame_is_refused_before_it_is_read(short_tmp_path: Path) -> None:
    async with serving(short_tmp_path) as server:
        client = await RawClient.connect(server)
        client.writer.write(struct.pack(">I", MAX_FRAME_BYTES + 1))
        reply = await client.receive()
        assert (reply["id"], reply["error"]["code"]) == (None, "frame_too_large")
        assert await client.ended()


@pytest.mark.parametrize("hello", [True, False])
@pytest.mark.parametrize("length", [MAX_FRAME_BYTES + 1, 2**31, 2**32 - 1])
async def test_a_client_in_the_middle_of_an_oversized_frame_reads_why_it_was_refused(
    short_tmp_path: Path, length: int, hello: bool
) -> None:
    async with serving(short_tmp_path) as server:
        client = await RawClient.connect(server, hello=hello)
        # More than a socket's buffer holds: it is still sending when it is refused.
        client.writer.write(struct.pack(">I", length) + bytes(4 << 20))
        await client.writer.drain()
        assert (await client.receive())["error"]["code"] == "frame_too_large"
        assert await client.ended()


async def test_a_refused_client_that_never_leaves_is_hung_up(short_tmp_path: Path) -> None:
    async with serving(short_tmp_path, limits=ControlLimits(refusal_linger_s=0.05)) as server:
        client = await RawClient.connect(server)
        client.writer.write(struct.pack(">I", 2**31))
        assert (await client.receive())["error"]["code"] == "frame_too_large"
        await until(lambda: server.num_clients == 0, "the connection is gone")


@pytest.mark.parametrize(
    ("payload", "number"),
    [
        (b"\xc1", None),
        (b"", None),
        (msgpack.packb([1, 2]), None),
        (msgpack.packb({"v": 1, "id": 4}), 4),
        (msgpack.packb({"v": 1, "id": 4, "cmd": 5}), 4),
        (msgpack.packb({"v": 1, "id": 4, "cmd": "status", "args": [1]}), 4),
        (msgpack.packb({"v": 0, "id": 4, "cmd": "status"}), 4),
        (msgpack.packb({"v": 1, "id": -4, "cmd": "status"}), None),
        (msgpack.packb({"v": 1, "id": 4, "ok": True, "result": {}}), None),
        (b"\x91" * 5000, None),
    ],
)
async def test_a_broken_message_is_answered_and_the_next_one_works(
    short_tmp_path: Path, payload: bytes, number: int | None
) -> None:
    async with serving(short_tmp_path) as server:
        client = await RawClient.connect(server)
        client.send_bytes(payload)
        reply = await client.receive()
        assert (reply["id"], reply["error"]["code"]) == (number, "malformed_message")
        client.send({"v": 1, "id": 5, "cmd": "ping"})
        assert (await client.receive())["result"] == {"pong": True}


@pytest.mark.parametrize("value", [{}, [], [[]], {"a": 1}, 0, "", None], ids=repr)
async def test_a_command_of_too_many_values_is_refused_unread_and_the_next_one_works(
    short_tmp_path: Path, value: object
) -> None:
    async with serving(short_tmp_path) as server:
        client = await RawClient.connect(server)
        client.send({"v": 1, "id": 4, "cmd": "ping", "args": {"x": [value] * LIMITS.command_values}})
        reply = await client.receive()
        assert (reply["id"], reply["error"]["code"]) == (None, "malformed_message")
        assert f"more than {LIMITS.command_values} values" in reply["error"]["message"]
        # The map with its four keys and values, the map `args` with one key and a list of its own.
        most = LIMITS.command_values - (1 + 2 * 4) - 2
        client.send({"v": 1, "id": 5, "cmd": "ping", "args": {"x": [0] * most}})
        reply = await client.receive()
        assert (reply["id"], reply["error"]["code"]) == (5, "invalid_argument")
        client.send({"v": 1, "id": 6, "cmd": "ping", "args": {"x": [0] * (most + 1)}})
        assert (await client.receive())["error"]["code"] == "malformed_message"
        client.send({"v": 1, "id": 7, "cmd": "ping"})
        assert (await client.receive())["result"] == {"pong": True}


# Many, slow and foreign clients.


async def test_sixty_four_clients_are_served_at_once(short_tmp_path: Path) -> None:
    async with serving(short_tmp_path) as server:
        clients = await asyncio.gather(*(AsyncControlClient.connect(server.path) for _ in range(64)))
        replies = await asyncio.gather(*(client.call("status") for client in clients for _ in range(3)))
        assert len(replies) == 192
        assert server.num_clients == 64
        await asyncio.gather(*(client.close() for client in clients))
        await until(lambda: server.num_clients == 0, "all are gone")


async def test_clients_that_ask_nothing_make_room_the_silent_ones_first(short_tmp_path: Path) -> None:
    async with serving(short_tmp_path, limits=ControlLimits(max_clients=6)) as server:
        greeted = await RawClient.connect(server)
        subscriber = await RawClient.connect(server)
        subscriber.send({"v": 1, "id": 1, "cmd": "subscribe", "args": {"topics": ["log"]}})
        assert (await subscriber.receive())["ok"]
        silent = [await RawClient.connect(server, hello=False) for _ in range(30)]
        for number in range(5):
            async with await AsyncControlClient.connect(server.path) as client:
                assert await client.call("ping") == {"pong": True}, number
        for one in silent[:20]:
            assert (await one.receive())["error"]["code"] == "too_many_clients"
            assert await one.ended()
        for number, kept in enumerate((greeted, subscriber)):
            kept.send({"v": 1, "id": 9 + number, "cmd": "ping"})
            assert (await kept.receive())["ok"]
        rest = [await AsyncControlClient.connect(server.path) for _ in range(5)]
        assert (await greeted.receive())["error"]["code"] == "too_many_clients"
        assert await greeted.ended()
        assert server.num_clients <= 6
        subscriber.send({"v": 1, "id": 20, "cmd": "ping"})
        assert (await subscriber.receive())["ok"]
        for one in rest:
            await one.close()


async def test_one_client_too_many_is_told_so_where_all_wait_for_something(short_tmp_path: Path) -> None:
    async with serving(short_tmp_path, limits=ControlLimits(max_clients=2)) as server:
        clients = [await RawClient.connect(server) for _ in range(2)]
        for client in clients:
            client.send({"v": 1, "id": 1, "cmd": "subscribe", "args": {"topics": ["log"]}})
            assert (await client.receive())["ok"]
        with pytest.raises(CommandFailedError) as failed:
            await AsyncControlClient.connect(server.path)
        assert failed.value.code == "too_many_clients"
        for client in clients:
            client.send({"v": 1, "id": 2, "cmd": "ping"})
            assert (await client.receive())["ok"]


async def test_a_slow_reader_loses_the_oldest_events_and_is_told_how_many(short_tmp_path: Path) -> None:
    services = fake_services(max_queued=50)
    async with serving(short_tmp_path, services=services) as server:
        slow = await RawClient.connect(server)
        slow.send({"v": 1, "id": 1, "cmd": "subscribe", "args": {"topics": ["tokens"]}})
        assert (await slow.receive())["ok"]
        quick = await AsyncControlClient.connect(server.path)
        total = 2000
        for number in range(total):
            services.events.publish("tokens", {"agent": "planner", "text": "x" * 2000, "number": number})
            if number % 20 == 0:
                assert await quick.call("ping") == {"pong": True}
        got, dropped, numbers = 0, 0, []
        while not numbers or numbers[-1] != total - 1:
            event = await slow.receive()
            got, dropped = got + 1, dropped + event["dropped"]
            numbers.append(event["data"]["number"])
        assert dropped > 0
        assert got + dropped == total
        assert numbers == sorted(numbers)
        await quick.close()


async def test_a_socket_that_is_gone_is_made_again_but_not_in_anothers_place(short_tmp_path: Path) -> None:
    log = NullLog()

    async def until_logged(*events: str) -> None:
        async def logged() -> None:
            while [line[1] for line in log.lines] != list(events):  # noqa: ASYNC110 (a list)
                await asyncio.sleep(0.05)

        await asyncio.wait_for(logged(), 60)

    async with serving(short_tmp_path, log=log) as server:
        early = await AsyncControlClient.connect(server.path)
        server.path.unlink()
        with socket.socket(socket.AF_UNIX) as another:
            another.bind(str(server.path))
            another.listen()
            await until_logged("control_socket_lost")
            # It was looked at, and stays.
            connection, _ = await asyncio.to_thread(another.accept)
            connection.close()
        # Now it is stale.
        await until_logged("control_socket_lost", "control_socket_made_anew")
        late = await AsyncControlClient.connect(server.path)
        assert await late.call("ping") == await early.call("ping") == {"pong": True}
        await late.close()
        await early.close()
    assert not server.path.exists()


async def test_another_user_is_refused(short_tmp_path: Path) -> None:
    log = NullLog()
    async with serving(short_tmp_path, uid_of=lambda _: os.getuid() + 1, log=log) as server:
        with pytest.raises(CommandFailedError) as failed:
            await AsyncControlClient.connect(server.path)
        assert failed.value.code == "not_allowed"
    assert log.lines[0][1] == "control_peer_refused"


async def test_a_user_that_the_system_does_not_name_is_refused(short_tmp_path: Path) -> None:
    def unknown(_: object) -> int:
        raise OSError("no credentials")

    async with serving(short_tmp_path, uid_of=unknown) as server:
        with pytest.raises(CommandFailedError) as failed:
            await AsyncControlClient.connect(server.path)
        assert failed.value.code == "not_allowed"


# Subscriptions.


async def test_token_events_of_one_agent_arrive_in_order(short_tmp_path: Path) -> None:
    services = fake_services()
    async with (
        serving(short_tmp_path, services=services) as server,
        await AsyncControlClient.connect(server.path) as client,
    ):
        subscription = await client.subscribe(["tokens"], agent="planner")
        for number in range(10):
            services.events.publish("tokens", {"agent": "coder", "text": "no"})
            await asyncio.to_thread(
                services.events.publish, "tokens", {"agent": "planner", "text": str(number)}
            )
        events = [await subscription.__anext__() for _ in range(10)]
        assert [event.data["text"] for event in events] == [str(number) for number in range(10)]
        assert {event.event for event in events} == {"token"}
        await subscription.close()
        await until(lambda: not services.events.wanted("tokens"), "nobody listens")


async def test_states_come_at_once_and_again_when_they_change(short_tmp_path: Path) -> None:
    services = fake_services()
    limits = ControlLimits(snapshot_interval_s=0.02)
    async with (
        serving(short_tmp_path, services=services, limits=limits) as server,
        await AsyncControlClient.connect(server.path) as client,
    ):
        agents = await client.subscribe(["agents"])
        assert len((await agents.__anext__()).data["agents"]) == 2
        assert len((await agents.__anext__()).data["agents"]) == 2
        await services.agents.delete("coder")
        assert len((await agents.__anext__()).data["agents"]) == 1
        status = await client.subscribe(["status"])
        first, second = await status.__anext__(), await status.__anext__()
        assert second.data["uptime_s"] > first.data["uptime_s"]


async def test_a_state_that_cannot_be_taken_once_is_shown_when_it_can(short_tmp_path: Path) -> None:
    class Fickle:
        num_asked = 0

        async def snapshot(self) -> dict[str, Any]:
            self.num_asked += 1
            if self.num_asked < 4:
                raise ZeroDivisionError("boom")
            return {"state": "ready"}

    log = NullLog()
    async with (
        serving(
            short_tmp_path,
            services=replace(fake_services(), status=Fickle()),
            limits=ControlLimits(snapshot_interval_s=0.01),
            log=log,
        ) as server,
        await AsyncControlClient.connect(server.path) as client,
    ):
        status = await client.subscribe(["status"])
        assert (await status.__anext__()).data == {"state": "ready"}
    assert [line[1] for line in log.lines] == ["snapshot_failed"] * 3


async def test_connected_clients_are_counted(short_tmp_path: Path) -> None:
    class Gauges:
        values: ClassVar[list[float]] = []

        def gauge(self, name: str, value: float, **labels: str) -> None:
            assert name == "control_clients"
            self.values.append(value)

    async with serving(short_tmp_path, metrics=Gauges()) as server:
        client = await AsyncControlClient.connect(server.path)
        await client.close()
        await until(lambda: server.num_clients == 0, "it is gone")
    assert Gauges.values == [1, 0]


async def test_subscriptions_end_with_their_connection(short_tmp_path: Path) -> None:
    services = fake_services()
    async with serving(short_tmp_path, services=services) as server:
        client = await AsyncControlClient.connect(server.path)
        subscription = await client.subscribe(["log", "models"])
        assert services.events.wanted("models")
        await server.close()
        with pytest.raises(ConnectionLostError):
            await subscription.__anext__()
        assert not client.connected
        assert not services.events.wanted("models")
        await client.close()


async def test_the_blocking_client_calls_and_subscribes(short_tmp_path: Path) -> None:
    def work(path: Path) -> tuple[list[str], list[Any]]:
        seen: list[str] = []
        with ControlClient.connect(path) as client:
            client.call("subscribe", topics=["models"])
            take = lambda event: seen.append(event.data["stage"])  # noqa: E731
            client.call("models.pull", model="small", on_event=take)
            while len(seen) < 2:
                client.call("ping", on_event=take)
        with ControlClient.connect(path) as client:
            events = client.subscribe(["models"])
            client.call("models.swap", model="large")
            return seen, [next(events).data["stage"], next(events).data["stage"]]

    async with serving(short_tmp_path) as server:
        seen, stages = await asyncio.to_thread(work, server.path)
        assert seen == ["downloading", "downloading"]
        assert stages == ["loading", "ready"]


# The socket in its folder.


async def test_folder_and_socket_are_closed_to_others_and_the_socket_goes_away(short_tmp_path: Path) -> None:
    async with serving(short_tmp_path / "new") as server:
        assert server.path.parent.stat().st_mode & 0o777 == 0o700
        assert server.path.stat().st_mode & 0o777 == 0o600
    assert not server.path.exists()


async def test_a_stale_socket_is_replaced_and_a_living_one_is_not(short_tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(short_tmp_path / "semanticd.sock"))
    stale.close()
    with pytest.raises(DaemonNotRunningError, match="stale"):
        ControlClient.connect(short_tmp_path / "semanticd.sock")

    async with serving(short_tmp_path) as first:
        with pytest.raises(DaemonError, match="already"):
            async with serving(short_tmp_path):
                raise AssertionError("a second server started")
        async with await AsyncControlClient.connect(first.path) as client:
            assert await client.call("ping") == {"pong": True}


async def test_an_open_folder_of_other_things_is_refused_and_ours_is_closed(short_tmp_path: Path) -> None:
    ours, others = short_tmp_path / "ours", short_tmp_path / "others"
    for folder in (ours, others):
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
    (others / "diary.txt").write_text("dear diary")

    async with serving(ours):
        assert ours.stat().st_mode & 0o777 == 0o700
    with pytest.raises(DaemonError, match="SEMANTIC_RUNTIME_DIR"):
        async with serving(others):
            raise AssertionError("started in an open folder")
    assert others.stat().st_mode & 0o777 == 0o755


async def test_something_that_is_no_socket_is_left_alone(short_tmp_path: Path) -> None:
    (short_tmp_path / "semanticd.sock").write_text("a file")
    with pytest.raises(DaemonError, match="not a socket"):
        async with serving(short_tmp_path):
            raise AssertionError("started over a file")
    assert (short_tmp_path / "semanticd.sock").read_text() == "a file"
