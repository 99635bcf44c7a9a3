"""The check of wording finds what it looks for, in pages and in messages, and nothing in code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "contrib" / "dev" / "checks" / "wording.py"


def check(root: Path) -> tuple[int, str]:
    """Run the check on a folder; returns its exit status and what it printed."""
    done = subprocess.run(
        [sys.executable, SCRIPT, root], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with a page and a module that are fine."""
    for folder in ("docs", "semanticd", "semantic_tui"):
        (tmp_path / folder).mkdir()
    (tmp_path / "README.md").write_text(
        "Requests continue. There is no limit.\n\n```\nthe job goes on\n```\n"
    )
    (tmp_path / "CHANGELOG.md").write_text("`nobody` owns it; it is no longer there.\n")
    (tmp_path / "semanticd" / "module.py").write_text('"""Nobody is told."""\nTEXT = "there are no agents"\n')
    return tmp_path


def test_docstrings_code_and_plain_words_are_no_findings(repository: Path) -> None:
    assert check(repository) == (0, "wording: no findings\n")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("The client is told.", "told"),
        ("Whoever asks waits.", "Whoever"),
        ("Other requests go on.", "go on"),
        ("That is no number.", "is no n"),
        ("The answer is none.", "is none"),
        ("Least level that is logged.", "Least level that"),
        ("A folder for everybody.", "everybody"),
        ("All but for one.", "but for"),
        ("Memory is given back.", "given back"),
        ("Blocks stay for good.", "for good"),
        ("An older block makes way.", "makes way"),
        ("A peer is left alone.", "left alone"),
        ("There is no word from the daemon.", "no word"),
    ],
)
def test_a_phrase_is_found_in_a_page_and_in_a_message(repository: Path, text: str, word: str) -> None:
    (repository / "docs" / "page.md").write_text(f"# Page\n\n{text}\n")
    (repository / "semantic_tui" / "module.py").write_text(f'TEXT = "{text}"\n')
    status, printed = check(repository)
    assert status == 1
    assert [line.split(": ")[0] for line in printed.splitlines()] == [
        "docs/page.md:3",
        "semantic_tui/module.py:1",
    ]
    assert all(word in line for line in printed.splitlines())
