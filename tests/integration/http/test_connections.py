"""A client that sends nothing, or half of it, or reads nothing, costs a connection for a while and others nothing."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import psutil
import pytest

from semanticd.adapters.event_loop import new_event_loop
from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.server import ConnectionBook, Waiting, server_config, within_descriptors
from semanticd.domain.limits import LIMITS
from tests.fakes import http_server
from tests.fakes.generator import ScriptedGenerator
from tests.fakes.http_server import serving
from tests.fakes.http_services import make_services
from tests.fakes.telemetry import RecordingLog, RecordingMetrics

GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHAT = b'{"model": "tiny", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
HALF_BODY = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 999\r\n\r\n"
)
STREAM = HALF_BODY.replace(b"999", str(len(CHAT)).encode()) + CHAT
DEADLINE_S = 60.0


@pytest.fixture(autouse=True, params=[new_event_loop, asyncio.new_event_loop], ids=["daemon", "asyncio"])
def _loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve on the daemon's event loop, and on asyncio's, which it has where uvloop is not installed."""
    monkeypatch.setattr(http_server, "make_loop", request.param)


@dataclass
class Server:
    address: tuple[str, int]
    generator: ScriptedGenerator
    log: RecordingLog
    metrics: RecordingMetrics
    book: ConnectionBook

    def connect(self, sent: bytes = b"") -> socket.socket:
        made = socket.create_connection(self.address, timeout=DEADLINE_S)
        made.sendall(sent)
        return made

    def reasons(self) -> set[object]:
        return {fields["reason"] for _, event, fields in self.log.lines if event == "http_connection_dropped"}


@contextlib.contextmanager
def server(
    generator: ScriptedGenerator | None = None, *, body_timeout_s: float = 30.0, **limits: Any
) -> Iterator[Server]:
    generator = generator or ScriptedGenerator()
    log, metrics = RecordingLog(), RecordingMetrics()
    app = create_app(
        make_services(generator, log=log, metrics=metrics), HttpConfig(body_timeout_s=body_timeout_s)
    )
    config = server_config(
        app, log=log, metrics=metrics, limits=replace(LIMITS, **limits), timeout_graceful_shutdown=2
    )
    book = config.http.book  # type: ignore[union-attr]
    with serving(app, config=config) as url:
        host, _, port = url.removeprefix("http://").rpartition(":")
        yield Server((host, int(port)), generator, log, metrics, book)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def all_of(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    content = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            content += part
    return content


def status_of(connection: socket.socket) -> int:
    """Read the head of an answer."""
    content = b""
    while b"\r\n" not in content:
        part = connection.recv(65536)
        if not part:
            return 0
        content += part
    return int(content.split(b" ")[1])


@pytest.mark.parametrize("version", [b"0.9", b"1.2", b"2.0", b"9.9"])
@pytest.mark.parametrize(
    ("head", "shape"),
    [
        (b"GET /health", b'{"error":{"message":'),
        (b"POST /v1/messages", b'{"type":"error","error":{"type":"invalid_request_error"'),
        (b"GET /api/tags", b'{"error":"'),
    ],
)
def test_a_version_of_http_that_is_not_spoken_is_the_clients_mistake(
    version: bytes, head: bytes, shape: bytes
) -> None:
    sent = head + b" HTTP/" + version + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with server(idle_timeout_s=1) as running, running.connect(sent) as client:
        head_of_answer, _, body = all_of(client).partition(b"\r\n\r\n")
        assert int(head_of_answer.split(b" ")[1]) == 400, head_of_answer
        assert body.startswith(shape)
        assert b"HTTP/" + version + b" is not supported" in body
        assert not [line for line in running.log.lines if line[0] in ("warning", "error")]


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: local", GET + b"GET / HT"])
def test_a_head_that_does_not_come_whole_ends_the_connection(sent: bytes) -> None:
    with server(header_timeout_s=0.5) as running, running.connect(sent) as waiting:
        assert all_of(waiting).startswith(b"HTTP/1.1 200") == sent.startswith(GET)
        until(lambda: running.reasons() == {"head"})
        assert running.metrics.counters["http_connections_dropped_total", "head"] == 1


def test_a_head_that_comes_byte_by_byte_gets_no_more_time() -> None:
    with server(header_timeout_s=0.3) as running, running.connect() as slow:
        slow.settimeout(0.01)

        def is_closed() -> bool:
            try:
                slow.sendall(b"G")
                return slow.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        until(is_closed)
        assert running.reasons() == {"head"}


def test_a_connection_between_two_requests_may_rest_for_its_time_only() -> None:
    with server(idle_timeout_s=1) as running, running.connect(GET) as resting:
        assert all_of(resting).count(b"HTTP/1.1 200") == 1
    limits = replace(LIMITS, idle_timeout_s=7)
    config = server_config(None, log=RecordingLog(), metrics=RecordingMetrics(), limits=limits)
    assert config.timeout_keep_alive == 7


@pytest.mark.parametrize("sent", [HALF_BODY, HALF_BODY + b'{"model'])
def test_a_body_that_does_not_come_whole_is_answered_with_408(sent: bytes) -> None:
    with server(body_timeout_s=0.2) as running, running.connect(sent) as waiting:
        assert status_of(waiting) == 408


def test_a_client_that_does_not_read_its_stream_is_dropped_and_its_answer_cancelled() -> None:
    generator = ScriptedGenerator(["x" * 100_000] * 1000)
    with server(generator, write_timeout_s=0.3) as running, running.connect(STREAM):
        until(lambda: "write" in running.reasons())
        until(lambda: generator.num_active == 0)
    assert not generator.streams[0].exhausted


def test_a_client_that_reads_slowly_keeps_its_stream() -> None:
    # More than the kernel keeps for a connection, so that the server waits for the client all the time.
    generator = ScriptedGenerator(["x" * 24_000_000])
    limits = {"write_timeout_s": 1.5, "write_progress_bytes": 1}
    with server(generator, **limits) as running, running.connect(STREAM) as slow:
        received, began = 0, time.monotonic()

        def read_some() -> bool:
            nonlocal received
            # By the clock, so that it takes more than twice the time in which a client has to read something, and not
            # less a second on a busy machine: a kernel asks for more only when a third of what it keeps was read.
            while received <= min(24_000_000, (time.monotonic() - began) * 6_500_000):
                part = slow.recv(64 * 1024)
                assert part, running.reasons()
                received += len(part)
            return received > 24_000_000

        until(read_some)
        assert running.reasons() == set()


def test_too_many_connections_close_the_one_that_waited_longest() -> None:
    gate = asyncio.Event()
    generator = ScriptedGenerator([gate])
    with server(generator, connections=4, connections_per_peer=9) as running, contextlib.ExitStack() as stack:
        answered = [stack.enter_context(running.connect(STREAM)) for _ in range(2)]
        until(lambda: len(generator.streams) == 2)
        half = stack.enter_context(running.connect(HALF_BODY))
        until(lambda: running.book.num_waiting(Waiting.BODY) == 1)
        oldest = stack.enter_context(running.connect())
        until(lambda: running.book.num_waiting(Waiting.HEAD) == 1)
        for expected in (oldest, half):
            # Whoever comes is let in, in the place of the one that sent nothing, then of the one that sent half.
            answered.append(stack.enter_context(running.connect(STREAM)))
            assert all_of(expected) == b""
        until(lambda: len(generator.streams) == 4)
        full = stack.enter_context(running.connect(GET))
        assert all_of(full).startswith(b"HTTP/1.1 503 ")
        until(lambda: running.reasons() == {"room", "full"})
        assert generator.num_active == 4


def test_a_peer_has_a_limit_of_its_own() -> None:
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(server(connections=100, connections_per_peer=2))
        first, *_ = [stack.enter_context(running.connect()) for _ in range(3)]
        assert all_of(first) == b""
        assert running.reasons() == {"room"}


def test_a_web_socket_is_answered_as_the_plain_request_that_it_is_not() -> None:
    upgrade = GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    with server() as running, running.connect(upgrade) as connection:
        assert status_of(connection) == 200


def test_two_thousand_connections_that_keep_the_server_waiting_hold_up_nobody() -> None:
    # Both ends of each connection are in this process.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    generator = ScriptedGenerator(["x" * 10_000] * 50)
    before = psutil.Process().num_fds()
    kinds = [b"", b"GET / HTTP/1.1\r\nHost: local", HALF_BODY + b"{", STREAM]
    try:
        with server(generator, connections=256, connections_per_peer=256) as running:
            with contextlib.ExitStack() as stack:
                for number in range(2000):
                    with contextlib.suppress(ConnectionError):
                        stack.enter_context(running.connect(kinds[number % len(kinds)]))
                    if number % 50 == 0:
                        with running.connect(GET) as good:
                            assert status_of(good) == 200
            with running.connect(GET) as good:
                assert status_of(good) == 200
                assert len(running.book) <= 256
            until(lambda: generator.num_active == 0)
        until(lambda: psutil.Process().num_fds() <= before + 5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_there_are_never_more_connections_than_half_of_the_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        within = within_descriptors(replace(LIMITS, connections=10, connections_per_peer=7))
        assert (within.connections, within.connections_per_peer) == (10, 7)
        many = within_descriptors(replace(LIMITS, connections=2**40))
        assert many.connections <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        assert many.connections_per_peer <= many.connections
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
