"""What a class is given fits in one look, and no module reaches through another's parts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MOST_ARGUMENTS = 7
PARTS = {"pool"}
"""Parts that belong to their owner: `store.overdrawn_bytes` asks it, `store.pool.free_bytes` passes it by."""
OWNERS = "application/cache"


def too_many(code: str) -> Iterator[str]:
    """Yield the classes whose `__init__` takes more arguments than `MOST_ARGUMENTS`."""
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.ClassDef):
            continue
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                given = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]
                if len(given) - 1 > MOST_ARGUMENTS:
                    yield node.name


def reached_through(code: str) -> Iterator[str]:
    """Yield the attributes that code takes from a part of something that is not its own."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and node.attr in PARTS:
            of = node.value
            if not (isinstance(of, ast.Name) and of.id == "self"):
                yield ast.unparse(node)


def sources(*packages: str) -> Iterator[tuple[str, str]]:
    for package in packages:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            yield path.relative_to(REPOSITORY).as_posix(), path.read_text(encoding="utf-8")


@pytest.mark.parametrize("code", ["self._store.pool.free_bytes", "pool = store.pool"])
def test_a_reach_through_a_part_is_found(code: str) -> None:
    assert list(reached_through(code))
    assert not list(reached_through("self.pool.free_bytes"))


def test_no_module_reaches_through_the_store_into_its_pool() -> None:
    found = {
        name: reached
        for name, code in sources("semanticd")
        if OWNERS not in name and (reached := list(reached_through(code)))
    }
    assert found == {}


def test_no_constructor_takes_more_than_a_few_arguments() -> None:
    wide = "class A:\n    def __init__(self, a, b, c, d, *, e, f, g, h): ..."
    assert list(too_many(wide)) == ["A"]
    found = {
        name: classes
        for name, code in sources("semanticd", "semantic_tui")
        if (classes := list(too_many(code)))
    }
    assert found == {}
