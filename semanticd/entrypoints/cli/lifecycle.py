"""`semanticd start`, `stop`, `restart`: the daemon in the background."""

from __future__ import annotations

import sys
from typing import Any

import click

from semanticd.control.errors import ControlError, DaemonNotRunningError, NoSocketError
from semanticd.control.results import ConfigResult, ConfigValue, StatusResult, read
from semanticd.entrypoints.cli.daemon_link import connect
from semanticd.entrypoints.cli.ending import stop_daemon
from semanticd.entrypoints.cli.options import ANY_FLAG, FiniteRange, read_flags, setting_options
from semanticd.entrypoints.cli.output import narrate

drain_option = click.option(
    "--timeout", type=FiniteRange(min=0), help="Seconds to wait for running requests to finish."
)
now_option = click.option("--now", is_flag=True, help="Cancel running requests.")


@click.command(context_settings=ANY_FLAG)
@click.option(
    "--timeout",
    type=FiniteRange(min=0),
    help="Seconds to wait until it is ready; startup continues afterwards.",
)
@setting_options
def start(*, timeout: float | None, **given: Any) -> None:
    """Start the daemon in the background and wait until it is ready.

    Every setting is also a flag, as for `serve`.
    """
    from semanticd.entrypoints.cli.background import start_in_background

    sys.exit(start_in_background(read_flags(**given), timeout_s=timeout))


@click.command()
@drain_option
@now_option
def stop(*, timeout: float | None, now: bool) -> None:
    """Finish running requests, write the caches, and stop the daemon."""
    if not stop_daemon(timeout_s=timeout, now=now):
        narrate("no daemon is running")


@click.command(context_settings=ANY_FLAG)
@drain_option
@now_option
@setting_options
def restart(*, timeout: float | None, now: bool, **given: Any) -> None:
    """Stop a running daemon and start it again with these settings.

    Flags of the running daemon are kept unless they are given again. Settings, port and model are checked before it
    stops.
    """
    from semanticd.entrypoints.cli.background import start_in_background
    from semanticd.entrypoints.cli.restart_plan import plan

    shown, status = _running()
    flags, changed = plan(shown, status, read_flags(**given))
    for line in changed:
        narrate(f"restarting with another setting: {line}")
    stop_daemon(timeout_s=timeout, now=now)
    sys.exit(start_in_background(flags, timeout_s=None))


def _running() -> tuple[tuple[ConfigValue, ...] | None, StatusResult | None]:
    """Return the running daemon's settings and status; None where there is no daemon, or it does not answer."""
    try:
        with connect() as client:
            settings = read(ConfigResult, client.call("config.show")).settings
            return settings, read(StatusResult, client.call("status"))
    except ControlError as error:
        if isinstance(error, DaemonNotRunningError) and not isinstance(error, NoSocketError):
            return None, None
        narrate(f"the running daemon does not report its start flags ({error}); its flags are not kept")
        return None, None
