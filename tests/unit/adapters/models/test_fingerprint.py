"""A model's fingerprint changes with everything that decides what it computes, and is computed once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from semanticd.adapters.models.fingerprint import fingerprint_of

FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).write_text(f"content of {name}")
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_it_covers_weights_config_tokenizer_and_chat_template(folder: Path, name: str) -> None:
    before = fingerprint_of(folder)
    (folder / name).write_text("changed")
    assert fingerprint_of(folder) != before


def test_equal_files_in_another_place_have_the_same_one(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    for name in FILES:
        (other / name).write_text(f"content of {name}")
    assert fingerprint_of(other) == fingerprint_of(folder)


def test_a_readme_does_not_matter(folder: Path) -> None:
    before = fingerprint_of(folder)
    (folder / "README.md").write_text("hello")
    assert fingerprint_of(folder) == before


def test_it_is_computed_once_per_set_of_files(folder: Path) -> None:
    read: list[int] = []
    first = fingerprint_of(folder, lambda done, total: read.append(done))
    assert read
    read.clear()
    assert fingerprint_of(folder, lambda done, total: read.append(done)) == first
    assert read == []
    os.utime(folder / "config.json", ns=(1, 1))
    assert fingerprint_of(folder, lambda done, total: read.append(done)) == first
    assert read, "a file that may have changed is read again"


def test_a_damaged_memory_is_ignored(folder: Path) -> None:
    first = fingerprint_of(folder)
    (folder / ".fingerprint.json").write_text("{ damaged")
    assert fingerprint_of(folder) == first
