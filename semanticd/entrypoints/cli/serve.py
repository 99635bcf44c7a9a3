"""`semanticd serve`: the daemon in the foreground. The only command that loads the server stack, by name and last."""

from __future__ import annotations

import importlib
from typing import Any

import click

from semanticd.entrypoints.cli.options import ANY_FLAG, read_flags, setting_options


@click.command(context_settings=ANY_FLAG)
@setting_options
def serve(**given: Any) -> None:
    """Run the daemon in the foreground until Ctrl-C.

    Ctrl-C finishes running requests and writes the caches; a second Ctrl-C quits at once. Every setting is a flag too:
    --section-name VALUE; `semanticd config --all` lists them.
    """
    importlib.import_module("semanticd.entrypoints.daemon").serve(read_flags(**given))
