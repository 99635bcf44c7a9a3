"""Tests use public names only. The linter refuses `thing._private`; these tests find what it cannot see."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
BY_NAME = {"getattr", "setattr", "hasattr", "delattr", "patch", "attrgetter", "import_module"}
"""Functions that take names of attributes or modules as text."""


def private_names(code: str) -> Iterator[str]:
    """Yield the private names that code imports, or names in a call that looks attributes up."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if is_private(alias.name))
            yield from (part for part in (node.module or "").split(".") if is_private(part))
        elif isinstance(node, ast.Call) and called(node) in BY_NAME:
            texts = [one.value for one in node.args if isinstance(one, ast.Constant)]
            names = [part for text in texts if isinstance(text, str) for part in text.split(".")]
            yield from filter(is_private, names)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


@pytest.mark.parametrize(
    "code",
    [
        "from semanticd.domain.block import _pack",
        "from semanticd._private import thing",
        "getattr(store, '_index').close()",
        "monkeypatch.setattr(daemon, '_LIMIT', 1)",
        "monkeypatch.setattr('semanticd.daemon._Life.live', broken)",
    ],
)
def test_a_private_name_in_a_text_or_an_import_is_found(code: str) -> None:
    assert list(private_names(code))


def test_public_names_and_pythons_own_are_not_private() -> None:
    assert not list(private_names("from __future__ import annotations\ngetattr(thing, '__doc__', 'a_b')"))


def test_no_test_names_what_is_private() -> None:
    found = {
        path.relative_to(TESTS).as_posix(): names
        for path in sorted(TESTS.rglob("*.py"))
        if (names := list(private_names(path.read_text(encoding="utf-8"))))
    }
    assert found == {}
