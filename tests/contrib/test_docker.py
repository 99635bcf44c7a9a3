"""The image's recipe: a linter has nothing to say, and what it names is there. It is built where there is Docker."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from semanticd.adapters.config.schema import declared

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "contrib" / "docker" / "Dockerfile"
TEXT = FILE.read_text(encoding="utf-8")
LET_IN = [
    line[1:]
    for line in FILE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    if line.startswith("!")
]


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed (`make setup` does)")
    done = subprocess.run([program, str(FILE)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_is_there_and_not_ignored() -> None:
    copied = {
        name.removeprefix("./") for line in re.findall(r"(?m)^COPY (.+) \S+$", TEXT) for name in line.split()
    }
    assert copied == set(LET_IN)
    assert all((ROOT / name).exists() for name in copied)


def test_its_variables_are_settings_and_its_folders_are_the_users() -> None:
    given = dict(re.findall(r"\b(SEMANTIC_[A-Z_]+)=(\S+)", TEXT.split("WORKDIR")[0].split("ENV ")[1]))
    assert set(given) <= {one.env for one in declared()}
    made = TEXT.split("install --directory")[1].split("\n")[0]
    for name, value in given.items():
        if name.endswith("_DIR"):
            assert any(value.startswith(folder) for folder in re.findall(r"/\S+", made)), name
