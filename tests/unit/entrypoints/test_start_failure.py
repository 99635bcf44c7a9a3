"""A defect at the start: one line for people, the traceback for the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semanticd.entrypoints import daemon


def test_an_unexpected_error_at_the_start_is_one_line_and_its_traceback_is_in_the_log(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**options: object) -> None:
        raise ZeroDivisionError("nobody expected this")

    monkeypatch.setattr(daemon, "ControlServer", broken)
    logs = short_tmp_path / "logs"
    status = daemon.main(
        {
            "paths.runtime_dir": str(short_tmp_path / "run"),
            "paths.log_dir": str(logs),
            "paths.models_dir": str(short_tmp_path / "models"),
            "agent.cache_dir": str(short_tmp_path / "caches"),
            "server.port": 0,
            "server.log_console": False,
        }
    )
    assert status == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError: nobody expected this" in told
    assert str(logs / "semanticd.log") in told
    lines = [json.loads(line) for line in (logs / "semanticd.log").read_text().splitlines()]
    (failure,) = [line for line in lines if line["event"] == "daemon_failed"]
    assert "in broken" in failure["traceback"]
    assert not (short_tmp_path / "run" / "semanticd.pid").exists()
