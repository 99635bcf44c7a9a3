"""Both clients against a daemon that misbehaves: a scripted peer on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from semanticd.control import client
from semanticd.control import messages as m
from semanticd.control.async_client import MAX_KEPT_EVENTS, AsyncControlClient, EventSubscription
from semanticd.control.client import (
    CommandFailedError,
    ConnectionLostError,
    ControlClient,
    ControlError,
    DaemonNotRunningError,
    ProtocolMismatchError,
    ReplyTimeoutError,
    UntrustedSocketError,
)
from semanticd.control.framing import FrameReader, frame

Answer = Callable[[m.Command], list[bytes]]
HELLO = {"server": "semanticd", "protocol": 1}


def framed(message: m.Message) -> bytes:
    return frame(m.encode(message))


class Peer:
    """Answers each command with scripted bytes; an empty list is silence, `None` hangs up."""

    def __init__(self, folder: Path, script: dict[str, Callable[[m.Command], bytes | None]]) -> None:
        self.path = folder / "semanticd.sock"
        self.script = {"hello": lambda c: framed(m.Reply(c.id, result=HELLO)), **script}
        self.commands: list[m.Command] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # A client that waits no longer leaves before it is answered.
            with connection, contextlib.suppress(ConnectionError):
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        reader = FrameReader()
        while data := connection.recv(65536):
            for payload in reader.feed(data):
                command = m.decode(payload)
                assert isinstance(command, m.Command)
                self.commands.append(command)
                answer = self.script[command.cmd](command)
                if answer is None:
                    return
                connection.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)


@pytest.fixture
def peer(short_tmp_path: Path) -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def make(**script: Callable[[m.Command], bytes | None]) -> Peer:
        peers.append(Peer(short_tmp_path, script))
        return peers[-1]

    yield make
    for one in peers:
        one.close()


async def blocking(path: Path, cmd: str, **options: Any) -> dict[str, Any]:
    with ControlClient.connect(path) as client:
        return client.call(cmd, **options)


async def asynchronous(path: Path, cmd: str, **options: Any) -> dict[str, Any]:
    async with await AsyncControlClient.connect(path) as client:
        return await client.call(cmd, **options)


def unknown_peer(_: object) -> int:
    raise OSError("the system keeps it to itself")


both = pytest.mark.parametrize("call", [blocking, asynchronous])
Call = Callable[..., Awaitable[dict[str, Any]]]


@both
async def test_arguments_that_are_none_are_left_out(peer: Callable[..., Peer], call: Call) -> None:
    there = peer(echo=lambda c: framed(m.Reply(c.id, result=dict(c.args))))
    assert await call(there.path, "echo", agent="a", ttl_s=None) == {"agent": "a"}


@both
async def test_nobody_there_is_told_with_how_to_start(short_tmp_path: Path, call: Call) -> None:
    with pytest.raises(DaemonNotRunningError, match="semanticd start"):
        await call(short_tmp_path / "none.sock", "status")


@both
async def test_another_users_socket_gets_not_a_byte(
    peer: Callable[..., Peer], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = peer()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 4242)
    with pytest.raises(UntrustedSocketError, match=r"belongs to user .*SEMANTIC_RUNTIME_DIR"):
        await call(there.path, "status")
    assert there.commands == []


@both
async def test_another_users_listener_gets_not_a_byte(
    peer: Callable[..., Peer], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = peer()
    monkeypatch.setattr(client, "peer_uid", lambda _: os.getuid() + 4242)
    with pytest.raises(UntrustedSocketError, match="listens on it"):
        await call(there.path, "status")
    monkeypatch.setattr(client, "peer_uid", unknown_peer)
    with pytest.raises(UntrustedSocketError, match="does not report which user"):
        await call(there.path, "status")
    assert there.commands == []


@both
async def test_another_failure_to_connect_is_told_as_it_is(short_tmp_path: Path, call: Call) -> None:
    (short_tmp_path / "file").write_text("")
    with pytest.raises(ControlError, match="cannot connect") as failed:
        await call(short_tmp_path / "file" / "x.sock", "status")
    assert not isinstance(failed.value, DaemonNotRunningError)


@both
async def test_a_reply_that_does_not_come_is_a_timeout(peer: Callable[..., Peer], call: Call) -> None:
    there = peer(slow=lambda c: b"")
    with pytest.raises(ReplyTimeoutError, match="slow"):
        await call(there.path, "slow", reply_within_s=0.05)


@both
async def test_a_daemon_that_hangs_up_is_told(peer: Callable[..., Peer], call: Call) -> None:
    there = peer(die=lambda c: None)
    with pytest.raises(ConnectionLostError):
        await call(there.path, "die")


@both
@pytest.mark.parametrize("rubbish", [b"\xff\xff\xff\xff", frame(b"\xc1"), framed(m.Command(1, "you", {}))])
async def test_a_peer_that_is_no_daemon_is_told(
    peer: Callable[..., Peer], call: Call, rubbish: bytes
) -> None:
    there = peer(odd=lambda c: rubbish)
    with pytest.raises(ConnectionLostError, match="not the control protocol"):
        await call(there.path, "odd")


@both
async def test_an_error_for_nobody_in_particular_ends_the_call(peer: Callable[..., Peer], call: Call) -> None:
    there = peer(big=lambda c: framed(m.Reply(None, error=m.ErrorInfo("frame_too_large", "too large"))))
    with pytest.raises(CommandFailedError) as failed:
        await call(there.path, "big")
    assert failed.value.code == "frame_too_large"


@both
async def test_another_protocol_is_told_with_what_to_do(peer: Callable[..., Peer], call: Call) -> None:
    there = peer(hello=lambda c: framed(m.Reply(c.id, error=m.ErrorInfo("unsupported_version", "speaks 0"))))
    with pytest.raises(ProtocolMismatchError, match="semanticd restart"):
        await call(there.path, "status")


@both
@pytest.mark.parametrize(
    ("value", "code"),
    [(object(), "invalid_argument"), (2**70, "invalid_argument"), ("x" * 2**24, "frame_too_large")],
)
async def test_arguments_that_cannot_be_sent_are_refused_here(
    peer: Callable[..., Peer], call: Call, value: object, code: str
) -> None:
    there = peer()
    with pytest.raises(CommandFailedError) as failed:
        await call(there.path, "status", thing=value)
    assert failed.value.code == code
    assert [command.cmd for command in there.commands] == ["hello"]


def test_replies_of_calls_given_up_are_skipped(peer: Callable[..., Peer]) -> None:
    late: list[m.Command] = []

    def slow(command: m.Command) -> bytes:
        late.append(command)
        return b""

    def quick(command: m.Command) -> bytes:
        return framed(m.Reply(late[0].id, result={"late": True})) + framed(
            m.Reply(command.id, result={"late": False})
        )

    there = peer(slow=slow, quick=quick)
    with ControlClient.connect(there.path) as client:
        with pytest.raises(ReplyTimeoutError):
            client.call("slow", reply_within_s=0.05)
        assert client.call("quick") == {"late": False}


def test_events_that_come_during_a_call_are_kept_for_the_iterator(peer: Callable[..., Peer]) -> None:
    there = peer(
        subscribe=lambda c: framed(m.Reply(c.id, result={"sub": 5})) + framed(m.Event("token", 5, {"n": 1})),
        ping=lambda c: (
            framed(m.Event("token", 5, {"n": 2}))
            + framed(m.Event("token", 6, {"n": 99}))
            + framed(m.Reply(c.id, result={}))
            + framed(m.Event("token", 5, {"n": 3}))
        ),
    )
    with ControlClient.connect(there.path) as client:
        events = client.subscribe(["tokens"])
        client.call("ping")
        assert [next(events).data["n"] for _ in range(3)] == [1, 2, 3]


async def test_the_asynchronous_iterator_gets_its_events_even_those_before_the_reply(
    peer: Callable[..., Peer],
) -> None:
    there = peer(
        subscribe=lambda c: framed(m.Event("token", 5, {"n": 1})) + framed(m.Reply(c.id, result={"sub": 5})),
        unsubscribe=lambda c: (
            framed(m.Event("token", 5, {"n": 9})) + framed(m.Reply(c.id, result={"sub": 5}))
        ),
        die=lambda c: None,
    )

    async with await AsyncControlClient.connect(there.path) as client:
        subscription = await client.subscribe(["tokens"])
        assert (await subscription.__anext__()).data["n"] == 1
        await subscription.close()
        with pytest.raises(ConnectionLostError):
            await client.call("die")
        with pytest.raises(ConnectionLostError):
            await client.call("status")
        assert not client.connected


async def test_a_subscription_that_is_not_read_loses_the_oldest_and_counts_them() -> None:
    subscription = EventSubscription(client=None, sub=1)  # type: ignore[arg-type]
    for number in range(MAX_KEPT_EVENTS + 10):
        subscription.offer(m.Event("token", 1, {"n": number}, dropped=1 if number == 0 else 0))
    first = await subscription.__anext__()
    assert (first.data["n"], first.dropped) == (10, 11)
    assert (await subscription.__anext__()).dropped == 0


async def test_hanging_up_ends_waiting_calls_and_iterators(peer: Callable[..., Peer]) -> None:
    there = peer(slow=lambda c: b"", subscribe=lambda c: framed(m.Reply(c.id, result={"sub": 1})))

    client = await AsyncControlClient.connect(there.path)
    subscription = await client.subscribe(["log"])
    waiting = asyncio.create_task(client.call("slow"))
    reading = asyncio.create_task(anext(subscription))
    while len(there.commands) < 3:  # noqa: ASYNC110 (the peer is a thread)
        await asyncio.sleep(0.01)
    await client.close()
    for task in (waiting, reading):
        with pytest.raises(ConnectionLostError, match="hung up"):
            await task
    await client.close()


class Crowd:
    """Connections that fill a peer's queue; the peer answers the next once they were let in."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "semanticd.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(0)
        self._waiting: list[socket.socket] = []
        while self._fills():
            pass

    def _fills(self) -> bool:
        one = socket.socket(socket.AF_UNIX)
        one.setblocking(False)
        try:
            one.connect(str(self.path))
        except BlockingIOError:
            one.close()
            return False
        self._waiting.append(one)
        return True

    def let_in(self) -> None:
        """Take all that wait, then answer the next."""
        for one in self._waiting:
            self._listener.accept()[0].close()
            one.close()
        connection, _ = self._listener.accept()
        answers, reader = {"hello": HELLO, "status": {"ready": True}}, FrameReader()
        with connection:
            while data := connection.recv(65536):
                for command in map(m.decode, reader.feed(data)):
                    assert isinstance(command, m.Command)
                    connection.sendall(framed(m.Reply(command.id, result=answers[command.cmd])))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a connection waits for its turn in the kernel")
@both
async def test_a_client_waits_while_too_many_others_connect(short_tmp_path: Path, call: Call) -> None:
    crowd = Crowd(short_tmp_path)
    letting_in = threading.Timer(0.2, crowd.let_in)
    letting_in.daemon = True
    letting_in.start()
    assert await call(crowd.path, "status") == {"ready": True}
    letting_in.join()
