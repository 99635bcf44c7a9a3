"""Each defence that the page on threats names is held by a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "threat-model.md"


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(
        r"`(?:tests/)?((?:unit|integration|contract|contrib|e2e|docs|architecture)/[\w/]+\.py)(?:::(\w+))?`",
        PAGE.read_text("utf-8"),
    )
    assert len(named) > 25
    for path, test in named:
        text = (ROOT / "tests" / path).read_text("utf-8")
        assert not test or f"def {test}(" in text, (path, test)


def test_every_row_of_threats_names_a_test() -> None:
    rows = [
        line
        for line in PAGE.read_text("utf-8").splitlines()
        if line.startswith("| ") and line.count("|") == 4
    ]
    threats = [row for row in rows if not row.startswith(("| threat", "| asset"))]
    defended = threats[threats.index(next(row for row in threats if "spelling of a path" in row)) :]
    assert [row for row in defended if ".py::test_" not in row] == []
