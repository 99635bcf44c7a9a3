"""`semanticd config`: every setting, its value and where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from semanticd.control.results import ConfigValue, read_all
from semanticd.entrypoints.cli.daemon_link import ask
from semanticd.entrypoints.cli.options import json_option
from semanticd.entrypoints.cli.output import print_json, print_text, shown


@click.command()
@json_option
@click.option("--all", "everything", is_flag=True, help="Also what each means, its variable and flag.")
@click.option("--daemon", is_flag=True, help="The running daemon's instead of this shell's.")
def config(*, as_json: bool, everything: bool, daemon: bool) -> None:
    """Show the settings in effect here, secrets masked."""
    rows = ask("config.show")["settings"] if daemon else _local()
    if as_json:
        print_json({"settings": rows})
        return
    values = read_all(ConfigValue, rows)
    width = max((len(one.name) for one in values), default=0)
    for one in values:
        origin = "" if one.origin == "default" else f"   ({one.origin})"
        print_text(f"{one.name:<{width}} = {_shown(one)}{origin}")
        if everything:
            names = f"{one.env}   {one.flag}".rstrip()
            print_text(f"    {one.meaning} Expected: {one.expected}.\n    {names}\n")


def _shown(one: ConfigValue) -> str:
    """Return a value with all its digits: it is to be compared with what was set."""
    return f"{one.value:.12g}" if isinstance(one.value, float) else shown(one.name, one.value)


def _local() -> Sequence[Mapping[str, Any]]:
    from semanticd.adapters.config import effective, load_settings

    return [asdict(one) for one in effective(load_settings())]
