"""`semanticd.domain.size_text`: sizes that are compared in a sentence."""

from __future__ import annotations

import pytest

from semanticd.domain.size_text import at_least, at_most

MIB = 1 << 20


@pytest.mark.parametrize(
    ("num_bytes", "least", "most"),
    [
        (0, "0.0 MiB", "0.0 MiB"),
        (1, "0.1 MiB", "0.0 MiB"),
        (MIB, "1.0 MiB", "1.0 MiB"),
        (MIB + 1, "1.1 MiB", "1.0 MiB"),
        (MIB - 1, "1.0 MiB", "0.9 MiB"),
        (300 * MIB, "300.0 MiB", "300.0 MiB"),
    ],
)
def test_what_is_needed_is_rounded_up_and_what_is_there_down(num_bytes: int, least: str, most: str) -> None:
    assert (at_least(num_bytes), at_most(num_bytes)) == (least, most)
