"""Write docs/cli.md from the commands: `python contrib/dev/generators/cli_docs.py`. A test compares."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from semanticd.entrypoints.cli.program import program

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cli.md"

HEAD = """# Commands

Every command of `semanticd` (`semantic` is the same program). `--json` prints machine-readable output. Data goes
to stdout, messages go to stderr.
Exit status: 0 success, 1 failure, 2 invalid usage or settings, 3 no daemon is running, 130 interrupted.
`--help` prints the same texts as this page.

This page is generated from the code by `python contrib/dev/generators/cli_docs.py`.
"""


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(_sections(program, ("semanticd",)))


def _sections(command: click.Command, path: tuple[str, ...]) -> Iterator[str]:
    context = click.Context(command, info_name=" ".join(path))
    if len(path) > 1:
        usage = " ".join([" ".join(path), *command.collect_usage_pieces(context)])
        head = f"{'##' if len(path) == 2 else '###'} {' '.join(path[1:])}"
        yield f"\n{head}\n\n{_text(command)}\n\n```text\n{usage}\n```\n"
        rows = list(_options(command, context))
        if rows:
            yield "\n| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _sections(inner, (*path, name))


def _text(command: click.Command) -> str:
    parts = (command.help or "").strip().split("\n\n")
    return "\n\n".join(_verbatim(part) if part.startswith("\b") else " ".join(part.split()) for part in parts)


def _verbatim(part: str) -> str:
    """Return a part whose lines stay as they are: its head as a sentence, the rest as a block."""
    head, *lines = part.removeprefix("\b").strip("\n").splitlines()
    return f"{head}\n\n```text\n{textwrap.dedent(chr(10).join(lines))}\n```"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for one in command.params:
        if not isinstance(one, click.Option):
            continue
        record = one.get_help_record(context)
        if record is not None:
            names, meaning = record
            yield f"| `{names.replace('|', '/')}` | {' '.join(meaning.split()).replace('|', '/')} |"


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
