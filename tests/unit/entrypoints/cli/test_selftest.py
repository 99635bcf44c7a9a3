"""The command's side of the self-test: a report comes out whatever becomes of the process."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from semanticd.entrypoints.cli.selftest import run_checks

BEGIN = {"kind": "began", "semanticd": "1", "quick": True}
FINE = {"kind": "found", "name": "disk", "verdict": "ok", "message": "fine", "figures": {}, "took_s": 0.1}
RED = {**FINE, "name": "decode", "verdict": "fail"}
END = {"kind": "ended", "log": []}


def program(*events: Any, then: str = "") -> list[str]:
    lines = "\n".join(event if isinstance(event, str) else json.dumps(event) for event in events)
    return [sys.executable, "-c", f"print({lines!r}, flush=True)\n{then}"]


def test_a_report_of_green_lines_is_ok_and_holds_what_was_told(capsys: pytest.CaptureFixture[str]) -> None:
    report = run_checks(program(BEGIN, {"kind": "check", "name": "disk"}, FINE, END), as_json=False)
    assert report["ok"] is True
    assert (report["semanticd"], report["quick"]) == ("1", True)
    assert [check["name"] for check in report["checks"]] == ["disk"]
    assert "kind" not in report["checks"][0]
    assert capsys.readouterr().out == "ok      disk       fine\n"


def test_lines_go_to_stderr_where_stdout_is_for_json(capsys: pytest.CaptureFixture[str]) -> None:
    run_checks(program(FINE, END), as_json=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "disk" in captured.err


def test_a_red_line_is_not_ok_and_what_is_no_event_is_passed_over() -> None:
    report = run_checks(program("a library's words", "[1]", FINE, RED, END), as_json=True)
    assert report["ok"] is False


def test_a_process_that_crashes_is_a_red_line_with_its_check_and_last_words() -> None:
    crash = "import os, sys; print('[METAL] failed', file=sys.stderr, flush=True); os.abort()"
    report = run_checks(program(BEGIN, FINE, {"kind": "check", "name": "batches"}, then=crash), as_json=True)
    assert report["ok"] is False
    last = report["checks"][-1]
    assert (last["name"], last["verdict"]) == ("process", "fail")
    assert "status -6 in check batches" in last["message"]
    assert "[METAL] failed" in last["figures"]["last_lines"]


def test_a_process_that_ends_too_early_is_not_ok() -> None:
    assert run_checks(program(FINE), as_json=True)["ok"] is False


def test_a_process_that_is_stuck_is_ended() -> None:
    stuck = program({"kind": "check", "name": "prefill"}, then="import time; time.sleep(600)")
    # Its start is silent too.
    report = run_checks(stuck, as_json=True, silence_s=6.0)
    assert report["ok"] is False
    assert "check prefill produced no output" in report["checks"][-1]["message"]
