"""How a formation ends, over real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from semanticd.adapters.ranks.formation import Formation, Member
from semanticd.adapters.ranks.handshake import Introduction
from semanticd.adapters.ranks.link import Link
from tests.fakes.telemetry import RecordingLog

WHO = Introduction(
    protocol=1, version="1.2.3", rank=0, kind="steps", process="one", device="gpu", computed_by="mlx"
)


@pytest.fixture
def links() -> Iterator[list[tuple[Link, Link]]]:
    """Two links of one rank, each with its other end."""
    made: list[tuple[Link, Link]] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(2):
            there = socket.create_connection(listener.getsockname(), timeout=60)
            made.append((Link(listener.accept()[0]), Link(there)))
    yield made
    for pair in made:
        for link in pair:
            link.close()


def test_an_end_is_told_before_it_can_be_seen_and_once(links: list[tuple[Link, Link]]) -> None:
    (steps, _), (blocks, _) = links
    seen: list[tuple[str | None, str, bool]] = []
    formation = Formation(
        [Member(0, "127.0.0.1", WHO, steps, blocks)],
        model_id="tiny",
        timeout_s=60.0,
        log=RecordingLog(),
        on_end=lambda reason, wanted: seen.append((formation.ended, reason, wanted)),
    )
    formation.end("it was enough", wanted=True)
    formation.end("it was too much")
    assert seen == [(None, "it was enough", True)]
    assert formation.ended == "it was enough"
