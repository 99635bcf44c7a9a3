"""Twenty agents and trouble of all kinds on a daemon with a slow disk: two minutes of `tests/soak/ownership.py`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.ownership import Soak

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short name: the path of a control socket has a limit."""
    folder = Path(tempfile.mkdtemp(prefix="smo-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def test_no_request_fails_for_anothers_sake_and_nothing_is_held_at_rest(home: Path) -> None:
    soak = Soak(home, seed=1, disk_ms=10)
    try:
        await soak.run(120)
    finally:
        soak.daemon.kill()
    report = soak.report()
    assert report["failures"] == []
    assert report["done"]["swap"] > 0
    assert report["done"]["hang_up"] > 0
