"""The check for an NVIDIA GPU: what it would run is there, and ends in time. No GPU is here to run it on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "contrib/dev/checks/nvidia.sh"
LIMIT_S = 8 * 60
KILLED_AFTER_S = 5
STEPS = ["card", "setup", "device", "tests", "selftest", "ready", "agents"]


@pytest.fixture(scope="module")
def steps() -> dict[str, tuple[int, str]]:
    ran = subprocess.run(
        ["bash", SCRIPT, "--dry-run"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    lines = [line.split("\t") for line in ran.stdout.splitlines()]
    return {name: (int(limit_s), command) for name, limit_s, command in lines}


def test_all_steps_end_in_eight_minutes_whatever_happens(steps: dict[str, tuple[int, str]]) -> None:
    assert list(steps) == STEPS
    assert sum(limit_s + KILLED_AFTER_S for limit_s, _ in steps.values()) <= LIMIT_S


def test_the_files_that_its_steps_name_are_there(steps: dict[str, tuple[int, str]]) -> None:
    named = [path for _, command in steps.values() for path in re.findall(r"\btests/[\w/]+\.py", command)]
    assert len(named) == 3
    assert all((ROOT / path).is_file() for path in named)
    assert "cuda" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_without_a_gpu_it_says_so_and_changes_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report"
    ran = subprocess.run(
        ["/bin/bash", SCRIPT, str(report)],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "nvidia: nvidia-smi is missing: this needs an NVIDIA GPU and its driver\n"
    assert not report.exists()


def test_a_step_that_fails_is_told_with_its_status_and_ends_no_other(tmp_path: Path) -> None:
    """Every program is a stand-in that fails, but for the look at the card."""
    for name in ("make", "timeout", "nvidia-smi"):
        (tmp_path / name).write_text("#!/bin/sh\necho wrong\nexit 7\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    ran = subprocess.run(
        ["/bin/bash", SCRIPT, str(tmp_path / "report")],
        cwd=ROOT,
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "MODEL": "no-such-model",
            "SEMANTIC_MODELS_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    assert re.findall(r"nvidia: (\w+): exit status (\d+)", ran.stderr) == [(name, "7") for name in STEPS]
