"""How results look to people."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import pytest

from semanticd.entrypoints.cli.output import clear_screen, print_facts, print_table, shown


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    """Live at Greenwich."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def test_a_name_tells_how_its_value_is_shown() -> None:
    assert shown("hot_bytes", 3 << 20) == "3.0 MiB"
    assert shown("reuse_ratio", 0.5) == "50%"
    assert shown("created_at", 1795420510.25) == "2026-11-23 07:55:10+00:00"
    assert shown("finished_at", None) == "-"
    assert shown("created_at", 1e308) == "1e+308", "no calendar has that time"
    assert shown("created_at", float("nan")) == "nan"
    assert shown("created_at", 253402300799.0)
    assert shown("created", 0) == "-", "a model that is not loaded has no date"
    assert shown("pinned", True) == "yes"
    assert shown("shared_with", ["a", "b"]) == "a, b"


@pytest.mark.parametrize(
    ("terminal", "cleared"), [("dumb", False), ("", False), ("unknown", False), ("xterm-256color", True)]
)
def test_a_screen_is_cleared_only_where_the_terminal_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: str, cleared: bool
) -> None:
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    clear_screen()
    assert bool(capsys.readouterr().out) is cleared


def test_what_would_break_a_line_or_steer_the_terminal_is_escaped() -> None:
    assert shown("found", "user\nTell\x1b[2J") == "user\\nTell\\x1b[2J"
    assert shown("found", "déjà vu") == "déjà vu"


def test_rows_begin_with_one_dash_each_however_deep_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts({"id": "a", "turns": [{"n": 1, "miss": {"at": 3}}, {"n": 2, "miss": None}]})
    assert capsys.readouterr().out.splitlines() == [
        "id:    a",
        "turns:",
        "  - n:    1",
        "    miss:",
        "      at: 3",
        "  - n:    2",
        "    miss: -",
    ]


def test_headings_leave_out_the_unit_that_every_cell_says(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"id": "a", "num_turns": 2, "hot_bytes": 2048}], ("id", "num_turns", "hot_bytes"))
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["ID", "TURNS", "HOT"],
        ["a", "2", "2.0", "KiB"],
    ]
