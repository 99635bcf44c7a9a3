"""Tests of what the daemon runs on its event loop."""

from __future__ import annotations

from typing import Any

import pytest

from semanticd.adapters.event_loop import new_event_loop


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run every `async def test_…` on the daemon's event loop; unit tests have asyncio's."""
    return "asyncio", {"loop_factory": new_event_loop}
