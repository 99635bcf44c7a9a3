"""Exit statuses of every command are the guide's: where no daemon runs, with a bad setting, with an unknown option."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest

from semanticd.entrypoints import cli
from semanticd.entrypoints.cli.program import program

REPOSITORY = Path(__file__).resolve().parents[2]
DONE, FAILED, WRONG, NO_DAEMON = 0, cli.EXIT_FAILED, cli.EXIT_USAGE, cli.EXIT_NOT_RUNNING

STATUSES: dict[str, tuple[int | None, int]] = {
    "serve": (None, WRONG),
    "worker 127.0.0.1 --rank 1": (WRONG, WRONG),
    "start": (None, WRONG),
    "stop": (DONE, DONE),
    "restart": (None, WRONG),
    "status": (NO_DAEMON, NO_DAEMON),
    "logs": (FAILED, FAILED),
    "version": (DONE, DONE),
    "config": (DONE, WRONG),
    "config init": (DONE, DONE),
    "config path": (DONE, DONE),
    "key new": (DONE, DONE),
    "doctor --no-generate": (None, FAILED),
    "selftest --quick": (None, FAILED),
    "models fit": (None, WRONG),
    "models info smollm2-135m": (DONE, WRONG),
    "models list": (DONE, WRONG),
    "models load any": (NO_DAEMON, NO_DAEMON),
    "models pull any": (FAILED, WRONG),
    "models rm any": (FAILED, WRONG),
    "models swap any": (NO_DAEMON, NO_DAEMON),
    "models unload any": (NO_DAEMON, NO_DAEMON),
    "agents delete any": (NO_DAEMON, NO_DAEMON),
    "agents evict any": (NO_DAEMON, NO_DAEMON),
    "agents export any file": (NO_DAEMON, NO_DAEMON),
    "agents fork any": (NO_DAEMON, NO_DAEMON),
    "agents import file": (NO_DAEMON, NO_DAEMON),
    "agents list": (NO_DAEMON, NO_DAEMON),
    "agents pin any": (NO_DAEMON, NO_DAEMON),
    "agents rewind any": (NO_DAEMON, NO_DAEMON),
    "agents show any": (NO_DAEMON, NO_DAEMON),
    "agents unpin any": (NO_DAEMON, NO_DAEMON),
    "agents why any": (NO_DAEMON, NO_DAEMON),
    "cache": (NO_DAEMON, NO_DAEMON),
    "cache clear --yes": (NO_DAEMON, NO_DAEMON),
    "cache prune 0": (NO_DAEMON, NO_DAEMON),
    "chat": (NO_DAEMON, NO_DAEMON),
    "ctl ping": (NO_DAEMON, NO_DAEMON),
    "bench --base-url http://127.0.0.1:9 --scenario swap": (FAILED, FAILED),
    "bench compare a b": (FAILED, FAILED),
    "bench replay a": (FAILED, FAILED),
    "trace show a": (FAILED, FAILED),
    "service install --print": (DONE, DONE),
    "service status": (DONE, DONE),
    "service uninstall": (DONE, DONE),
    "launch claude": (NO_DAEMON, NO_DAEMON),
    "completion bash": (DONE, DONE),
}
"""By command: its status where no daemon runs (None: not tried, it takes minutes or starts one), and with a bad
setting in addition. `doctor` and `selftest` report settings as one of their checks."""

LEFT_OUT = {"mcp": "it is a server; its extra is tried by `test_mcp_without_sdk`"}


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the names of all commands that do something."""
    if isinstance(command, click.Group):
        if command.invoke_without_command:
            yield " ".join(path)
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            yield from commands(inner, (*path, name))
    else:
        yield " ".join(path)


def name_of(line: str) -> str:
    """Return the name of the command that a line runs."""
    known = set(commands(program))
    words = line.split()
    return max((" ".join(words[:end]) for end in (1, 2) if " ".join(words[:end]) in known), key=len)


def run_all(folder: Path, lines: list[str], **environ: str) -> dict[str, int]:
    """Run each line in a home of its own; returns the statuses."""

    def run(number: int) -> int:
        home = folder / str(number)
        home.mkdir()
        ran = subprocess.run(
            [sys.executable, "-m", "semanticd", *lines[number].split()],
            cwd=home,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "PYTHONPATH": str(REPOSITORY),
                "SEMANTIC_RUNTIME_DIR": str(home / "run"),
                **environ,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=100,
            check=False,
        )
        return ran.returncode

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(lines, pool.map(run, range(len(lines))), strict=True))


def test_every_command_is_in_the_table() -> None:
    assert {name_of(line) for line in STATUSES} | set(LEFT_OUT) == set(commands(program))


@pytest.mark.timeout(300)
def test_without_a_daemon_each_command_ends_as_the_guide_says(short_tmp_path: Path) -> None:
    wanted = {line: alone for line, (alone, _) in STATUSES.items() if alone is not None}
    assert run_all(short_tmp_path, list(wanted)) == wanted


@pytest.mark.timeout(300)
def test_with_a_bad_setting_each_command_ends_as_the_guide_says(short_tmp_path: Path) -> None:
    wanted = {line: bad for line, (_, bad) in STATUSES.items()}
    assert run_all(short_tmp_path, list(wanted), SEMANTIC_SERVER_PORT="any") == wanted


@pytest.mark.parametrize("name", [name for name in commands(program) if name != "launch"])
def test_an_option_that_is_unknown_is_wrong_usage(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["semanticd", *name.split(), "--no-such-option"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == WRONG
    assert "--no-such-option" in capsys.readouterr().err


def test_the_guide_and_the_commands_page_have_these_statuses() -> None:
    guide = (REPOSITORY / "docs/user-guide.md").read_text(encoding="utf-8")
    table = guide.partition("| exit status | meaning |")[2]
    shown = [int(found) for found in re.findall(r"(?m)^\| (\d+) \|", table.partition("\n\n")[0])]
    assert shown == [DONE, FAILED, WRONG, NO_DAEMON, cli.EXIT_INTERRUPTED]
    page = (REPOSITORY / "docs/cli.md").read_text(encoding="utf-8")
    assert [
        int(found)
        for found in re.findall(
            r"(?:: |, )(\d+) (?=[a-z])", page.partition("Exit status")[2].partition(".")[0]
        )
    ] == shown
