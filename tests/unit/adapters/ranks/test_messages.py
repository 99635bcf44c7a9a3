"""What a rank's process reports while it cannot join: each reason once, with the address."""

from __future__ import annotations

import errno
import os
import socket
import threading

import pytest

from semanticd.adapters.ranks.handshake import Introduction, new_nonce
from semanticd.adapters.ranks.joining import join
from semanticd.adapters.ranks.link import Link, LinkLostError
from semanticd.adapters.ranks.messages import RankMessages

WHO = Introduction(
    protocol=1, version="1.2.3", rank=1, kind="steps", process="one", device="gpu", computed_by="mlx-chip"
)
REFUSED = OSError(errno.ECONNREFUSED, "Connection refused")


def messages(rank: int = 1, *, host: str = "10.0.0.1") -> tuple[RankMessages, list[str]]:
    lines: list[str] = []
    return RankMessages(rank, (host, 8710), retry_s=1.0, tell=lines.append), lines


def test_a_reason_is_reported_once_and_again_when_it_changes() -> None:
    told, lines = messages()
    for _ in range(3):
        told.cannot_join(REFUSED)
    told.cannot_join(TimeoutError("timed out"))
    told.cannot_join(REFUSED)
    expected = [
        "cannot reach the daemon at 10.0.0.1:8710: connection refused; trying again every 1 s",
        "cannot reach the daemon at 10.0.0.1:8710: timed out; trying again every 1 s",
        "cannot reach the daemon at 10.0.0.1:8710: connection refused; trying again every 1 s",
    ]
    assert lines == [f"semanticd: rank 1: {line}" for line in expected]


def test_a_neighbour_that_is_waited_for_is_reported_once() -> None:
    told, lines = messages()
    for text in ("", "rank 1 waits for rank 2", "rank 1 waits for rank 2", ""):
        told.waits_in_ring(text)
    assert lines == ["semanticd: rank 1: waits for rank 2"]


def test_joining_and_the_loss_of_the_connection_are_reported_with_the_address() -> None:
    told, lines = messages(host="fd00::1")
    told.joined()
    told.lost("the connection was closed")
    told.cannot_join(REFUSED)
    told.joined()
    told.cannot_join(REFUSED)
    daemon = "the daemon at [fd00::1]:8710"
    assert lines == [
        f"semanticd: rank 1: has joined {daemon}",
        f"semanticd: rank 1: lost its connection to {daemon}: the connection was closed; it joins again",
        f"semanticd: rank 1: cannot reach {daemon}: connection refused; trying again every 1 s",
        f"semanticd: rank 1: has joined {daemon}",
        f"semanticd: rank 1: cannot reach {daemon}: connection refused; trying again every 1 s",
    ]


def test_a_message_that_begins_with_the_rank_names_it_once() -> None:
    told, lines = messages()
    told.say("rank 1 has another model under this name")
    told.say("rank 2 is away")
    assert lines == [
        "semanticd: rank 1: has another model under this name",
        "semanticd: rank 1: rank 2 is away",
    ]


def test_the_daemons_own_rank_leaves_the_loss_to_the_daemons_log() -> None:
    told, lines = messages(0)
    told.lost("the connection was closed")
    assert lines == []


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EMFILE])
def test_reasons_are_the_systems(number: int) -> None:
    told, lines = messages()
    told.cannot_join(OSError(number, os.strerror(number)))
    assert os.strerror(number)[1:] in lines[0]


@pytest.mark.parametrize("banner", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_another_programs_port_is_not_taken_for_a_daemon_and_the_right_one_is_named(banner: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def stranger() -> None:
            connected, _ = listener.accept()
            connected.sendall(banner)
            connected.close()

        thread = threading.Thread(target=stranger)
        thread.start()
        with pytest.raises(LinkLostError) as lost:
            join(listener.getsockname(), key="0123456789abcdef", who=WHO)
        thread.join()
    told, lines = messages()
    told.cannot_join(lost.value)
    assert "cannot join the daemon at 10.0.0.1:8710: no daemon that accepts ranks answers there" in lines[0]
    assert "SEMANTIC_DISTRIBUTED_PORT" in lines[0]


def test_a_daemon_that_goes_away_in_the_middle_of_the_greeting_is_a_lost_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def daemon() -> None:
            link = Link(listener.accept()[0])
            link.send({"semanticd": "ranks", "nonce": new_nonce()})
            link.receive()
            link.close()

        thread = threading.Thread(target=daemon)
        thread.start()
        with pytest.raises(LinkLostError, match="the connection was closed"):
            join(listener.getsockname(), key="0123456789abcdef", who=WHO)
        thread.join()
