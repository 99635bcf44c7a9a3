"""The check of wording finds the listed phrases in pages, messages and descriptions, and nothing in code."""

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
    (tmp_path / "semanticd" / "module.py").write_text(
        '"""Agents whose `nobody` is None. Where there are none, nothing is sent."""\n'
        + "def told(beside: str) -> str:\n"
        + '    """Whether it is there."""\n'
        + "    # Where there is no agent, the key is none of those that nobody has.\n"
        + '    return "there are no agents"\n'
    )
    return tmp_path


def test_code_and_plain_words_are_no_findings(repository: Path) -> None:
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


@pytest.mark.parametrize(
    "text",
    [
        "What is left of the budget.",
        "Who takes its place.",
        "Whatever runs longest.",
        "Whose turn it is.",
        "Where its text begins.",
        "When it was loaded.",
        "Why it cannot be read.",
        "How many requests hold it.",
        "Which agents are listed.",
        "Those of the first kind.",
        "That is left of it.",
        "Whether what runs fits.",
        "Bytes of a block. What is left is freed.",
        "Bytes that nobody uses.",
    ],
)
def test_a_clause_without_a_noun_is_found_in_every_description(repository: Path, text: str) -> None:
    (repository / "semantic_tui" / "module.py").write_text(
        f'"""{text}"""\n\nSIZE = 1\n"""{text}"""\n\n\nclass Room:\n    """{text}"""\n\n    size: int\n'
        f'    """{text}"""\n\n    def __init__(self) -> None:\n        """{text}"""\n        self.left = 0\n'
        f'        """{text}"""\n'
    )
    status, printed = check(repository)
    assert status == 1
    assert [line.split(": ")[0].split(":")[1] for line in printed.splitlines()] == [
        "1", "4", "8", "11", "14", "16",
    ]  # fmt: skip


def test_a_comment_without_a_noun_is_found(repository: Path) -> None:
    (repository / "semantic_tui" / "module.py").write_text(
        "# What is hot.\n\n# Where none is hot, all are.\n"
    )
    status, printed = check(repository)
    assert (status, printed.count("\n")) == (1, 1)
    assert printed.startswith("semantic_tui/module.py:1: 'What is hot.'")
