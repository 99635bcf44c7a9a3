"""A defect at the start: one line for people, the traceback for the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semanticd.entrypoints import daemon


def settings_in(folder: Path) -> dict[str, object]:
    return {
        "paths.runtime_dir": str(folder / "run"),
        "paths.log_dir": str(folder / "logs"),
        "paths.models_dir": str(folder / "models"),
        "agent.cache_dir": str(folder / "caches"),
        "server.port": 0,
        "server.log_console": False,
    }


def test_an_unexpected_error_at_the_start_is_one_line_and_its_traceback_is_in_the_log(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**options: object) -> None:
        raise ZeroDivisionError("nobody expected this")

    monkeypatch.setattr(daemon, "ControlServer", broken)
    logs = short_tmp_path / "logs"
    status = daemon.main(settings_in(short_tmp_path))
    assert status == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError: nobody expected this" in told
    assert str(logs / "semanticd.log") in told
    lines = [json.loads(line) for line in (logs / "semanticd.log").read_text().splitlines()]
    (failure,) = [line for line in lines if line["event"] == "daemon_failed"]
    assert "in broken" in failure["traceback"]
    assert not (short_tmp_path / "run" / "semanticd.pid").exists()


@pytest.mark.parametrize(
    ("setting", "variable"),
    [
        ("paths.log_dir", "SEMANTIC_LOG_DIR"),
        ("agent.cache_dir", "SEMANTIC_AGENT_CACHE_DIR"),
        ("trace.dir", "SEMANTIC_TRACE_DIR"),
        ("paths.runtime_dir", "SEMANTIC_RUNTIME_DIR"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named_with_its_variable_and_is_no_defect(
    short_tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, variable: str
) -> None:
    loop = short_tmp_path / "loop"
    loop.symlink_to(loop)
    assert daemon.main({**settings_in(short_tmp_path), setting: str(loop)}) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert str(loop) in told
    assert variable in told
    assert "report" not in told


def test_a_runtime_folder_with_too_long_a_path_is_no_defect(
    short_tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = short_tmp_path / ("r" * 170)
    status = daemon.main({**settings_in(short_tmp_path), "paths.runtime_dir": str(runtime)})
    assert status == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert "Unix sockets allow 103" in told
    assert "set SEMANTIC_RUNTIME_DIR to a shorter folder" in told
    assert "report" not in told
    assert not runtime.exists()
