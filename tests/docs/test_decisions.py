"""Every decision page states its status and date, the decision, the reasons, what was rejected, and the cost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "decisions"
PAGES = sorted(FOLDER.glob("0*.md"))
PARTS = ["Status", "Decision", "Why", "Rejected", "Cost"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_decision_has_its_parts_in_order(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"(?m)^\*\*(\w+)\.\*\* ", text) == PARTS
    assert re.search(r"(?m)^\*\*Status\.\*\* (?:Accepted|Replaced), 20\d\d-\d\d-\d\d\.", text)


def test_the_index_lists_every_decision_with_its_title_and_date() -> None:
    rows = re.findall(
        r"\| (\d+) \| \[(.+?)\]\((.+?)\) \| (\S+) \| (\S+) \|", (FOLDER / "index.md").read_text()
    )
    expected = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        number, title = re.match(r"# (\d+)\. (.+)", text).groups()  # type: ignore[union-attr]
        status, date = re.search(r"\*\*Status\.\*\* (\w+), (\S+)\.", text).groups()  # type: ignore[union-attr]
        expected.append((number, title, path.name, status, date))
    assert rows == expected
