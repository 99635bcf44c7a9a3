"""Every link between our own pages leads to a file and a heading that are there; the site needs no other host."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.markdown_page import Page, read_page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "contrib").rglob("*.md")])


def _broken(page: Page) -> list[str]:
    found = []
    for line, target in page.links:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.path.parent / path).resolve() if path else page.path
        if not file.exists():
            found.append(f"{page.path.name}:{line}: there is no {target}")
        elif DOCS in page.path.parents and DOCS not in file.parents:
            found.append(
                f"{page.path.name}:{line}: {target} is outside of docs/, and so not on the built site"
            )
        elif anchor and file.suffix == ".md" and anchor not in read_page(file).anchors:
            found.append(f"{page.path.name}:{line}: {file.name} has no heading #{anchor}")
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(path: Path) -> None:
    assert _broken(read_page(path)) == []


def test_a_link_to_no_file_and_one_to_no_heading_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A head\n[a](#a-head) [b](gone.md) [c](page.md#none)\n`[d](code.md)`\n```\n[e](code.md)\n```\n"
    )
    assert _broken(read_page(page)) == [
        "page.md:2: there is no gone.md",
        "page.md:2: page.md has no heading #none",
    ]


def test_the_navigation_names_every_page_once() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"(?m)^\s+- .*?([\w/.-]+\.md)\s*$", settings)
    assert sorted(named) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def test_the_built_site_asks_no_other_host() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert re.search(r"(?m)^  font: false$", settings)
    assert not re.search(r"https?://", settings)
    foreign = re.compile(r"!\[[^\]]*\]\(https?:|<(?:img|script|link|iframe)\b")
    for path in DOCS.rglob("*.md"):
        assert not foreign.search(path.read_text(encoding="utf-8")), path
