"""`semanticd worker`: this machine computes a part of a model that the daemon on another machine serves."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from semanticd.domain.limits import LIMITS
from semanticd.entrypoints.cli.options import ANY_FLAG, read_flags


def _address(context: click.Context, parameter: click.Parameter, given: str) -> str:
    if given.startswith("-"):
        raise click.BadParameter(
            f"{given!r} is not a daemon's address; give it before the flags of settings."
        )
    return given


@click.command(context_settings=ANY_FLAG)
@click.argument("address", metavar="HOST[:PORT]", callback=_address)
@click.option(
    "--rank",
    type=click.IntRange(min=1, max=LIMITS.ranks - 1),
    required=True,
    help="Rank of this worker: its index in the hostfile, from 0.",
)
@click.option(
    "--model", "-m", help="Path of this machine's copy of the model; default: the daemon's name for it."
)
@click.option("--log-level", hidden=True)
@click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[--section-name VALUE]...")
def worker(
    address: str, *, rank: int, model: str | None, log_level: str | None, more: tuple[str, ...]
) -> None:
    """Join a daemon and compute a part of its model.

    The daemon at HOST was started with `--hosts`. The worker runs until Ctrl-C: it waits for the daemon, rejoins
    after a lost connection, and keeps its part of the cache on this machine. It uses the daemon's key
    (SEMANTIC_DISTRIBUTED_KEY).
    """
    flags: dict[str, Any] = read_flags(more=more, model=model, host=None, port=None, log_level=log_level)
    sys.exit(importlib.import_module("semanticd.entrypoints.worker").main(address, rank=rank, flags=flags))
