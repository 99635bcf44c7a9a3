"""Packed lines: the last ones, in order, and hardly an object for them."""

from __future__ import annotations

import sys

import pytest

from semanticd.domain.packed_lines import PackedLines


@pytest.mark.parametrize("num_kept", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("num_added", [0, 1, 63, 64, 65, 128, 1000])
def test_the_last_lines_are_kept_in_order(num_kept: int, num_added: int) -> None:
    lines = PackedLines(num_kept)
    added = [b"" if number % 7 == 0 else b"line %d" % number for number in range(num_added)]
    for line in added:
        lines.add(line)
    assert list(lines) == added[-num_kept:]


def test_the_newest_line_with_a_beginning_is_found() -> None:
    lines = PackedLines(500)
    for number in range(700):
        lines.add(b"%d of %d" % (number % 100, number))
    assert [lines.find(b"%d " % number) for number in range(100)] == [
        b"%d of %d" % (number, number + 600) for number in range(100)
    ]
    assert lines.find(b"100 ") is None
    assert lines.find(b" of") is None, "lines begin with it"


def test_lines_are_no_objects_of_their_own() -> None:
    lines = PackedLines(10_000)
    before = sys.getallocatedblocks()
    for number in range(10_000):
        lines.add(b"%d" % number)
    assert sys.getallocatedblocks() - before < 1000
