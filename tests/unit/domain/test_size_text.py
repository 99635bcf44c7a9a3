"""`semanticd.domain.size_text`: sizes that are compared in a sentence."""

from __future__ import annotations

import pytest

from semanticd.domain.size_text import at_least, at_most, size

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
        (1024 * MIB, "1.0 GiB", "1.0 GiB"),
        (1024 * MIB + 1, "1.1 GiB", "1.0 GiB"),
        (1024 * MIB - 1, "1024.0 MiB", "1023.9 MiB"),
        (48 * 1024 * MIB, "48.0 GiB", "48.0 GiB"),
    ],
)
def test_what_is_needed_is_rounded_up_and_what_is_there_down(num_bytes: int, least: str, most: str) -> None:
    assert (at_least(num_bytes), at_most(num_bytes)) == (least, most)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (32 * MIB, "32.0 MiB"),
        (1024 * MIB - 1, "1.0 GiB"),
        (1.5 * 1024 * MIB, "1.5 GiB"),
        (3 << 40, "3.0 TiB"),
        (3 << 50, "3072.0 TiB"),
        (-32 * MIB, "-32.0 MiB"),
    ],
)
def test_a_size_has_the_unit_that_suits_it(num_bytes: float, text: str) -> None:
    assert size(num_bytes) == text
