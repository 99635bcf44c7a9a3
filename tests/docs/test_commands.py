"""What pages and the Makefile tell to type exists: files, targets, commands with their options and arguments.

Most examples are run as well (`test_examples.py`), and every script starts (`tests/contrib`); what must not be run in a
test, such as a daemon in the foreground or a coding program, is at least understood by our own command line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from semanticd.adapters.config.sources import parse_flags
from semanticd.entrypoints.cli.program import program
from tests.docs.markdown_page import read_page

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"(?m)^([a-z-]+):", MAKEFILE))
RULES_OF_ANY = [ROOT / "Makefile", ROOT / ".ci" / "run", ROOT / "pyproject.toml", ROOT / "mkdocs.yml"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RULES_OF_ANY += WORKFLOWS
READ_BY_PEOPLE = [*PAGES, *RULES_OF_ANY, *sorted((ROOT / "contrib").rglob("*.*"))]

FILE = re.compile(
    r"(?<![\w./~-])(?:(?:contrib|tests|docs|\.ci)/[\w./-]*\w|(?:semanticd|semantic_tui)/[\w./-]*\.py)"
)
SHELL = ("bash", "sh", "shell", "console")
PLACEHOLDER = re.compile(r"[…\[\]{}<>|]")


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def texts(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, IsADirectoryError):
        return ""


def command_lines(path: Path) -> Iterator[list[str]]:
    """Yield the commands of a page, word by word: each line of its shell blocks, and each code span."""
    page = read_page(path)
    prose = re.sub(r"(?ms)^ *```.*?^ *```$", "", path.read_text(encoding="utf-8"))
    lines = [line for block in page.blocks if block.language in SHELL for line in unfolded(block.text)]
    for line in [*lines, *re.findall(r"`([^`\n]+)`", prose)]:
        # `a; b && c | d "$(e)"` are five commands.
        for part in re.split(r"\$\(|\)\"|&&|\|\||[;|&]", line):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words


def unfolded(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


def understand(words: list[str]) -> str | None:
    """Return why our command line would refuse these words, or None."""
    command: click.Command | None = program
    context: click.Context | None = None
    try:
        while command is not None and len(words) > 1:
            name, *words = words
            context = click.Context(command, info_name=name, parent=context, **command.context_settings)
            options, words, _ = command.make_parser(context).parse_args(args=words)
            if not isinstance(command, click.Group):
                if context.ignore_unknown_options:
                    # Every setting is an option of `serve`, `start` and `restart`, which read them themselves.
                    more = options.get("more")
                    parse_flags(more if isinstance(more, tuple) else ())
                return f"what is {words}?" if words else None
            if not words:
                return None
            command = command.get_command(context, words[0])
    except click.UsageError as error:
        return error.message
    except ValueError as error:
        return str(error)
    return None if command is not None else f"no command {words[0]}"


@pytest.mark.parametrize("path", READ_BY_PEOPLE, ids=short)
def test_every_file_that_is_named_is_there(path: Path) -> None:
    named = {name.rstrip(".") for name in FILE.findall(texts(path))}
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("path", PAGES, ids=short)
def test_every_command_of_ours_is_understood_with_its_options(path: Path) -> None:
    refused = {}
    for words in command_lines(path):
        if words[0] in ("semanticd", "semantic") and not any(PLACEHOLDER.search(word) for word in words):
            reason = understand(words)
            if reason is not None:
                refused[" ".join(words)] = reason
    assert refused == {}


@pytest.mark.parametrize("path", [*PAGES, ROOT / ".ci" / "run", *WORKFLOWS], ids=short)
def test_every_make_target_that_is_named_exists(path: Path) -> None:
    if path.suffix == ".md":
        named = {words[1] for words in command_lines(path) if words[0] == "make" and len(words) > 1}
    else:
        named = set(re.findall(r"(?m)^(?:[a-z ]|- run: )*\bmake ([a-z-]+)", texts(path)))
    assert {name for name in named if re.fullmatch(r"[a-z-]+", name)} - TARGETS == set()


def test_every_make_target_is_declared_and_described() -> None:
    (phony,) = re.findall(r"(?m)^\.PHONY: (.*)$", MAKEFILE)
    assert set(phony.split()) == TARGETS
    calls = set(re.findall(r"\$\(MAKE\) ([a-z-]+)", MAKEFILE))
    assert calls <= TARGETS
    described = set(re.findall(r"(?m)^([a-z-]+):.*## ", MAKEFILE))
    assert TARGETS - described == calls


def test_unknown_options_commands_and_arguments_are_noticed() -> None:
    assert understand(["semanticd", "status", "--json"]) is None
    assert understand(["semanticd", "status", "--colour"]) is not None
    assert understand(["semanticd", "status", "now"]) is not None
    assert understand(["semanticd", "serve", "--server-port", "1"]) is None
    assert understand(["semanticd", "serve", "--server-sport", "1"]) is not None
    assert understand(["semanticd", "paint"]) is not None
    assert understand(["semanticd", "agents", "paint"]) is not None
