"""An ending that hangs in a write comes to an end all the same."""

from __future__ import annotations

import asyncio

import pytest

from semanticd.entrypoints.daemon import end_within
from tests.fakes.telemetry import RecordingLog


async def test_a_write_that_hangs_does_not_keep_the_daemon_from_ending(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log, left, hangs = RecordingLog(), list[int](), asyncio.Event()

    def leave(status: int) -> None:
        left.append(status)
        hangs.set()

    end_within(0.01, log=log, leave=leave)
    await asyncio.wait_for(hangs.wait(), 60)
    assert left == [1]
    assert log.events("error") == ["ending_gave_up"]
    assert "computed again" in capsys.readouterr().err
