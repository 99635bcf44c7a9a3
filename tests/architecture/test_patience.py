"""Tests wait long for what happens elsewhere: a short wait measures the machine, and fails where it is busy or slow.

What is awaited comes from another thread, process or disk; a wait that ends early costs nothing. So no bound on it is
below `PATIENCE_S`. A fraction of a second is a limit that the test is about, or a pause, and is left alone. httpx waits
for five seconds unless it is given a time.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PATIENCE_S = 60
ASKED_AGAIN = {"fakes/daemon_process.py": "start", "e2e/test_routers.py": "run"}
"""Functions that ask again and again until a deadline of their own, by file."""
WAITS = {"wait", "join", "result", "flush", "communicate", "settimeout", "fail_after", "move_on_after"}
"""Functions whose only argument is how long they wait, in seconds."""
BOUNDS = {"timeout", "timeout_s", "deadline_s"}
HTTPX = {
    "get",
    "post",
    "put",
    "delete",
    "patch",
    "head",
    "options",
    "request",
    "stream",
    "Client",
    "AsyncClient",
}


def seconds(node: ast.expr) -> float | None:
    """Return a number that is written down, else None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    return None


def bounds(tree: ast.AST) -> Iterator[tuple[int, float | None]]:
    """Yield the line and the seconds of each bound on a wait; None where httpx is given none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            found = [node.right] if ast.unparse(node.left).endswith(("monotonic()", ".time()")) else []
        elif isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "attr", getattr(function, "id", ""))
            found = [one.value for one in node.keywords if one.arg in BOUNDS]
            found += node.args if name in WAITS and len(node.args) == 1 else []
            found += node.args[1:2] if name == "wait_for" else []
            owner = function.value if isinstance(function, ast.Attribute) else None
            if isinstance(owner, ast.Name) and owner.id == "httpx" and name in HTTPX and not found:
                yield node.lineno, None
        else:
            continue
        yield from ((node.lineno, value) for one in found if (value := seconds(one)) is not None)


def impatient(tree: ast.AST) -> list[int]:
    """Return the lines of bounds that are too short."""
    return sorted({line for line, value in bounds(tree) if value is None or 1 <= value < PATIENCE_S})


def test_no_test_waits_for_a_short_time_only() -> None:
    found = {}
    for path in sorted(TESTS.rglob("*.py")):
        name, tree = path.relative_to(TESTS).as_posix(), ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == ASKED_AGAIN.get(name):
                node.body = []
        if lines := impatient(tree):
            found[name] = lines
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "store.write(x).result(10)",
        "await asyncio.wait_for(exchange, 10)",
        "subprocess.run(command, timeout=20)",
        "deadline = time.monotonic() + 10",
        "httpx.get(url)",
        "with httpx.Client(base_url=url) as http: pass",
    ],
)
def test_a_short_wait_is_found(line: str) -> None:
    assert impatient(ast.parse(line.removeprefix("await "))) == [1]


@pytest.mark.parametrize(
    "line",
    ["thread.join(0.5)", "names.join(1, 2)", "future.result(60)", "httpx.get(url, timeout=60)", "join()"],
)
def test_other_lines_are_left_alone(line: str) -> None:
    assert impatient(ast.parse(line)) == []
