"""Neighbours find out whether they reach each other's ring ports, over real sockets; what fails is named."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from semanticd.adapters.mlx.model.ring_ports import RingPorts
from semanticd.domain.errors import ModelLoadError
from tests.fakes.ranked_daemon import ring_port

Ring = Sequence[Sequence[str]]


def ring_of(*num_addresses: int) -> Ring:
    return [[f"127.0.0.1:{ring_port()}" for _ in range(number)] for number in num_addresses]


def check_all(ring: Ring, *, limit_s: float, ranks: Sequence[int] | None = None) -> list[str]:
    """Let these ranks check at the same time; returns what each of them raised, or an empty text."""
    ranks = range(len(ring)) if ranks is None else ranks
    with ThreadPoolExecutor(len(ranks)) as pool:
        checks: list[Future[None]] = [
            pool.submit(RingPorts(rank=rank, ring=ring, limit_s=limit_s).check) for rank in ranks
        ]
        found: list[str] = []
        for check in checks:
            error = check.exception()
            assert error is None or isinstance(error, ModelLoadError), error
            found.append("" if error is None else error.message)
    return found


@pytest.mark.parametrize("num_addresses", [(1, 1), (1, 1, 1), (2, 2), (1, 2, 1, 3, 1)], ids=str)
def test_ranks_that_reach_one_another_pass_and_leave_their_ports_free(num_addresses: tuple[int, ...]) -> None:
    ring = ring_of(*num_addresses)
    for _ in range(2):
        assert check_all(ring, limit_s=60) == [""] * len(ring)
    for address in (one for addresses in ring for one in addresses):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", int(address.rpartition(":")[2])))


def test_a_rank_that_comes_late_is_waited_for() -> None:
    ring = ring_of(1, 1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(RingPorts(rank=0, ring=ring, limit_s=60).check)
        while not first.running():
            time.sleep(0.01)
        RingPorts(rank=1, ring=ring, limit_s=60).check()
        first.result(60)


def test_a_port_that_is_closed_is_named_by_the_rank_that_needs_it_and_by_its_owner() -> None:
    ring = ring_of(1, 1, 1)
    (away,) = ring[1]
    # Long enough for rank 0 to listen, which rank 2 connects to.
    before, after = check_all(ring, limit_s=2.0, ranks=[0, 2])
    assert f"rank 0 cannot connect to the ring port of rank 1 at {away}: connection refused" in before
    assert f"ring ports: rank 0 {ring[0][0]}, rank 1 {away}, rank 2 {ring[2][0]}" in before
    assert f"rank 1 has not connected to the ring port of rank 2 at {ring[2][0]}" in after


def test_a_rank_says_which_port_it_waits_for_before_it_gives_up() -> None:
    ring = ring_of(1, 1)
    (away,) = ring[1]
    first = RingPorts(rank=0, ring=ring, limit_s=600, patience_s=0.2)
    with ThreadPoolExecutor(1) as pool:
        checking = pool.submit(first.check)
        deadline = time.monotonic() + 60
        while not first.waits_for:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert first.waits_for == f"rank 0 waits for the ring port of rank 1 at {away}: connection refused"
        RingPorts(rank=1, ring=ring, limit_s=600).check()
        checking.result(60)
    assert first.waits_for == ""


def test_a_rank_that_nothing_reaches_names_its_own_port() -> None:
    ring = ring_of(1, 1)
    ((own,), (other,)) = ring
    with socket.create_server(("127.0.0.1", int(other.rpartition(":")[2]))) as neighbour:

        def answer() -> None:
            connected, _ = neighbour.accept()
            greeting = connected.recv(64)
            connected.sendall(greeting[:-1] + b"\1")
            neighbour_holds.append(connected)

        neighbour_holds: list[socket.socket] = []
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(
            ModelLoadError, match=f"rank 1 has not connected to the ring port of rank 0 at {own}"
        ):
            RingPorts(rank=0, ring=ring, limit_s=0.5).check()
        thread.join()
        for one in neighbour_holds:
            one.close()


def test_a_port_that_is_taken_and_an_address_of_another_machine_are_named() -> None:
    ring = ring_of(1, 1)
    (own,) = ring[0]
    with socket.create_server(("127.0.0.1", int(own.rpartition(":")[2]))):
        found = check_all(ring, limit_s=0.5, ranks=[0])
    assert f"rank 0 cannot listen on its ring port {own}: address already in use" in found[0]
    found = check_all([["192.0.2.250:5000"], ring[1]], limit_s=0.5, ranks=[0])
    assert "rank 0 cannot listen on its ring port 192.0.2.250:5000" in found[0]
    assert "at position 0, counted from 0" in found[0]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"semanticd ring\0\5"])
def test_another_program_at_a_ring_port_is_not_taken_for_a_rank(answer: bytes) -> None:
    ring = ring_of(1, 1)
    port = int(ring[1][0].rpartition(":")[2])
    done = threading.Event()
    with socket.create_server(("127.0.0.1", port)) as stranger:

        def serve() -> None:
            stranger.settimeout(0.1)
            while not done.is_set():
                try:
                    connected, _ = stranger.accept()
                except TimeoutError:
                    continue
                with connected:
                    connected.recv(64)
                    connected.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        (found,) = check_all(ring, limit_s=1.0, ranks=[0])
        done.set()
        thread.join()
    assert f"rank 0 cannot connect to the ring port of rank 1 at {ring[1][0]}" in found


def test_strangers_that_connect_do_not_take_a_neighbours_place() -> None:
    ring = ring_of(1, 1)
    port = int(ring[0][0].rpartition(":")[2])
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(RingPorts(rank=0, ring=ring, limit_s=60).check)
        deadline = time.monotonic() + 60
        for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"semanticd ring\0\7"):
            while True:
                try:
                    stranger = socket.create_connection(("127.0.0.1", port), timeout=60)
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
            with stranger:
                stranger.sendall(said)
                # After a whole greeting the rank closes at once: then nothing is left to shut down.
                if not said:
                    stranger.shutdown(socket.SHUT_WR)
                # Reset where something of what it has said was not read.
                with contextlib.suppress(ConnectionResetError):
                    assert stranger.recv(64) == b""
        RingPorts(rank=1, ring=ring, limit_s=60).check()
        first.result(60)


FORM = """
import sys
from semanticd.adapters.mlx.model.sharding import Ring
from semanticd.domain.errors import ModelLoadError
try:
    Ring.form(rank=0, ring=[[sys.argv[1]], [sys.argv[2]]], limit_s=1.0, mode="tensor")
except ModelLoadError as error:
    print(error.message)
"""


def test_a_ring_that_cannot_be_formed_names_the_port_and_dumps_no_threads() -> None:
    ((own,), (away,)) = ring_of(1, 1)
    ran = subprocess.run([sys.executable, "-c", FORM, own, away], capture_output=True, text=True, timeout=300)
    assert f"rank 0 cannot connect to the ring port of rank 1 at {away}: connection refused" in ran.stdout
    assert (ran.returncode, ran.stderr) == (0, "")
