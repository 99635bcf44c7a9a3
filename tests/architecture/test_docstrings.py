"""A docstring names what a function raises in a section `Raises:`, never in the text before it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLAUSE = re.compile(r";\s+(?:it\s+)?raises\s|\bRaises\s+[^\s:]")
"""`; raises X when …` and `Raises X.`; a verb in another sentence, such as "what it raises is noted", is right."""


def clauses(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each clause that belongs into a section `Raises:`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = re.split(r"^Raises:$", ast.get_docstring(node) or "", flags=re.MULTILINE)[0]
            for found in CLAUSE.finditer(text):
                yield node.lineno, " ".join(text[found.start() : found.end() + 40].split())


@pytest.mark.parametrize("package", ["semanticd", "semantic_tui", "contrib"])
def test_what_a_function_raises_is_in_a_section(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, text in clauses(path.read_text())
    ]
    assert not found, "\n".join(found)


def test_a_clause_is_found_in_the_first_line_and_below() -> None:
    source = 'def f():\n    """Do it; raises `OSError`."""\nasync def g():\n    """Do it.\n\n    Raises OSError."""\n'
    assert [text for _, text in clauses(source)] == ["; raises `OSError`.", "Raises OSError."]


def test_a_section_and_another_sentence_are_no_findings() -> None:
    source = 'def f():\n    """Do it; what `g` raises is noted.\n\n    Raises:\n        OSError: Always.\n    """\n'
    assert not list(clauses(source))
