"""Checks of the machine, each with a fault that makes its line red; those of macOS through their seams."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from semanticd.adapters.config import PathSettings, Settings
from semanticd.adapters.machine_record import MachineRecord
from semanticd.domain.memory_plan import device_memory
from semanticd.entrypoints.doctor import Finding
from semanticd.entrypoints.selftest.machine_checks import (
    Reports,
    check_backups,
    check_device,
    check_disk_sync,
    check_panics,
    check_peer,
    check_socket_path,
    judge_disk_sync,
)
from semanticd.entrypoints.selftest.outcome import of_error, of_finding
from tests.fakes.disk import FaultyFileSystem

GIB = 1 << 30


def settings_in(home: Path) -> Settings:
    defaults = Settings()
    paths = PathSettings(models_dir=home / "models", runtime_dir=home / "run", log_dir=home / "logs")
    return replace(defaults, paths=paths, agent=replace(defaults.agent, cache_dir=home / "caches"))


@pytest.mark.parametrize(("state", "verdict"), [("ok", "ok"), ("warning", "warn"), ("error", "fail")])
def test_what_the_doctor_finds_is_a_line_of_the_self_test(state: str, verdict: str) -> None:
    found = of_finding(Finding("disk", state, "1 GiB free", "make room", {"free_bytes": 1}))  # type: ignore[arg-type]
    assert found.verdict == verdict
    assert ("make room" in found.message) is (state != "ok")
    assert found.figures == {"free_bytes": 1}


def test_a_device_that_lends_less_than_the_reserve_is_red() -> None:
    assert check_device(Settings(), read=lambda _: device_memory("metal", 16 * GIB)).verdict == "ok"
    assert check_device(Settings(), read=lambda _: device_memory("metal", GIB)).verdict == "fail"


def test_a_disk_whose_flushes_are_slow_or_fail_is_not_green(tmp_path: Path) -> None:
    assert check_disk_sync(tmp_path / "caches").verdict in ("ok", "warn")
    assert list(tmp_path.iterdir()) == []
    assert judge_disk_sync([1.0, 2.0, 900.0]).verdict == "ok"
    assert judge_disk_sync([150.0, 160.0, 170.0]).verdict == "warn"
    files = FaultyFileSystem()
    files.fail["sync"] = errno.EIO
    with pytest.raises(OSError, match="Input/output error") as raised:
        check_disk_sync(tmp_path / "caches", files=files)
    assert of_error(raised.value).verdict == "fail"


def test_a_socket_path_that_macos_refuses_is_red(short_tmp_path: Path, tmp_path: Path) -> None:
    assert check_socket_path(settings_in(short_tmp_path)).verdict == "ok"
    found = check_socket_path(settings_in(tmp_path / ("long" * 30)))
    assert found.verdict == "fail"
    assert "SEMANTIC_RUNTIME_DIR" in found.message


def test_a_peer_that_is_called_somebody_else_is_red() -> None:
    assert check_peer().verdict == "ok"
    assert check_peer(uid_of=lambda _: os.getuid() + 1).verdict == "fail"


def tmutil(excluded: Callable[[str], bool]) -> Callable[[Sequence[str]], tuple[int, str]]:
    def run(command: Sequence[str]) -> tuple[int, str]:
        word, folder = command[1], command[2]
        if word == "addexclusion":
            return 0, ""
        return 0, f"[{'Excluded' if excluded(folder) else 'Included'}]    {folder}"

    return run


def test_backups_are_asked_of_macos_only(tmp_path: Path) -> None:
    assert check_backups(settings_in(tmp_path), platform="linux").verdict == "skipped"
    assert check_backups(settings_in(tmp_path), run=tmutil(lambda _: True), platform="darwin").verdict == "ok"


def test_an_exclusion_that_is_not_kept_is_red(tmp_path: Path) -> None:
    found = check_backups(settings_in(tmp_path), run=tmutil(lambda _: False), platform="darwin")
    assert found.verdict == "fail"


def test_caches_that_are_backed_up_are_named(tmp_path: Path) -> None:
    (tmp_path / "caches").mkdir()
    run = tmutil(lambda folder: not folder.endswith("/caches"))
    found = check_backups(settings_in(tmp_path), run=run, platform="darwin")
    assert found.verdict == "warn"
    assert str(tmp_path / "caches") in found.message


def test_a_tmutil_that_fails_is_red(tmp_path: Path) -> None:
    found = check_backups(settings_in(tmp_path), run=lambda _: (80, "not permitted"), platform="darwin")
    assert found.verdict == "fail"
    assert "not permitted" in found.message


def test_a_panic_since_the_last_run_is_told_and_is_red_if_that_run_did_not_end(tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    reports = Reports(folder, now=lambda: 1e9)
    path = tmp_path / "machine.json"
    assert check_panics(MachineRecord(path), reports=reports, platform="darwin").verdict == "ok"

    record = MachineRecord(path, now=lambda: 1e9 - 100)
    record.begin_run()
    record.checking("batches")
    report = folder / "panic-full-2026-01-01-120000.0002.panic"
    report.write_text("panic")
    os.utime(report, (1e9 - 50, 1e9 - 50))
    (folder / "Python-2026.ips").write_text("a program's crash")
    found = check_panics(MachineRecord(path), reports=reports, platform="darwin")
    assert found.verdict == "fail"
    assert "it was in batches" in found.message
    assert found.figures == {"reports": [report.name]}

    record.checking(None)
    assert check_panics(MachineRecord(path), reports=reports, platform="darwin").verdict == "warn"
    os.utime(report, (1e9 - 200, 1e9 - 200))
    assert check_panics(MachineRecord(path), reports=reports, platform="darwin").verdict == "ok"


def test_a_run_that_was_cut_off_is_told_on_every_system(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    assert check_panics(MachineRecord(path), platform="linux").verdict == "skipped"
    record = MachineRecord(path)
    record.begin_run()
    record.checking("prefill")
    assert check_panics(MachineRecord(path), platform="linux").verdict == "warn"


def test_reports_that_may_not_be_read_are_no_fault_of_the_machine(tmp_path: Path) -> None:
    found = check_panics(
        MachineRecord(tmp_path / "machine.json"), reports=Reports(tmp_path / "none"), platform="darwin"
    )
    assert found.verdict == "skipped"


def test_an_error_of_the_code_says_where() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        _ = 1 / 0
    found = of_error(raised.value)
    assert found.verdict == "fail"
    assert found.figures["where"].startswith("test_machine_checks.py:")
