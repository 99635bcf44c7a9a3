"""`semanticd serve`: the daemon in the foreground. The only command that loads the server stack, by name and last."""

from __future__ import annotations

import importlib
from typing import Any

import click

from semanticd.entrypoints.cli.options import ANY_FLAG, read_flags, setting_options


@click.command(context_settings=ANY_FLAG)
@click.option("--hosts", help="MLX hostfile: the machines that compute one model together, this one first.")
@setting_options
def serve(*, hosts: str | None, **given: Any) -> None:
    """Run the daemon in the foreground until Ctrl-C.

    Ctrl-C finishes running requests and writes the caches; a second Ctrl-C quits immediately. Every setting is also a
    flag: --section-name VALUE; `semanticd config --all` lists them.
    """
    importlib.import_module("semanticd.entrypoints.daemon").serve(_with_hosts(read_flags(**given), hosts))


def _with_hosts(flags: dict[str, Any], hosts: str | None) -> dict[str, Any]:
    return flags if hosts is None else {**flags, "distributed.hosts": hosts}
