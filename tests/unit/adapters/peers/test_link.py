"""The rate of a link: bytes over the time in which something was read."""

from __future__ import annotations

import pytest

from semanticd.adapters.peers.link import LinkRate


def test_nothing_is_known_before_something_came() -> None:
    link = LinkRate()
    assert link.bytes_per_s is None
    link.begin(10.0)
    link.end(18.0, 0)
    assert link.bytes_per_s is None


def test_reads_beside_one_another_share_the_time_and_pauses_do_not_count() -> None:
    link = LinkRate()
    link.begin(0.0)
    link.begin(1.0)
    link.end(2.0, 300)
    link.end(3.0, 300)
    link.begin(1000.0)
    link.end(1001.0, 200)
    assert link.bytes_per_s == pytest.approx(200)


def test_a_link_that_becomes_slow_is_seen_soon() -> None:
    link = LinkRate()
    for second in range(600):
        link.begin(float(second))
        link.end(second + 1.0, 1_000_000)
    for second in range(1000, 1120):
        link.begin(float(second))
        link.end(second + 1.0, 1_000)
    assert link.bytes_per_s is not None
    assert link.bytes_per_s < 100_000


def test_what_is_forgiven_often_enough_is_tried_again() -> None:
    link = LinkRate()
    link.begin(0.0)
    link.end(10.0, 1000)
    for _ in range(20):
        link.forgive()
    assert link.bytes_per_s is not None
    assert link.bytes_per_s > 5_000
