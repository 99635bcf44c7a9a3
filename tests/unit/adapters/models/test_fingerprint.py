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


@pytest.mark.parametrize(
    "name",
    [
        "modeling_mine.py",
        "qwen.tiktoken",
        "added_tokens.json",
        "code/layers.py",
        "chat_templates/tool.jinja",
        "tekken.json",
    ],
)
def test_it_covers_every_file_that_a_loader_may_read(folder: Path, name: str) -> None:
    before = fingerprint_of(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("one")
    added = fingerprint_of(folder)
    (folder / name).write_text("two")
    assert len({before, added, fingerprint_of(folder)}) == 3


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_read_again(folder: Path) -> None:
    weights = folder / "model.safetensors"
    before, stat = fingerprint_of(folder), weights.stat()
    replacement = folder / "other"
    replacement.write_text("x" * stat.st_size)
    replacement.replace(weights)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert fingerprint_of(folder) != before


def test_a_file_rewritten_in_place_with_its_old_time_is_read_again(folder: Path) -> None:
    weights = folder / "model.safetensors"
    before, stat = fingerprint_of(folder), weights.stat()
    weights.write_text("x" * stat.st_size)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint_of(folder) != before


@pytest.mark.parametrize(
    "name", ["LICENSE", "picture.png", ".cache/download.json", "model.gguf", "__pycache__/a.pyc"]
)
def test_what_no_loader_reads_does_not_matter(folder: Path, name: str) -> None:
    before = fingerprint_of(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("hello")
    assert fingerprint_of(folder) == before


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
