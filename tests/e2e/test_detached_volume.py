"""The cache's volume is detached under a serving daemon: every door tells that one state, and what to do about it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from semantic_tui.alarms import alarms
from semantic_tui.state import WatchState
from semanticd.control.results import StatusResult, read
from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.full_volume import attach, detach, small_volume
from tests.fakes.tiny_folder import write_tiny_model

pytestmark = pytest.mark.timeout(600)
PATIENCE_S = 120.0
REMEDY = "attach the volume again, or run `semanticd restart`"


def command(daemon: DaemonProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the program beside its daemon."""
    program = [sys.executable, "-m", "semanticd", *arguments]
    return subprocess.run(program, env=daemon.env, capture_output=True, text=True, timeout=300, check=False)


def status_once(daemon: DaemonProcess, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the status as soon as something holds of its cache."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        status: dict[str, Any] = json.loads(command(daemon, "status", "--json").stdout)
        if holds(status["cache"]):
            return status
        assert time.monotonic() < deadline, status["cache"]


def turn(daemon: DaemonProcess, agent: str) -> dict[str, Any]:
    body = {
        "model": "default",
        "max_tokens": 3,
        "messages": [{"role": "user", "content": f"I am {agent}. " + "word " * 300}],
    }
    headers = {"X-Session-ID": agent}
    answer = httpx.post(f"{daemon.url}/v1/chat/completions", json=body, headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_status_doctor_and_clearing_tell_that_the_volume_is_gone_until_it_is_back(tmp_path: Path) -> None:
    place, other = tmp_path / "place", tmp_path / "other"
    place.mkdir()
    model = write_tiny_model(tmp_path / "models" / "tiny")
    daemon = DaemonProcess(
        tmp_path,
        models_dir=tmp_path / "models",
        SEMANTIC_AGENT_CACHE_DIR=str(place / "caches"),
        SEMANTIC_MLX_MODEL_ID=str(model),
    )
    with (
        small_volume(tmp_path / "drive", num_bytes=200_000_000) as drive,
        small_volume(other, num_bytes=16_000_000),
    ):
        attach(drive, place)
        try:
            daemon.start()
            turn(daemon, "before")
            daemon.wait_until_written()
            assert "folder_problem" not in status_once(daemon, lambda cache: True)["cache"]
            detach(place)
            attach(other, place)

            cache = status_once(daemon, lambda cache: "folder_problem" in cache)["cache"]
            assert REMEDY in cache["folder_problem"]
            assert cache["free_disk_bytes"] is None
            turn(daemon, "meanwhile")
            status = status_once(daemon, lambda cache: cache["num_unsaved_agents"] > 0)
            text = command(daemon, "status").stdout
            assert f"folder   the cache folder {place / 'caches'} is gone, with its volume; {REMEDY}" in text
            assert "in memory only: the cache folder is gone" in text
            assert "free on the volume" not in text
            assert "is it full" not in text
            state = WatchState(connection="connected", status=read(StatusResult, status))
            assert [alarm.short for alarm in alarms(state)] == ["cache folder gone"]

            report = json.loads(command(daemon, "doctor", "--json").stdout)
            findings = {one["check"]: one for one in report["findings"]}
            assert (findings["caches"]["state"], findings["caches"]["message"]) == (
                "error",
                cache["folder_problem"],
            )
            assert "disk" not in findings, "it would be another volume's"
            for arguments in (("clear", "-y"), ("prune", "0")):
                done = command(daemon, "cache", *arguments)
                assert done.returncode == 1, arguments
                assert REMEDY in done.stderr, arguments
                assert "see its log" not in done.stderr, arguments
            assert list(place.iterdir()) == [], "nothing is written to what lies there instead"

            detach(place)
            attach(drive, place)
            cache = status_once(daemon, lambda cache: "folder_problem" not in cache)["cache"]
            turn(daemon, "after")
            cache = status_once(
                daemon, lambda cache: not cache["num_unsaved_agents"] and cache["free_disk_bytes"]
            )["cache"]
            assert command(daemon, "cache", "clear", "-y").returncode == 0
        finally:
            daemon.kill()
            with suppress(subprocess.CalledProcessError):
                detach(place)
