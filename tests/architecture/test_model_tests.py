"""Tests that need a real model are left out by their marker, and by the word of the system's description."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = ("tests/e2e/test_resume.py", "tests/e2e/test_upgrade.py")
"""One that needs a model, and one that does not."""
WORDS = [("WithModel", "model"), ("not WithModel", "not model")]
COLLECT = """
import contextlib, io, json, sys
import pytest
def collected(*options):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *options, *sys.argv[1:]])
    return [line for line in printed.getvalue().splitlines() if "::" in line]
print(json.dumps({option: collected(*option.split(" ", 1)) for option in json.load(sys.stdin)}))
"""


@pytest.fixture(scope="module")
def collected() -> dict[str, list[str]]:
    """Return the tests that each option selects. One process collects them all: most of its time are the imports."""
    options = [f"-k {word}" for word, _ in WORDS] + [f"-m {marker}" for _, marker in WORDS]
    done = subprocess.run(
        [sys.executable, "-c", COLLECT, *FILES],
        input=json.dumps(options), cwd=REPOSITORY, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("word", "marker"), WORDS)
def test_the_word_selects_what_the_marker_does(
    word: str, marker: str, collected: dict[str, list[str]]
) -> None:
    by_word = collected[f"-k {word}"]
    assert by_word
    assert by_word == collected[f"-m {marker}"]
