"""A dashboard and a fake daemon in one event loop."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

WITHIN_S = 60.0


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A socket path that is short on every platform."""
    with tempfile.TemporaryDirectory(prefix="tui", dir="/tmp") as folder:
        yield Path(folder) / "s"


@pytest.fixture
def until() -> Callable[[Pilot[Any], Callable[[], object]], Any]:
    """Wait until something is so; fails after a deadline."""

    async def wait(pilot: Pilot[Any], condition: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WITHIN_S
        while not condition():
            assert loop.time() < deadline, "the condition never came true"
            await pilot.pause(0.02)

    return wait
