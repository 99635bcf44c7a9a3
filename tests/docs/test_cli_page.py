"""The page on commands says what the program does."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import click

from semanticd.entrypoints.cli.program import program

ROOT = Path(__file__).resolve().parents[2]


def helps(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the help text of a command and of all below it, as a terminal of 80 columns shows it."""
    yield command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from helps(inner, click.Context(inner, context, info_name=name, terminal_width=80))


def test_no_help_is_cut_short_or_shows_marks_of_its_formatting() -> None:
    shown = list(helps(program, click.Context(program, info_name="semanticd", terminal_width=80)))
    assert len(shown) > 40
    lines = [line for text in shown for line in text.splitlines()]
    cut = [line for line in lines if line.endswith("...") and not line.endswith("]...")]
    assert cut == [], "the first sentence is too long for a list"
    assert [line for line in lines if "\\b" in line or "\b" in line] == []


def test_the_page_on_commands_is_made_from_the_program() -> None:
    spec = importlib.util.spec_from_file_location("cli_docs", ROOT / "contrib/dev/generators/cli_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert written == module.page(), "run `python contrib/dev/generators/cli_docs.py`"
