"""Modules are started in one way only: `python -m` alone searches the folder that the user is in first."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("semanticd", "semantic_tui")
THE_ONE = "semanticd/control/python_command.py"
SEARCHING = ("-m", "-c", "-")
"""Options with which Python puts the folder that it is started in first on its path."""


def starts(code: str) -> Iterator[int]:
    """Yield the lines of lists and tuples that hold this Python, or any, and one of these options."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.List, ast.Tuple)) and any(map(is_python, node.elts)):
            options = [one.value for one in node.elts if isinstance(one, ast.Constant)]
            if any(option in SEARCHING for option in options):
                yield node.lineno


def is_python(node: ast.expr) -> bool:
    """Whether this is `sys.executable`, however it is wrapped, or a text that names a Python."""
    parts = list(ast.walk(node))
    return any(
        (isinstance(part, ast.Attribute) and part.attr == "executable")
        or (isinstance(part, ast.Name) and part.id == "executable")
        or (
            isinstance(part, ast.Constant)
            and isinstance(part.value, str)
            and part.value.startswith("python")
            and " " not in part.value
        )
        for part in parts
    )


@pytest.mark.parametrize(
    "code",
    [
        "run([sys.executable, '-m', 'semanticd', 'serve'])",
        "COMMAND = (sys.executable, '-m', 'semanticd')",
        "run([str(Path(sys.executable)), '-I', '-c', 'print()'])",
        "from sys import executable\nrun([executable, *flags, '-m', 'pip'])",
        "exec('python3', ['python3', '-m', 'semanticd'])",
    ],
)
def test_a_python_that_searches_the_users_folder_is_found(code: str) -> None:
    assert list(starts(code))


def test_a_script_and_another_program_are_none() -> None:
    assert not list(
        starts("run([sys.executable, str(PROGRAM)])\nrun(['git', '-c', 'core.pager=cat', 'log'])")
    )


def test_no_module_is_started_in_another_way() -> None:
    found = {
        path.relative_to(REPOSITORY).as_posix(): lines
        for room in ROOMS
        for path in sorted((REPOSITORY / room).rglob("*.py"))
        if (lines := list(starts(path.read_text(encoding="utf-8"))))
    }
    assert list(found) == [THE_ONE]
