"""`semanticd logs`: the daemon's log file, also while it rotates."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, TextIO

import click

from semanticd.control.terminal_text import one_line
from semanticd.domain.errors import DaemonError
from semanticd.entrypoints.cli.daemon_link import settings_or_defaults
from semanticd.entrypoints.cli.output import narrate, print_json_text, print_text

_POLL_S = 0.2
_KNOWN = ("timestamp", "level", "event", "logger")


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Print new lines until interrupted.")
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Number of lines to show.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the log's JSON lines unchanged.")
@click.option("--path", is_flag=True, help="Print only the file's path.")
def logs(*, follow: bool, lines: int, as_json: bool, path: bool) -> None:
    """Show the end of the daemon's log."""
    file = settings_or_defaults().paths.log_dir / "semanticd.log"
    if path:
        print_text(str(file))
        return
    if not file.exists() and not follow:
        raise DaemonError(f"there is no log at {file}; the daemon writes it when it starts")
    stream = _open(file)
    if stream is None:
        narrate(f"there is no log at {file}; waiting for a daemon to write it")
    for line in deque(stream, maxlen=min(lines, sys.maxsize)) if stream else ():
        _print(line, as_json)
    while follow:
        stream = _follow(file, stream, as_json)
        time.sleep(_POLL_S)


def _open(file: Path) -> TextIO | None:
    try:
        return file.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _follow(file: Path, stream: TextIO | None, as_json: bool) -> TextIO | None:
    """Print new lines; returns the stream to continue with, a new one after a rotation."""
    if stream is None:
        stream = _open(file)
        if stream is None:
            return None
    rotated = not _same(file, stream)
    for line in stream:
        _print(line, as_json)
    if not rotated:
        return stream
    stream.close()
    return _open(file)


def _same(file: Path, stream: TextIO) -> bool:
    import os

    try:
        return file.stat().st_ino == os.fstat(stream.fileno()).st_ino
    except FileNotFoundError:
        return True


def _print(line: str, as_json: bool) -> None:
    if as_json:
        print_json_text(line.rstrip("\r\n"))
    else:
        print_text(pretty(line), at_once=True)


def pretty(line: str) -> str:
    """Return a JSON line as people read it, each field in the line; any other line as it is."""
    try:
        fields: dict[str, Any] = json.loads(line)
        head = f"{str(fields['timestamp'])[:23]:<23} {fields['level']:<7} {one_line(fields['event'])}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return line.rstrip("\n")
    rest = " ".join(
        f"{name}={one_line(value)}"
        for name, value in fields.items()
        if name not in _KNOWN and name != "exception"
    )
    trace = f"\n{fields['exception']}" if fields.get("exception") else ""
    return f"{head}{' ' if rest else ''}{rest}{trace}"
