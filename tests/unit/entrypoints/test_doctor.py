"""What the doctor makes of the facts it finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from semanticd.entrypoints.doctor import room_on_disk

GIB = 1024**3


@pytest.mark.parametrize("reserve_gb", [0, 10, 50])
def test_a_full_disk_is_an_error_whatever_the_reserve(reserve_gb: int) -> None:
    for free_bytes in (0, GIB // 4):
        found = room_on_disk(Path("/caches"), free_bytes=free_bytes, reserve_bytes=reserve_gb * GIB)
        assert found.state == "error"
        assert "`semanticd cache prune SIZE`" in found.advice
        assert ("no block is written" in found.message) is (reserve_gb > 0)


@pytest.mark.parametrize(
    ("free_gb", "reserve_gb", "state"),
    [
        (1, 0, "warning"),
        (1, 10, "warning"),
        (9, 10, "warning"),
        (9, 0, "ok"),
        (40, 50, "warning"),
        (60, 50, "ok"),
    ],
)
def test_little_room_or_less_than_the_reserve_is_a_warning(free_gb: int, reserve_gb: int, state: str) -> None:
    found = room_on_disk(Path("/caches"), free_bytes=free_gb * GIB, reserve_bytes=reserve_gb * GIB)
    assert found.state == state
    assert ("no block is written" in found.message) is (free_gb < reserve_gb)
