"""Log events are snake_case names; what varies is in fields, so that a log can be searched and counted by event."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"debug", "info", "warning", "error", "exception"}
EVENT = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+|idle")


def events(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and event of each call of a log, as source where it is not a constant; a parameter is left out."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        receiver = ast.unparse(node.func.value)
        if node.func.attr in LEVELS and re.search(r"(?:^|[._])log(?:ger)?$", receiver):
            for event in _constants(node.args[0]):
                yield node.lineno, event


def _constants(node: ast.expr) -> list[str]:
    if isinstance(node, ast.IfExp):
        return [*_constants(node.body), *_constants(node.orelse)]
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    return [] if isinstance(node, ast.Name) else [ast.unparse(node)]


@pytest.mark.parametrize("package", ["semanticd", "semantic_tui"])
def test_every_log_event_is_a_snake_case_name(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {event}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, event in events(path.read_text(encoding="utf-8"))
        if not EVENT.fullmatch(event)
    ]
    assert found == []


def test_a_sentence_and_a_formatted_event_are_found() -> None:
    source = 'self._log.error("a write failed")\nlog.info(f"took {n}")\nself._log.info("daemon_ready", n=1)\n'
    found = [event for _, event in events(source) if not EVENT.fullmatch(event)]
    assert found == ["a write failed", "f'took {n}'"]
