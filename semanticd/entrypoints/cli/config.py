"""`semanticd config`: every setting, its value and where it came from."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from semanticd.control.results import ConfigResult, ConfigValue, read
from semanticd.entrypoints.cli.daemon_link import ask
from semanticd.entrypoints.cli.options import json_option
from semanticd.entrypoints.cli.output import narrate, print_json, print_text, shown


@click.group(invoke_without_command=True)
@json_option
@click.option(
    "--all", "everything", is_flag=True, help="Also show each setting's meaning, variable and flag."
)
@click.option("--daemon", is_flag=True, help="Show the running daemon's settings instead of this shell's.")
@click.pass_context
def config(context: click.Context, *, as_json: bool, everything: bool, daemon: bool) -> None:
    """Show the settings in effect, with secrets masked.

    `config init` writes a settings file that you can edit.
    """
    if context.invoked_subcommand is not None:
        return
    answer = ask("config.show") if daemon else _local()
    if as_json:
        print_json(answer)
        return
    shown_here = read(ConfigResult, answer)
    width = max((len(one.name) for one in shown_here.settings), default=0)
    for one in shown_here.settings:
        origin = "" if one.origin == "default" else f"   ({one.origin})"
        print_text(f"{one.name:<{width}} = {_shown(one)}{origin}")
        if everything:
            names = f"{one.env}   {one.flag}".rstrip()
            print_text(f"    {one.meaning} Expected: {one.expected}.\n    {names}\n")
    narrate(f"settings file: {_described(Path(shown_here.config_file or '-'))}")


@config.command()
def path() -> None:
    """Print the path of the settings file."""
    print_text(str(_file()))


@config.command()
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def init(*, force: bool) -> None:
    """Write a settings file that explains every setting.

    All settings are commented out, so that the file changes nothing until you edit it.
    """
    from semanticd.adapters.config.template import settings_file
    from semanticd.control.private_files import UMASK

    file = _file()
    if file.exists() and not force:
        raise click.ClickException(f"{file} exists; --force overwrites it")
    # It may hold keys: it is this user's alone.
    previous = os.umask(UMASK)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(settings_file(), encoding="utf-8")
        file.chmod(0o600)
    finally:
        os.umask(previous)
    print_text(str(file))
    narrate("every setting is commented out; run `semanticd restart` to apply your changes")


def _file() -> Path:
    from semanticd.adapters.config.resolve import config_file_path

    return config_file_path(os.environ)[0]


def _described(file: Path) -> str:
    return str(file) if file.exists() else f"{file} (not there; `semanticd config init` writes one)"


def _shown(one: ConfigValue) -> str:
    """Return a value as a user would type it, with all its digits, for comparison with the setting."""
    if one.value is None or one.value == []:
        return "none"
    return f"{one.value:.12g}" if isinstance(one.value, float) else shown(one.name, one.value)


def _local() -> dict[str, Any]:
    from semanticd.adapters.config import effective, load_settings

    loaded = load_settings()
    return {"settings": [asdict(one) for one in effective(loaded)], "config_file": str(loaded.config_file)}
