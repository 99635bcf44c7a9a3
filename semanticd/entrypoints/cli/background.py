"""Starting the daemon in the background: spawn, watch it come up, say where it is or why it ended."""

from __future__ import annotations

import socket as socket_module
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from semanticd.adapters.config import Settings, effective, load_settings
from semanticd.adapters.config.resolve import is_loopback
from semanticd.adapters.process import spawn_detached
from semanticd.control.address import socket_path_in
from semanticd.control.client import ControlClient, ControlError
from semanticd.control.python_command import python_module
from semanticd.control.results import ConfigResult, StatusResult, read
from semanticd.domain.errors import NO_MODEL_LOADED
from semanticd.entrypoints.cli import EXIT_FAILED, EXIT_USAGE
from semanticd.entrypoints.cli.logs import pretty
from semanticd.entrypoints.cli.options import as_arguments
from semanticd.entrypoints.cli.output import narrate, print_text
from semanticd.entrypoints.cli.progress import Progress
from semanticd.entrypoints.cli.running import find_daemon
from semanticd.entrypoints.cli.status import keeps_nothing

OUTPUT_FILE = "semanticd.out"
"""Output of the process alongside its log: tracebacks and messages of native libraries."""

_POLL_S = 0.05
_QUIET_FLAGS = {"server.log_console": False}
_IS_UP = ("ready", "no_model")
_TAKES_COMMANDS = (*_IS_UP, "draining")
_NUM_LAST_LINES = 15
_TAIL_BYTES = 64 * 1024


def start_in_background(flags: dict[str, Any], *, timeout_s: float | None) -> int:
    """Start the daemon, or find it running; returns the exit status."""
    flags = {**_QUIET_FLAGS, **flags}
    loaded = load_settings(flags=flags)
    for line in loaded.explained():
        narrate(line)
    settings = loaded.settings
    socket = socket_path_in(settings.paths.runtime_dir)
    wanted = {one.name: one.value for one in effective(loaded)}
    if (daemon := find_daemon(socket)) is not None:
        there = _wait(socket, daemon.is_alive, states=_TAKES_COMMANDS)
        if there is not None:
            return _already_running(there, socket, wanted, loaded.origins)
        narrate(f"the stopping daemon (pid {daemon.pid}) has ended; starting a new one")

    output = settings.paths.log_dir / OUTPUT_FILE
    log = LogEnd(settings.paths.log_dir / "semanticd.log")
    command = [*python_module("semanticd"), "serve", *as_arguments(flags)]
    process = spawn_detached(command, output=output)
    ready = _wait(socket, lambda: process.poll() is None, states=_IS_UP, timeout_s=timeout_s)
    if ready is None and process.poll() is not None and (winner := find_daemon(socket)) is not None:
        # Two starts at once: the other one won, and is what the user wanted.
        ready = _wait(socket, winner.is_alive, states=_TAKES_COMMANDS)
    if ready is not None and ready.pid != process.pid:
        return _already_running(ready, socket, wanted, loaded.origins)
    if ready is not None:
        _announce(ready, settings, socket)
        return 0
    if process.poll() is None:
        narrate(
            f"still starting after {timeout_s:g} s (pid {process.pid}); `semanticd status` shows its progress"
        )
        return EXIT_FAILED
    return _died(process, log, output)


def _already_running(
    there: StatusResult, socket: Path, wanted: Mapping[str, Any], asked_for: Collection[str]
) -> int:
    """Report the running daemon; a failure only if it runs with settings other than the requested ones."""
    print_text(f"already running (pid {there.pid}) at {there.address}")
    with ControlClient.connect(socket, name="semanticd-cli") as client:
        shown = {one.name: one for one in read(ConfigResult, client.call("config.show")).settings}
    different = [
        f"  {name}: {shown[name].value!r} there ({shown[name].origin}), {value!r} here"
        for name, value in wanted.items()
        if name in shown
        and shown[name].value != value
        and name not in _QUIET_FLAGS
        # A setting of its own command line that is not set differently here is not a difference.
        and not (shown[name].origin.startswith("flag ") and name not in asked_for)
    ]
    if not different:
        return 0
    narrate("but with other settings; run `semanticd restart` to apply these:\n" + "\n".join(different))
    return EXIT_FAILED


def _wait(
    socket: Path, alive: Callable[[], bool], *, states: Collection[str], timeout_s: float | None = None
) -> StatusResult | None:
    """Show progress until the daemon is in one of the states; returns its status, or None at its end or a timeout."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    progress = Progress()
    try:
        while alive():
            status = _status(socket)
            if status is not None:
                if status.state in states:
                    return status
                progress.show(status.model_stage, status.model_progress)
            if deadline is not None and time.monotonic() > deadline:
                return None
            time.sleep(_POLL_S)
        return None
    finally:
        progress.end()


def _status(socket: Path) -> StatusResult | None:
    try:
        with ControlClient.connect(socket, name="semanticd-cli") as client:
            return read(StatusResult, client.call("status"))
    except ControlError:
        return None


def _announce(status: StatusResult, settings: Settings, socket: Path) -> None:
    print_text(f"ready (pid {status.pid})")
    print_text(f"address: {status.address}")
    addresses = reachable_addresses(status.address)
    for address in addresses:
        print_text(f"         {address}")
    if addresses:
        narrate(
            "warning: other machines can reach it: anyone with the API key may send requests, and traffic is not "
            "encrypted; docs/deployment.md shows a proxy with TLS"
        )
    if settings.server.ollama_port is not None:
        print_text(f"ollama:  {status.address.rpartition(':')[0]}:{settings.server.ollama_port}")
    print_text(f"model:   {status.model or f'none: {NO_MODEL_LOADED}'}")
    print_text(f"socket:  {socket}")
    print_text(f"log:     {settings.paths.log_dir / 'semanticd.log'}")
    for model in status.models:
        if model.warning:
            narrate(f"warning: {model.id}: {model.warning}")
    if (nothing := keeps_nothing(status)) is not None:
        narrate(f"warning: the cache on disk {nothing}")


def reachable_addresses(address: str) -> list[str]:
    """Return the URLs at which other machines find a daemon; none where it listens on a loopback address only."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    if is_loopback(host):
        return []
    if host not in ("0.0.0.0", "::"):
        return [address]
    import psutil

    families = (
        (socket_module.AF_INET,) if host == "0.0.0.0" else (socket_module.AF_INET, socket_module.AF_INET6)
    )
    found = [
        one.address
        for interface in psutil.net_if_addrs().values()
        for one in interface
        # An address with a scope (`fe80::1%eth0`) is good on its own link only, and in no URL of a browser.
        if one.family in families and "%" not in one.address and not is_loopback(one.address)
    ]
    return [f"{parts.scheme}://{f'[{one}]' if ':' in one else one}:{parts.port}" for one in found]


class LogEnd:
    """The new lines of a log file."""

    def __init__(self, path: Path) -> None:
        """Remember how long the file is now."""
        self.path = path
        self._begin = self._size()

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def lines(self) -> list[str]:
        """Return the lines that were written since, at most the last ones."""
        size = self._size()
        # A shorter file is another one: the log was rotated.
        begin = self._begin if size >= self._begin else 0
        return _last_lines(self.path, begin=max(begin, size - _TAIL_BYTES))


def _died(process: subprocess.Popen[bytes], log: LogEnd, output: Path) -> int:
    printed = _last_lines(output)
    reasons = [line.removeprefix("semanticd: ") for line in printed if line.startswith("semanticd: ")]
    status = f"the daemon ended while it was starting (exit status {process.returncode})"
    if reasons:
        narrate(f"{status}: {reasons[-1]}")
    else:
        lines = [*map(pretty, log.lines()), *printed][-_NUM_LAST_LINES:]
        narrate("\n".join([f"{status}; it wrote:", *(f"  {line}" for line in lines or ["nothing"])]))
    narrate(f"its log is {log.path} (`semanticd logs` shows it)")
    return EXIT_USAGE if process.returncode == EXIT_USAGE else EXIT_FAILED


def _last_lines(path: Path, *, begin: int = 0) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(begin)
            tail = file.read(_TAIL_BYTES)
    except OSError:
        return []
    return tail.decode("utf-8", "replace").splitlines()[-_NUM_LAST_LINES:]
