"""`semanticd version`."""

from __future__ import annotations

import click

from semanticd import __version__
from semanticd.entrypoints.cli.options import json_option


@click.command()
@json_option
def version(*, as_json: bool) -> None:
    """Show the version of this program."""
    from semanticd.entrypoints.cli.output import print_json, print_text

    if not as_json:
        print_text(f"semanticd {__version__}")
        return
    import platform

    from semanticd.control.messages import PROTOCOL_VERSION

    print_json({"version": __version__, "protocol": PROTOCOL_VERSION, "python": platform.python_version()})
