"""Tests that need a real model are left out by their marker, and by the word of the system's description."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = ("tests/e2e/test_resume.py", "tests/e2e/test_upgrade.py")
"""One that needs a model, and one that does not."""


def collected(*options: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options, *FILES],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    return {line for line in done.stdout.splitlines() if "::" in line}


@pytest.mark.parametrize(("word", "marker"), [("WithModel", "model"), ("not WithModel", "not model")])
def test_the_word_selects_what_the_marker_does(word: str, marker: str) -> None:
    by_word = collected("-k", word)
    assert by_word
    assert by_word == collected("-m", marker)
