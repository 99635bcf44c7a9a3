"""The audit of the pins says what was audited; pip-audit is a small program of ours here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "contrib" / "dev" / "checks" / "audit.py"
Ran = subprocess.CompletedProcess[str]
Audit = Callable[..., Ran]

CLEAN: dict[str, Any] = {"name": "falcon", "version": "4.4.0", "vulns": []}
UNKNOWN = {"name": "mlx", "skip_reason": "Dependency not found on PyPI and could not be audited: mlx (0.1)"}
FLAW = {"id": "PYSEC-2026-1", "fix_versions": ["2.0"]}
VULNERABLE = {"name": "jinja2", "version": "1.0", "vulns": [FLAW]}


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """Run the script with a pip-audit that reports this, says this last and ends with this status."""
    program = tmp_path / "pip-audit"

    def run(dependencies: list[dict[str, Any]] | None, *, says: str = "", status: int = 0) -> Ran:
        report = None if dependencies is None else json.dumps({"dependencies": dependencies, "fixes": []})
        lines = [
            f"#!{sys.executable}",
            "import pathlib, sys",
            f"report = {report!r}",
            "if report: pathlib.Path(sys.argv[sys.argv.index('--output') + 1]).write_text(report)",
            f"print({says!r}, file=sys.stderr)",
            f"sys.exit({status})",
        ]
        program.write_text("\n".join(lines), encoding="utf-8")
        program.chmod(0o700)
        return subprocess.run(
            [sys.executable, str(SCRIPT), str(program)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_what_was_audited_is_counted(audit: Audit) -> None:
    ran = audit([CLEAN, UNKNOWN], says="No known vulnerabilities found")
    assert ran.returncode == 0, ran.stderr
    assert "1 of 2 pins audited, no known vulnerability" in ran.stdout
    assert "no data about mlx" in ran.stdout


def test_an_index_without_data_is_not_taken_for_a_clean_bill(audit: Audit) -> None:
    ran = audit([UNKNOWN, UNKNOWN], says="No known vulnerabilities found")
    assert ran.returncode == 0, ran.stderr
    assert "none of 2 pins could be audited: the index has no data" in ran.stdout
    assert "no known vulnerab" not in ran.stdout.lower()


def test_a_vulnerability_fails_and_is_named(audit: Audit) -> None:
    ran = audit([CLEAN, VULNERABLE, UNKNOWN], says="Found 1 known vulnerability", status=1)
    assert ran.returncode == 1
    assert "jinja2 1.0: PYSEC-2026-1, mended in 2.0" in ran.stderr


def test_an_index_that_cannot_be_reached_fails_nothing_but_is_said(audit: Audit) -> None:
    ran = audit(None, says="pip_audit._service.ServiceError: Max retries exceeded", status=1)
    assert ran.returncode == 0, ran.stderr
    assert "could not be audited: the index cannot be reached" in ran.stdout


def test_any_other_failure_of_the_program_fails(audit: Audit) -> None:
    ran = audit(None, says="ERROR: invalid requirements input", status=1)
    assert ran.returncode == 1
    assert "invalid requirements input" in ran.stderr


def test_lint_audits_and_nothing_does_it_twice() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (lint,) = [line for line in makefile.splitlines() if line.startswith("lint:")]
    assert "audit" in lint.split("##")[0]
    for path in (ROOT / ".ci" / "run", ROOT / ".github" / "workflows" / "ci.yml"):
        assert "make audit" not in path.read_text(encoding="utf-8"), f"{path.name}: `make lint` audits"
