"""`semanticd selftest`: tests this machine in a separate process and writes a report to share."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from semanticd.control.errors import DaemonNotRunningError
from semanticd.control.python_command import python_module
from semanticd.entrypoints.cli import EXIT_FAILED
from semanticd.entrypoints.cli.daemon_link import ask
from semanticd.entrypoints.cli.models import name_or_path
from semanticd.entrypoints.cli.options import json_option
from semanticd.entrypoints.cli.output import narrate, print_json, print_verdict
from semanticd.entrypoints.cli.progress import Progress

SILENCE_S = 300.0
"""Seconds without output after which the process counts as stuck."""
_LAST_LINES = 20
_STOP_S = 10.0
_REPORT = "selftest.json"


@click.command()
@json_option
@click.option("--quick", is_flag=True, help="Measure fewer chunk sizes and skip the one-minute pause.")
@click.option(
    "--model",
    "-m",
    callback=lambda context, param, value: value if value is None else name_or_path(value),
    help="Model to test with: alias, hf:org/name, folder or file; default: the one that the daemon starts with.",
)
def selftest(*, as_json: bool, quick: bool, model: str | None) -> None:
    """Test this machine for two minutes and write a report to share.

    Tests device, memory, speed, blocks on disk and a restart. The model is loaded in a separate process with a
    temporary cache folder; it is downloaded if it is not installed. No other daemon may be running. Exit status 1: a
    check failed.
    """
    _refuse_beside_a_daemon()
    command = python_module("semanticd.entrypoints.selftest")
    command += ["--quick"] if quick else []
    command += ["--model", model] if model else []
    report = run_checks(command, as_json=as_json)
    path = _keep(report)
    if as_json:
        print_json(report)
    elif path is not None:
        narrate(f"the report as JSON, to post: {path}")
    if not report["ok"]:
        sys.exit(EXIT_FAILED)


def _refuse_beside_a_daemon() -> None:
    with contextlib.suppress(DaemonNotRunningError):
        ask("status")
        raise click.ClickException(
            "a daemon is running: two models would share the memory, and the figures would be wrong; "
            "`semanticd stop` first"
        )


@dataclass(slots=True)
class Report:
    """Output of the process so far."""

    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    running: str = "process"
    """The check that runs now."""
    ended: bool = False

    def take(self, event: Mapping[str, Any]) -> None:
        """Take an event; see `entrypoints.selftest.run`."""
        rest = {name: value for name, value in event.items() if name != "kind"}
        kind = event.get("kind")
        if kind == "began":
            self.facts = rest
        elif kind == "check":
            self.running = str(event["name"])
        elif kind == "found":
            self.checks.append(rest)
        elif kind == "ended":
            self.facts["log"] = rest.get("log", [])
            self.ended = True

    def fail(self, message: str, **figures: Any) -> dict[str, Any]:
        """Add that the process itself failed, and return that entry."""
        entry = {"name": "process", "verdict": "fail", "message": message, "figures": figures, "took_s": 0.0}
        self.checks.append(entry)
        return entry

    def whole(self, *, took_s: float) -> dict[str, Any]:
        """Return the report as it is posted."""
        is_ok = self.ended and all(check["verdict"] != "fail" for check in self.checks)
        return {**self.facts, "ok": is_ok, "took_s": round(took_s, 1), "checks": self.checks}


def run_checks(command: Sequence[str], *, as_json: bool, silence_s: float = SILENCE_S) -> dict[str, Any]:
    """Run the checks' process, show each line as it comes, and return the report, however the process ends."""
    started = time.monotonic()
    report, progress = Report(), Progress()
    last_lines: deque[str] = deque(maxlen=_LAST_LINES)
    with _process(command, last_lines) as (process, events):
        while not report.ended:
            try:
                event = events.get(timeout=silence_s)
            except queue.Empty:
                said = f"check {report.running} produced no output for {silence_s:.0f} s, and was ended"
                _show(report.fail(said), progress, as_json)
                break
            if event is None:
                status = process.wait()
                said = f"the process ended with status {status} in check {report.running}"
                _show(report.fail(said, last_lines=list(last_lines)), progress, as_json)
                break
            report.take(event)
            if event.get("kind") == "found":
                _show(event, progress, as_json)
            elif event.get("kind") == "check":
                progress.running(f"{report.running} ...")
            elif event.get("kind") == "progress":
                progress.show(str(event["stage"]), float(event["share"]))
        if report.ended:
            # It has said all; what remains is to leave.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
    progress.end()
    return report.whole(took_s=time.monotonic() - started)


def _show(found: Mapping[str, Any], progress: Progress, as_json: bool) -> None:
    progress.end()
    print_verdict(str(found["verdict"]), f"{found['name']!s:<10} {found['message']}", to_stderr=as_json)


@contextlib.contextmanager
def _process(
    command: Sequence[str], last_lines: deque[str]
) -> Iterator[tuple[subprocess.Popen[str], queue.Queue[dict[str, Any] | None]]]:
    """Run a process; its events come through the queue, None once there are no more."""
    events: queue.Queue[dict[str, Any] | None] = queue.Queue()
    process = subprocess.Popen(
        list(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )

    def read_events() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                events.put(event if isinstance(event, dict) else {})
        noise.join()  # the last words of a process that crashed
        events.put(None)

    def read_noise() -> None:
        assert process.stderr is not None
        last_lines.extend(line.rstrip("\n") for line in process.stderr)

    noise = threading.Thread(target=read_noise, daemon=True)
    reader = threading.Thread(target=read_events, daemon=True)
    noise.start()
    reader.start()
    with process:  # closes its pipes in the end
        try:
            yield process, events
        finally:
            _end(process)
            reader.join()


def _end(process: subprocess.Popen[str]) -> None:
    """End a process that still runs: first so that it can remove its folders."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _keep(report: Mapping[str, Any]) -> Path | None:
    """Keep the report in the user's data folder, so that it need not be made again to be posted."""
    from semanticd.adapters.machine_record import default_record_path

    path = default_record_path().with_name(_REPORT)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(prefix=f"{_REPORT}.", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2, ensure_ascii=False)
            file.write("\n")
        Path(name).replace(path)
        return path
    return None
