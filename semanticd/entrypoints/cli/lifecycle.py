"""`semanticd start`, `stop`, `restart`: the daemon in the background."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from semanticd.control.errors import ControlError
from semanticd.domain.errors import DaemonError
from semanticd.entrypoints.cli.daemon_link import connect, is_socket, socket_path
from semanticd.entrypoints.cli.options import ANY_FLAG, read_flags, setting_options
from semanticd.entrypoints.cli.output import narrate

_POLL_S = 0.05
_PERSIST_S = 90.0
"""Longer than the daemon lets its own ending take."""
_NOW_S = 10.0

drain_option = click.option(
    "--timeout", type=click.FloatRange(min=0), help="Seconds that running requests may take."
)
now_option = click.option("--now", is_flag=True, help="Cancel running requests.")


@click.command(context_settings=ANY_FLAG)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    help="Seconds to wait until it is ready; it goes on starting after that.",
)
@setting_options
def start(*, timeout: float | None, **given: Any) -> None:
    """Start the daemon in the background and wait until it is ready.

    Every setting is a flag too, as for `serve`.
    """
    from semanticd.entrypoints.cli.background import start_in_background

    sys.exit(start_in_background(read_flags(**given), timeout_s=timeout))


@click.command()
@drain_option
@now_option
def stop(*, timeout: float | None, now: bool) -> None:
    """Stop the daemon: running requests finish, caches are written, then it ends."""
    if not stop_daemon(timeout_s=timeout, now=now):
        narrate("no daemon is running")


@click.command(context_settings=ANY_FLAG)
@drain_option
@now_option
@setting_options
def restart(*, timeout: float | None, now: bool, **given: Any) -> None:
    """Stop the daemon if it runs, then start it with the present settings."""
    from semanticd.entrypoints.cli.background import start_in_background

    flags = read_flags(**given)
    stop_daemon(timeout_s=timeout, now=now)
    sys.exit(start_in_background(flags, timeout_s=None))


def stop_daemon(*, timeout_s: float | None, now: bool) -> bool:
    """End the daemon and wait until its process is gone; returns whether there was one.

    Raises:
        DaemonError: It did not end in time.
    """
    from semanticd.adapters.process import PID_FILE, kill, running_pid

    pid_file = socket_path().with_name(PID_FILE)
    pid = running_pid(pid_file)
    if pid is None:
        return False
    patience_s = _NOW_S if now else _PERSIST_S
    if not _ask_to_stop(pid, timeout_s=timeout_s, now=now):
        narrate(f"the daemon (pid {pid}) does not answer; it was sent SIGTERM")
    elif not now:
        patience_s += timeout_s if timeout_s is not None else _drain_timeout_s()
    deadline = time.monotonic() + patience_s
    while running_pid(pid_file) == pid:
        if time.monotonic() > deadline:
            if not now:
                raise DaemonError(
                    f"the daemon (pid {pid}) has not ended after {patience_s:.0f} s; `semanticd stop --now` ends it"
                )
            narrate(f"the daemon (pid {pid}) has not ended after {patience_s:.0f} s; killing it")
            kill(pid)
            deadline = time.monotonic() + patience_s
        time.sleep(_POLL_S)
    narrate(f"stopped (pid {pid})")
    return True


def _ask_to_stop(pid: int, *, timeout_s: float | None, now: bool) -> bool:
    """Ask over the socket, else by signal; returns whether the socket answered."""
    if is_socket(socket_path()):
        try:
            with connect() as client:
                client.call("shutdown", timeout_s=timeout_s, now=now)
                return True
        except ControlError:
            pass
    import os
    import signal

    os.kill(pid, signal.SIGTERM)
    return False


def _drain_timeout_s() -> float:
    """Return how long the daemon lets requests run, as far as this shell's settings say."""
    from semanticd.entrypoints.cli.daemon_link import settings_or_defaults

    return settings_or_defaults().server.drain_timeout_s
