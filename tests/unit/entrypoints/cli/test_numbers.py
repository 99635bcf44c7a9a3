"""Numbers on the command line have bounds, and NaN is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from semanticd.entrypoints.cli.options import FiniteRange
from semanticd.entrypoints.cli.program import program


def options(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Return the words of all commands with an option that takes a float, and the option."""
    for parameter in command.params:
        if isinstance(parameter.type, click.types.FloatParamType | click.FloatRange):
            yield words, parameter.opts[0]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from options(inner, (*words, name))


OPTIONS = list(options(program))


@pytest.mark.parametrize(
    ("words", "option"), OPTIONS, ids=lambda part: " ".join(part) if isinstance(part, tuple) else part
)
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e300", "-1"])
def test_what_is_no_finite_number_is_refused(words: tuple[str, ...], option: str, number: str) -> None:
    answer = CliRunner().invoke(program, [*words, f"{option}={number}"])
    assert answer.exit_code == 2
    assert f"'{option}'" in answer.output


def test_a_number_within_the_bounds_is_taken() -> None:
    assert ("agents", "pin") in [words for words, _ in OPTIONS]
    assert FiniteRange(min=0).convert("1.5", None, None) == 1.5


@pytest.mark.parametrize("size", ["99999999999999999999999TB", "9" * 400, "8193TB", str(2**53 + 2)])
def test_a_size_that_no_disk_has_is_refused(size: str) -> None:
    answer = CliRunner().invoke(program, ["cache", "prune", size])
    assert answer.exit_code == 2
    assert f"is a size of more than {2**53} bytes" in answer.output


def test_the_last_lines_of_a_log_may_be_more_than_there_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMANTIC_LOG_DIR", str(tmp_path))
    (tmp_path / "semanticd.log").write_text("one\ntwo\n")
    answer = CliRunner().invoke(program, ["logs", "-n", "99999999999999999999"])
    assert (answer.exit_code, answer.output) == (0, "one\ntwo\n")
