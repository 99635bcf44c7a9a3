"""`semanticd service`: let the system start the daemon at login."""

from __future__ import annotations

import click

from semanticd.entrypoints.cli.options import json_option
from semanticd.entrypoints.cli.output import narrate, print_facts, print_json, print_script, print_text


@click.group("service")
def commands() -> None:
    """Start the daemon at login: launchd on macOS, systemd on Linux."""


@commands.command()
@click.option("--start/--no-start", default=True, help="Also start the daemon now.")
@click.option("--print", "show", is_flag=True, help="Print the file instead of installing it.")
def install(*, start: bool, show: bool) -> None:
    """Let the system start the daemon now and at every login."""
    from semanticd.adapters.service import service_for_this_machine

    service = service_for_this_machine()
    if show:
        print_script(service.text())
        return
    print_text(str(service.install(start=start)))
    narrate("it takes its settings from the configuration file, not from this shell's environment")


@commands.command()
def uninstall() -> None:
    """Stop the service and remove its file; caches and models stay."""
    from semanticd.adapters.service import service_for_this_machine

    path = service_for_this_machine().uninstall()
    narrate(f"removed {path}" if path else "no service is installed")


@commands.command()
@json_option
def status(*, as_json: bool) -> None:
    """Show whether the service is installed and running."""
    from semanticd.adapters.service import service_for_this_machine

    facts = service_for_this_machine().status()
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)
