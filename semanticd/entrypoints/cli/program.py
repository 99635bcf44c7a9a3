"""The program: all commands under one name, each loaded when it is asked for."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

COMMANDS: Final[Mapping[str, str]] = {
    "serve": "serve:serve",
    "start": "lifecycle:start",
    "stop": "lifecycle:stop",
    "restart": "lifecycle:restart",
    "status": "status:status",
    "logs": "logs:logs",
    "version": "version:version",
    "config": "config:config",
    "doctor": "doctor:doctor",
    "models": "models:commands",
    "agents": "agents:commands",
    "chat": "chat:chat",
    "ctl": "ctl:ctl",
    "bench": "bench:bench",
    "service": "service:commands",
    "launch": "launch:launch",
    "completion": "completion:completion",
}
"""Every command: the file of this package and the name in it."""


class LazyGroup(click.Group):
    """Finds its commands in the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; None for a name that is not there."""
        if cmd_name not in COMMANDS:
            return None
        file, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(f"semanticd.entrypoints.cli.{file}"), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--runtime-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the control socket (SEMANTIC_RUNTIME_DIR).",
)
def program(runtime_dir: Path | None) -> None:
    """Serves MLX language models and keeps every agent's KV cache across restarts."""
    if runtime_dir is not None:
        os.environ["SEMANTIC_RUNTIME_DIR"] = str(runtime_dir.expanduser().absolute())
