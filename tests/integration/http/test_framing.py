"""Where a request ends has one answer: what a proxy may read otherwise is refused, nothing behind it is answered."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from tests.fakes.generator import ScriptedGenerator
from tests.integration.http.test_connections import CHAT, GET, Server, all_of, server, status_of, until

LENGTH = str(len(CHAT)).encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT)


def post(
    *headers: bytes, body: bytes = CHAT, version: bytes = b"1.1", path: bytes = b"/v1/chat/completions"
) -> bytes:
    lines = [
        b"POST " + path + b" HTTP/" + version,
        b"Host: localhost",
        b"Content-Type: application/json",
        *headers,
    ]
    return b"\r\n".join([*lines, b"", body])


def sent_in_one(running: Server, sent: bytes) -> bytes:
    """Return all that comes back for a request with another one right behind it, until the server closes."""
    with running.connect() as client:
        # One that is refused may still be sending.
        with contextlib.suppress(ConnectionError):
            client.sendall(sent + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        return all_of(client)


TWICE = b"Content-Length: " + LENGTH
AMBIGUOUS = {
    "a length and chunks": post(TWICE, b"Transfer-Encoding: chunked", body=CHUNKED),
    "chunks and a length": post(b"Transfer-Encoding: chunked", b"Content-Length: 4", body=CHUNKED),
    "two lengths": post(TWICE, b"Content-Length: 3"),
    "two lengths in one": post(TWICE + b", 3"),
    "a length with a sign": post(b"Content-Length: +" + LENGTH),
    "a negative length": post(b"Content-Length: -1"),
    "a length with an underscore": post(b"Content-Length: 8_3"),
    "a length in hexadecimal": post(b"Content-Length: 0x53"),
    "no length": post(b"Content-Length:"),
    "a length of 30 digits": post(b"Content-Length: " + b"0" * 30),
    "identity": post(b"Transfer-Encoding: identity"),
    "chunked, identity": post(b"Transfer-Encoding: chunked, identity", body=CHUNKED),
    "identity, chunked": post(b"Transfer-Encoding: identity, chunked", body=CHUNKED),
    "xchunked": post(b"Transfer-Encoding: xchunked", body=CHUNKED),
    "quoted": post(b'Transfer-Encoding: "chunked"', body=CHUNKED),
    "chunked twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=CHUNKED),
    "vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=CHUNKED),
    "chunked for HTTP/1.0": post(b"Transfer-Encoding: chunked", body=CHUNKED, version=b"1.0"),
    "space before the colon": post(b"Transfer-Encoding : chunked", TWICE, body=CHUNKED),
    "a folded header": post(b"Transfer-Encoding:\r\n chunked", body=CHUNKED),
    "a folded header of no use": post(b"X-Note: a\r\n\tb", TWICE),
    "a zero byte": post(b"X-Note: a\x00b", TWICE),
    "a bare carriage return": post(b"X-Note: a\rContent-Length: 0", TWICE),
    "a bare line feed": post(b"X-Note: a\nX-Other: b", TWICE),
    "only bare line feeds": GET.replace(b"\r\n", b"\n"),
    "a chunk's size with a sign": post(b"Transfer-Encoding: chunked", body=b"+" + CHUNKED),
    "a chunk's size with an underscore": post(b"Transfer-Encoding: chunked", body=b"0_" + CHUNKED),
    "a chunk's size with 0x": post(b"Transfer-Encoding: chunked", body=b"0x" + CHUNKED),
    "a chunk's size of 21 digits": post(b"Transfer-Encoding: chunked", body=b"0" * 21 + CHUNKED),
    "a chunk's size of 64 bits and its sign": post(
        b"Transfer-Encoding: chunked", body=b"8000000000000000\r\n" + CHAT
    ),
    "a chunk's size of 65 bits": post(b"Transfer-Encoding: chunked", body=b"10000000000000053\r\n" + CHAT),
    "a line feed in a chunk's extension": post(
        b"Transfer-Encoding: chunked", body=b"%x;\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT)
    ),
    "a chunk longer than it says": post(
        b"Transfer-Encoding: chunked", body=b"1" + b"\r\n" + CHAT + b"\r\n0\r\n\r\n"
    ),
    "headers behind the body": post(
        b"Transfer-Encoding: chunked", body=CHUNKED[:-2] + b"Content-Length: 4\r\n\r\n"
    ),
    "two hosts": GET.replace(b"\r\n\r\n", b"\r\nHost: localhost\r\n\r\n"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_request_that_ends_in_two_places_is_refused_and_nothing_behind_it_is_answered(name: str) -> None:
    with server() as running:
        answer = sent_in_one(running, AMBIGUOUS[name])
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        assert lines[0].startswith((b"http/1.1 400 ", b"http/1.1 431 ")), answer
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in lines
        assert b"content-type: application/json" in lines
        error = json.loads(body)["error"]
        assert error["code"] in ("invalid_http", "headers_too_large")
        assert error["type"] == "invalid_request_error"
        until(lambda: running.generator.num_active == 0)
        assert running.reasons() == {"invalid"}
        assert running.metrics.counters["http_connections_dropped_total", "invalid"] == 1
        assert not [line for line in running.log.lines if line[0] == "error"]


def in_chunks(body: bytes, size: int) -> bytes:
    parts = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("length", "size", "status"),
    [(4_096, 1, 200), (4_097, 1, 400), (200_000, 16, 400), (4_096 * 31, 31, 200), (200_000, 32, 200)],
)
def test_a_body_may_come_in_small_chunks_but_not_in_many(length: int, size: int, status: int) -> None:
    body = CHAT + b" " * (length - len(CHAT))
    with server() as running:
        sent = post(b"Transfer-Encoding: chunked", body=in_chunks(body, size))
        answer = sent_in_one(running, sent)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:300]
        assert (running.reasons() == {"invalid"}) is (status == 400)
        if status == 400:
            assert b"in more than 4096 chunks of less than 32 bytes" in answer


def test_an_extension_of_a_chunk_that_does_not_end_is_refused() -> None:
    sent = post(b"Transfer-Encoding: chunked", body=b"5;" + b"e" * 1_000_000)
    with server() as running, running.connect() as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(sent)
        until(lambda: running.reasons() == {"invalid"})


@pytest.mark.parametrize(
    "sent",
    [
        post(TWICE),
        post(b"Content-Length:   " + LENGTH + b" \t "),
        post(b"content-length: 00" + LENGTH),
        # One meaning, and RFC 9110 lets a server take it.
        post(TWICE, TWICE),
        post(b"Transfer-Encoding: chunked", body=CHUNKED),
        post(b"TRANSFER-ENCODING: Chunked", body=CHUNKED.replace(b"\r\n", b";note=1\r\n", 1)),
    ],
)
def test_one_meaning_in_another_spelling_is_answered_and_so_is_the_next_request(sent: bytes) -> None:
    with server() as running:
        assert sent_in_one(running, sent).count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        (b"/v1/messages", b'{"type":"error","error":{"type":"invalid_request_error"'),
        (b"/api/chat", b'{"error":"'),
        (b"/v1/responses", b'{"error":{"message":'),
    ],
)
def test_a_body_that_breaks_off_its_chunks_is_refused_in_the_shape_of_its_path(
    path: bytes, shape: bytes
) -> None:
    with server() as running:
        answer = sent_in_one(
            running, post(b"Transfer-Encoding: chunked", body=b'5\r\n{"mod\r\nzz\r\n', path=path)
        )
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.partition(b"\r\n\r\n")[2].startswith(shape)


def test_a_request_that_is_not_one_shows_nothing_of_itself() -> None:
    with server() as running:
        answer = sent_in_one(running, GET.replace(b"Host:", b"Authorization Bearer secret\r\nHost:"))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"secret" not in answer
        assert "secret" not in str(running.log.lines)


def test_a_method_without_an_answers_body_is_refused_like_others() -> None:
    sent = post(TWICE, b"Transfer-Encoding: chunked", body=CHUNKED).replace(b"POST", b"HEAD")
    with server() as running:
        assert sent_in_one(running, sent).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("stream", [b"true", b"false"])
def test_what_is_no_request_behind_one_that_is_answered_is_refused_after_it(stream: bytes) -> None:
    chat = CHAT.replace(b"true", stream)
    with server() as running:
        length = b"Content-Length: %d" % len(chat)
        answers = sent_in_one(running, post(length, body=chat) + b"nonsense\r\n\r\n")
        assert answers.startswith(b"HTTP/1.1 200 ")
        assert answers.count(b"HTTP/1.1 ") == 2
        assert answers.count(b"HTTP/1.1 400 ") == 1


def test_chunks_cut_off_after_an_early_answer_get_no_second_one() -> None:
    sent = post(b"Transfer-Encoding: chunked", body=b'5\r\n{"mod\r\n', path=b"/nowhere")
    with server() as running, running.connect(sent) as client:
        assert status_of(client) == 404
        client.sendall(b"zz\r\n" + GET)
        assert b"HTTP/1.1 " not in all_of(client)
        assert running.reasons() == {"invalid"}


def test_a_chunk_too_long_for_64_bits_is_refused_before_any_of_it_comes() -> None:
    with server() as running:
        sent = post(b"Transfer-Encoding: chunked", body=b"10000000000000000\r\n")
        with running.connect(sent) as client:
            assert status_of(client) == 400
        assert running.reasons() == {"invalid"}


ASKING = b"Expect: 100-continue"


@pytest.mark.parametrize(
    "sent",
    [
        post(ASKING, b"Content-Length: 99999999999", body=b""),
        post(ASKING, b"Content-Length: 99999999999", body=b"", path=b"/v1/messages"),
        post(b"expect: 100-Continue", b"content-length: 99999999999", body=b"", path=b"/v1/responses"),
    ],
)
def test_a_body_that_is_too_long_is_refused_before_it_is_asked_for(sent: bytes) -> None:
    with server() as running, running.connect(sent) as client:
        assert status_of(client) == 413
        until(lambda: running.generator.num_active == 0)


@pytest.mark.parametrize(
    ("header", "body"),
    [(TWICE, CHAT), (b"Transfer-Encoding: chunked", CHUNKED)],
    ids=["with a length", "in chunks"],
)
def test_a_body_that_may_come_is_asked_for_once(header: bytes, body: bytes) -> None:
    with server() as running, running.connect(post(ASKING, header, b"Connection: close", body=b"")) as client:
        assert status_of(client) == 100
        client.sendall(body)
        answer = all_of(client)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert answer.count(b"HTTP/1.1 ") == 1


def test_a_body_that_was_asked_for_and_does_not_come_is_answered_with_408() -> None:
    with server(body_timeout_s=0.2) as running, running.connect(post(ASKING, TWICE, body=b"")) as client:
        # Both may come in one piece.
        said = b""
        while b"\r\n\r\nHTTP/1.1 408 " not in said:
            part = client.recv(65536)
            assert part, said
            said += part
        assert said.startswith(b"HTTP/1.1 100 ")
        assert said.count(b"HTTP/1.1 ") == 2


def test_a_client_that_was_not_asked_for_a_body_and_leaves_its_answer_is_noticed() -> None:
    gate = asyncio.Event()
    generator = ScriptedGenerator(["hi", gate])
    with server(generator) as running:
        with running.connect(post(ASKING, TWICE, body=CHAT)) as client:
            assert client.recv(1) == b"H"
            until(lambda: generator.num_active == 1)
        until(lambda: generator.num_active == 0)
