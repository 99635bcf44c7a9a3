"""Who may join the ranks, over real sockets: those that know the key and compute alike; others are told why not."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from semanticd.adapters.ranks.group import GroupOptions, RankGroup
from semanticd.adapters.ranks.handshake import (
    PROTOCOL,
    Expected,
    Introduction,
    LinkKind,
    new_nonce,
    proof,
    refusal,
)
from semanticd.adapters.ranks.hosts import Hosts
from semanticd.adapters.ranks.joining import RefusedError, TakenError, join
from semanticd.adapters.ranks.link import Link, LinkLostError
from semanticd.domain.errors import DaemonError, OverloadedError
from semanticd.domain.limits import LIMITS
from tests.fakes.daemon_process import free_port
from tests.fakes.telemetry import RecordingLog

KEY = "0123456789abcdef"
COMPUTED_BY = "mlx0.32-lm0.32-a1.1.1-apple.g14"
WHO = Introduction(
    protocol=PROTOCOL,
    version="1.2.3",
    rank=0,
    kind="steps",
    process="one",
    device="gpu",
    computed_by=COMPUTED_BY,
)


class Lobby:
    """A group of two ranks that listens on this machine."""

    def __init__(self) -> None:
        self.port = free_port()
        self.log = RecordingLog()
        self.group = RankGroup(
            GroupOptions(
                hosts=Hosts((("127.0.0.1:1",), ("127.0.0.1:2",))),
                port=self.port,
                key=KEY,
                timeout_s=60.0,
                expected=Expected("1.2.3", "gpu", COMPUTED_BY, 2),
            ),
            log=self.log,
        )
        self.links: list[Link] = []
        self.group.start()

    def join(self, who: Introduction, *, key: str = KEY) -> Link:
        self.links.append(join(("127.0.0.1", self.port), key=key, who=who))
        return self.links[-1]

    def join_whole(self, rank: int, *, process: str = "one") -> list[Link]:
        kinds: tuple[LinkKind, ...] = ("steps", "blocks")
        return [self.join(replaced(rank=rank, kind=kind, process=process)) for kind in kinds]

    def missing(self, *ranks: int) -> None:
        """Wait until these ranks are missing."""
        wait_for(lambda: self.group.missing() == list(ranks))


def replaced(**fields: object) -> Introduction:
    values = {name: getattr(WHO, name) for name in WHO.__struct_fields__}
    return Introduction(**{**values, **fields})  # type: ignore[arg-type]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def lobby() -> Iterator[Lobby]:
    made = Lobby()
    yield made
    made.group.close()
    for link in made.links:
        link.close()


def test_a_rank_has_joined_with_both_links_and_all_form_once(lobby: Lobby) -> None:
    lobby.missing(0, 1)
    lobby.join(replaced(rank=1))
    lobby.missing(0, 1)
    lobby.join(replaced(rank=1, kind="blocks"))
    lobby.missing(0)
    with pytest.raises(OverloadedError, match=r"rank 0 \(127.0.0.1\) has not joined"):
        lobby.group.form("tiny")
    lobby.join_whole(0)
    lobby.missing()
    formation = lobby.group.form("tiny")
    assert [member.rank for member in formation.members] == [0, 1]
    assert [one.state for one in lobby.group.facts()] == ["ready", "ready"]


def test_a_rank_that_leaves_the_lobby_is_missing_again(lobby: Lobby) -> None:
    links = lobby.join_whole(1)
    lobby.missing(0)
    links[0].close()
    lobby.missing(0, 1)


def test_a_formation_ends_when_a_rank_of_it_is_gone(lobby: Lobby) -> None:
    lobby.join_whole(0)
    links = lobby.join_whole(1)
    lobby.missing()
    formation = lobby.group.form("tiny")
    links[1].close()
    wait_for(lambda: formation.ended is not None)
    assert lobby.group.num_failures == 1
    told = [one.last_failure for one in lobby.group.facts()]
    assert told == [None, formation.ended], "only of the rank that was lost"
    with pytest.raises(OverloadedError, match="rank 1"):
        formation.call("decode", 0)
    lobby.join_whole(0, process="two")
    lobby.join_whole(1, process="two")
    lobby.missing()
    assert lobby.group.form("tiny").ended is None


def test_an_end_that_is_no_single_rank_s_fault_is_told_of_all(lobby: Lobby) -> None:
    lobby.join_whole(0)
    lobby.join_whole(1)
    lobby.missing()
    lobby.group.form("tiny").end("the ring cannot be formed")
    assert [one.last_failure for one in lobby.group.facts()] == ["the ring cannot be formed"] * 2


@pytest.mark.parametrize("has_formed", [False, True])
def test_a_rank_is_its_first_process_s_until_that_one_is_gone(has_formed: bool, lobby: Lobby) -> None:
    lobby.join_whole(0)
    links = lobby.join_whole(1)
    lobby.missing()
    formation = lobby.group.form("tiny") if has_formed else None
    for kind in ("steps", "blocks"):
        with pytest.raises(TakenError, match=r"rank 1 is taken by the worker at 127\.0\.0\.1"):
            lobby.join(replaced(rank=1, kind=kind, process="two"))
    assert [line[1] for line in lobby.log.lines].count("rank_taken") == 1, "it tries often"
    if formation is None:
        lobby.missing()
    else:
        assert formation.ended is None
    links[1].close()
    if formation is not None:
        wait_for(lambda: formation.ended is not None)
        lobby.join_whole(0, process="two")
    lobby.missing(1)
    lobby.join_whole(1, process="two")
    lobby.missing()
    assert lobby.group.num_failures == int(has_formed)


def test_the_system_asks_after_a_silent_machine(lobby: Lobby) -> None:
    # The links of one that was switched off would otherwise keep its rank from the one that takes its place.
    link = lobby.join(WHO)
    with socket.socket(fileno=os.dup(link.fileno())) as same:
        assert same.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_rank_that_does_not_answer_a_step_ends_the_formation_at_the_time_limit(lobby: Lobby) -> None:
    lobby.group.options = replace(lobby.group.options, timeout_s=0.2)
    lobby.join_whole(0)
    lobby.join_whole(1)
    lobby.missing()
    formation = lobby.group.form("tiny")
    with pytest.raises(OverloadedError, match=r"rank 0 did not answer within 0.2 s \(decode\)"):
        formation.call("decode", 0)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"version": "1.2.4"}, "rank 0 runs semanticd 1.2.4 and the daemon 1.2.3; install the same version"),
        ({"protocol": PROTOCOL - 1}, "install the same version"),
        ({"device": "cpu"}, "rank 0 computes on a cpu and the daemon on a gpu"),
        (
            {"computed_by": "mlx0.31-lm0.32-a1.1.1-apple.g14"},
            "mlx0.31-lm0.32-a1.1.1 and the daemon with mlx0.32",
        ),
        ({"rank": 2}, "ranks 0 to 1; this is rank 2"),
        ({"rank": -1}, "this is rank -1"),
    ],
)
def test_a_rank_that_computes_otherwise_is_told_why(
    fields: dict[str, object], reason: str, lobby: Lobby
) -> None:
    with pytest.raises(RefusedError) as refused:
        lobby.join(replaced(**fields))
    assert reason in refused.value.message
    assert "rank_refused" in {line[1] for line in lobby.log.lines}
    lobby.missing(0, 1)


def test_a_worker_of_a_daemon_whose_hostfile_names_no_other_machine_is_refused_with_the_reason() -> None:
    alone = Expected("1.2.3", "gpu", COMPUTED_BY, 1)
    why = refusal(replaced(rank=1), alone)
    assert why is not None
    assert "the daemon's hostfile names its own machine only, and this is rank 1; add this machine" in why
    assert refusal(replaced(rank=0), alone) is None


def test_another_chip_of_the_same_software_may_join(lobby: Lobby) -> None:
    lobby.join(replaced(computed_by="mlx0.32-lm0.32-a1.1.1-apple.g16"))


def test_a_wrong_key_is_refused_and_the_right_one_is_never_sent(lobby: Lobby) -> None:
    with pytest.raises(RefusedError, match="its key is not the daemon's"):
        lobby.join(WHO, key="fedcba9876543210")
    lobby.missing(0, 1)


def test_a_proof_cannot_be_used_again_nor_sent_back(lobby: Lobby) -> None:
    nonces = (new_nonce(), new_nonce())
    ours = proof(KEY, side="rank", nonces=nonces, who=WHO)
    assert ours != proof(KEY, side="daemon", nonces=nonces, who=WHO)
    assert ours != proof(KEY, side="rank", nonces=(new_nonce(), nonces[1]), who=WHO)
    assert ours != proof(KEY, side="rank", nonces=nonces, who=replaced(rank=1))
    link = Link(socket.create_connection(("127.0.0.1", lobby.port), timeout=60))
    link.receive()
    link.send({"who": WHO, "nonce": nonces[1], "proof": ours})
    assert "key" in link.receive()["refused"]
    link.close()


def test_a_daemon_that_does_not_know_the_key_is_left(lobby: Lobby) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def impostor() -> None:
            link = Link(listener.accept()[0])
            link.send({"semanticd": "ranks", "nonce": new_nonce()})
            link.receive()
            link.send({"proof": new_nonce()})
            link.close()

        thread = threading.Thread(target=impostor)
        thread.start()
        with pytest.raises(RefusedError, match="does not know the key"):
            join(listener.getsockname(), key=KEY, who=WHO)
        thread.join()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\xc1",
        b"\x00\x00\x00\x01\xc0",
        b"\x00\x00\x00\x02\x91\x01",
    ],
)
def test_whatever_a_stranger_says_ends_its_connection_alone(sent: bytes, lobby: Lobby) -> None:
    with socket.create_connection(("127.0.0.1", lobby.port), timeout=60) as stranger:
        stranger.sendall(sent)
        while stranger.recv(4096):
            pass
    lobby.join_whole(1)
    lobby.missing(0)


def test_connections_that_prove_nothing_are_bounded(lobby: Lobby) -> None:
    with contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", lobby.port), timeout=60))

        waiting = [connect() for _ in range(LIMITS.rank_handshakes)]
        assert all(one.recv(1) for one in waiting), "each has been greeted"
        assert connect().recv(1) == b""


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = GroupOptions(
            hosts=Hosts((("127.0.0.1:1",),)),
            port=taken.getsockname()[1],
            key=KEY,
            timeout_s=60.0,
            expected=Expected("1.2.3", "gpu", COMPUTED_BY, 1),
        )
        with pytest.raises(DaemonError, match="SEMANTIC_DISTRIBUTED_PORT"):
            RankGroup(options, log=RecordingLog()).start()


def test_a_link_that_is_closed_is_lost(lobby: Lobby) -> None:
    link = lobby.join(WHO)
    lobby.group.close()
    with pytest.raises(LinkLostError):
        link.receive()
