"""Repeated warnings are one line a minute with a count."""

from __future__ import annotations

from semanticd.adapters.disk.files.rare_log import RareLog
from tests.fakes.telemetry import RecordingLog


def test_hundreds_of_warnings_are_one_line_a_minute_with_how_many_they_were() -> None:
    log, now = RecordingLog(), [0.0]
    rare = RareLog(log, monotonic=lambda: now[0])
    for _ in range(300):
        rare.warning("refused", number=2, reason="full")
    rare.warning("another")
    now[0] = 60.0
    rare.warning("refused", reason="full")
    lines = [(event, fields["count"]) for _, event, fields in log.lines]
    assert lines == [("refused", 2), ("another", 1), ("refused", 599)]
