"""`semanticd doctor`: examine the installation. In the daemon when there is one, else in a process of its own."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from semanticd.control.errors import CommandFailedError, DaemonNotRunningError
from semanticd.control.python_command import python_module
from semanticd.control.results import DoctorResult, Finding, read
from semanticd.entrypoints.cli import EXIT_FAILED
from semanticd.entrypoints.cli.daemon_link import ask
from semanticd.entrypoints.cli.options import json_option
from semanticd.entrypoints.cli.output import narrate, print_json, print_text

_PATIENCE_S = 300.0
_MARKS = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


@click.command()
@json_option
@click.option("--local", is_flag=True, help="Check from this process, even if a daemon is running.")
@click.option("--generate/--no-generate", default=True, help="Also generate ten tokens.")
def doctor(*, as_json: bool, local: bool, generate: bool) -> None:
    """Check the installation and suggest fixes.

    Checks platform, Python, MLX, memory, disk, socket, port, models and the model hub, and other machines that share
    caches or compute a model with this one.
    """
    report = (
        _here(generate=generate) if local else _from_daemon(generate=generate) or _in_child(generate=generate)
    )
    found = read(DoctorResult, report)
    if as_json:
        print_json(report)
    else:
        _print(found)
    if not found.ok:
        sys.exit(EXIT_FAILED)


def _here(*, generate: bool) -> Mapping[str, Any]:
    # Loads MLX, therefore by name; the report goes to stdout whatever libraries print.
    report = importlib.import_module("semanticd.entrypoints.doctor").examine_here(generate=generate)
    published: Mapping[str, Any] = importlib.import_module("semanticd.application.services.plain").plain(
        report
    )
    return published


def _from_daemon(*, generate: bool) -> Mapping[str, Any] | None:
    try:
        return ask("doctor", reply_within_s=_PATIENCE_S, generate=generate)
    except DaemonNotRunningError:
        narrate(
            "no daemon is running; checking the installation from this process"
            + (", with a model loaded for it: this takes some seconds" if generate else "")
        )
    except CommandFailedError as error:
        if error.code != "not_available":
            raise
    return None


def _in_child(*, generate: bool) -> Mapping[str, Any]:
    command = [*python_module("semanticd"), "doctor", "--local", "--json"]
    command += [] if generate else ["--no-generate"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=_PATIENCE_S, check=False)
    try:
        report: Mapping[str, Any] = json.loads(ran.stdout)
    except ValueError:
        finding = Finding(
            check="process",
            state="error",
            message=f"the check ended with status {ran.returncode} and no report",
            advice="run `semanticd doctor --local` and read what it prints",
        )
        return asdict(DoctorResult(ok=False, findings=(finding,)))
    return report


def _print(report: DoctorResult) -> None:
    for one in report.findings:
        print_text(f"{_MARKS.get(one.state, one.state)}  {one.check:<12} {one.message}")
        if one.advice and one.state != "ok":
            print_text(f"{'':<22}-> {one.advice}")
