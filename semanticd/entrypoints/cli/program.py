"""The program: all commands under one name, each loaded when it is asked for."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from semanticd import __version__
from semanticd.entrypoints.cli.options import absolute

COMMANDS: Final[Mapping[str, str]] = {
    "serve": "serve:serve",
    "worker": "worker:worker",
    "start": "lifecycle:start",
    "stop": "lifecycle:stop",
    "restart": "lifecycle:restart",
    "status": "status:status",
    "logs": "logs:logs",
    "version": "version:version",
    "config": "config:config",
    "key": "key:commands",
    "doctor": "doctor:doctor",
    "selftest": "selftest:selftest",
    "models": "models:commands",
    "agents": "agents:commands",
    "cache": "cache:commands",
    "chat": "chat:chat",
    "ctl": "ctl:ctl",
    "bench": "bench:bench",
    "trace": "trace:commands",
    "service": "service:commands",
    "launch": "launch:launch",
    "mcp": "mcp:mcp",
    "completion": "completion:completion",
}
"""Every command: the file of this package and the name in it."""


ELSEWHERE: Final[Mapping[str, str]] = {
    "run": "semanticd chat` talks with the loaded model; `semanticd start --model NAME` serves another",
    "ps": "semanticd status` shows what is loaded and running",
    "list": "semanticd models list` lists models, `semanticd agents list` agents",
    "ls": "semanticd models list` lists models, `semanticd agents list` agents",
    "pull": "semanticd models pull NAME` fetches a model",
    "get": "semanticd models pull NAME` fetches a model",
    "download": "semanticd models pull NAME` fetches a model",
    "rm": "semanticd models rm NAME` deletes a model, `semanticd agents delete NAME` an agent",
    "remove": "semanticd models rm NAME` deletes a model, `semanticd agents delete NAME` an agent",
    "delete": "semanticd models rm NAME` deletes a model, `semanticd agents delete NAME` an agent",
    "show": "semanticd models info NAME` shows a model, `semanticd agents show NAME` an agent",
    "info": "semanticd models info NAME` shows a model, `semanticd agents show NAME` an agent",
    "load": "semanticd models load NAME` loads a model",
    "unload": "semanticd models unload NAME` frees a model's memory",
    "swap": "semanticd models swap NAME` makes a model the current one",
    "create": "semanticd models load FILE.gguf` converts and loads a model's file; own names go in config.toml",
    "server": "semanticd serve` runs the daemon here, `semanticd start` in the background",
    "kill": "semanticd stop --now` ends the daemon at once",
    "log": "semanticd logs` shows the log",
    "why": "semanticd agents why NAME` explains an agent's last turns",
    "fork": "semanticd agents fork NAME` copies an agent",
    "pin": "semanticd agents pin NAME` keeps an agent's blocks in RAM",
    "rewind": "semanticd agents rewind NAME` forgets an agent's last turns",
    "export": "semanticd agents export NAME FILE` writes an agent into a file",
    "import": "semanticd agents import FILE` reads an agent from a file",
    "prune": "semanticd cache prune SIZE` makes the cache on disk smaller",
    "dashboard": "semantic-tui` is the dashboard",
    "tui": "semantic-tui` is the dashboard",
    "top": "semantic-tui` is the dashboard",
}
"""Words that people type out of habit, and the command of ours that does it."""


class LazyGroup(click.Group):
    """Finds its commands in the table above."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for a word of another program name ours, for a mistyped one the closest."""
        typed = args[0]
        if typed in ELSEWHERE and typed not in COMMANDS:
            ctx.fail(f"no such command {typed!r}: `{ELSEWHERE[typed]}")
        if typed not in COMMANDS and not typed.startswith("-"):
            close = [repr(name) for name in difflib.get_close_matches(typed, COMMANDS, n=2)]
            hint = f"did you mean {' or '.join(close)}?" if close else "`semanticd --help` lists all"
            ctx.fail(f"no such command {typed!r}; {hint}")
        return super().resolve_command(ctx, args)

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
@click.version_option(__version__, "--version", "-V", prog_name="semanticd", message="%(prog)s %(version)s")
@click.option(
    "--runtime-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the control socket (SEMANTIC_RUNTIME_DIR).",
)
def program(runtime_dir: Path | None) -> None:
    """Serves MLX language models and keeps every agent's KV cache across restarts."""
    if runtime_dir is not None:
        os.environ["SEMANTIC_RUNTIME_DIR"] = str(absolute(runtime_dir))
