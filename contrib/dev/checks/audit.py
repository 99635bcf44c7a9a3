"""Asks the package index about known vulnerabilities of the pinned versions, and says how many it knew anything of.

Usage: `python contrib/dev/checks/audit.py [PIP_AUDIT]`; `make audit` and `make lint` install pip-audit and call it.

pip-audit itself prints "No known vulnerabilities found" also where its index has no data about any pin (a mirror). Here
that is said; it does not fail the check, because there is no fix. A known vulnerability ends the run with status 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / ".cache" / "audit" / "bin" / "pip-audit"
NOT_REACHED = (
    "ConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "Max retries",
    "ServiceError",
    "Failed to resolve",
)
"""What pip-audit's last lines say where the index does not answer."""


def main() -> int:
    """Audit the pins; returns the exit status."""
    parser = argparse.ArgumentParser(description="Look for known vulnerabilities in the pinned dependencies.")
    parser.add_argument("program", nargs="?", type=Path, default=PROGRAM, help="The pip-audit program.")
    program = parser.parse_args().program
    try:
        dependencies = ask(program)
    except OSError as error:
        print(f"audit: the pins could not be audited: {program} does not start ({error.strerror})")
        return 0
    except RuntimeError as error:
        print(f"audit: pip-audit failed: {error}", file=sys.stderr)
        return 1
    if dependencies is None:
        print("audit: the pins could not be audited: the index cannot be reached")
        return 0
    text, is_clean = verdict(dependencies)
    print(f"audit: {text}", file=sys.stdout if is_clean else sys.stderr)
    return 0 if is_clean else 1


def ask(program: Path) -> list[dict[str, Any]] | None:
    """Return pip-audit's answer about each pin, None where no index answers.

    Raises:
        RuntimeError: pip-audit failed.
    """
    with tempfile.TemporaryDirectory(prefix="semanticd-audit-") as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [
                str(program),
                *("--requirement", str(ROOT / "constraints.txt")),
                *("--no-deps", "--disable-pip", "--progress-spinner", "off"),
                *("--format", "json", "--output", str(report)),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        # Status 1 also means that vulnerabilities were found.
        if report.is_file() and report.stat().st_size:
            found = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
            return [dict(one) for one in found]
    tail = (done.stdout + done.stderr).splitlines()[-5:]
    if any(sign in line for line in tail for sign in NOT_REACHED):
        return None
    raise RuntimeError(f"status {done.returncode}\n" + "\n".join(tail))


def verdict(dependencies: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """Return what is known of the pins in words, and whether none of it is a vulnerability."""
    audited = [one for one in dependencies if "skip_reason" not in one]
    unknown = [str(one["name"]) for one in dependencies if "skip_reason" in one]
    vulnerable = [one for one in audited if one.get("vulns")]
    if vulnerable:
        lines = [
            f"  {one['name']} {one['version']}: {flaw['id']}, "
            f"mended in {', '.join(flaw['fix_versions']) or 'no version yet'}"
            for one in vulnerable
            for flaw in one["vulns"]
        ]
        return "\n".join([f"{len(vulnerable)} pins have known vulnerabilities", *lines]), False
    if not audited:
        return f"none of {len(unknown)} pins could be audited: the index has no data", True
    text = f"{len(audited)} of {len(dependencies)} pins audited, no known vulnerability"
    if unknown:
        text += f"; the index has no data about {', '.join(unknown)}"
    return text, True


if __name__ == "__main__":
    sys.exit(main())
