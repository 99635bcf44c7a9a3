"""`semanticd config`: every setting, its value and where it came from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

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
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        origin = "" if row["origin"] == "default" else f"   ({row['origin']})"
        print_text(f"{row['name']:<{width}} = {_shown(row)}{origin}")
        if everything:
            names = f"{row['env']}   {row['flag']}".rstrip()
            print_text(f"    {row['meaning']} Expected: {row['expected']}.\n    {names}\n")


def _shown(row: dict[str, Any]) -> str:
    """Return a value with all its digits: it is to be compared with what was set."""
    value = row["value"]
    return f"{value:.12g}" if isinstance(value, float) else shown(row["name"], value)


def _local() -> list[dict[str, Any]]:
    from semanticd.adapters.config import effective, load_settings

    return [asdict(one) for one in effective(load_settings())]
