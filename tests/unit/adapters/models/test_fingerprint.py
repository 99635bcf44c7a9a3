"""A model's fingerprint changes with everything that decides what it computes, and is computed once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from semanticd.adapters.models.fingerprint import fingerprint_of, settings_digest

FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    for name in FILES:
        (made / name).write_text(f"content of {name}")
    return made


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "models" / ".fingerprints"


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


def test_sampling_defaults_leave_blocks_usable_and_are_told_apart_all_the_same(folder: Path) -> None:
    before, digests = fingerprint_of(folder), [settings_digest(folder)]
    for text in ('{"temperature": 0.6}', '{"temperature": 0.7}'):
        (folder / "generation_config.json").write_text(text)
        digests.append(settings_digest(folder))
        assert fingerprint_of(folder) == before
    assert digests[0] == ""
    assert len(set(digests)) == 3


def test_a_file_of_that_name_in_a_folder_below_counts(folder: Path) -> None:
    before = fingerprint_of(folder)
    (folder / "code").mkdir()
    (folder / "code" / "generation_config.json").write_text("{}")
    assert fingerprint_of(folder) != before


def test_a_readme_does_not_matter(folder: Path) -> None:
    before = fingerprint_of(folder)
    (folder / "README.md").write_text("hello")
    assert fingerprint_of(folder) == before


def test_it_is_computed_once_per_set_of_files(folder: Path, memory: Path) -> None:
    read: list[int] = []

    def again(of: Path = folder) -> str:
        read.clear()
        return fingerprint_of(of, lambda done, total: read.append(done), memory_dir=memory)

    first = again()
    assert read
    assert again() == first
    assert read == []
    os.utime(folder / "config.json", ns=(1, 1))
    assert again() == first
    assert read, "a file that may have changed is read again"
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    assert again(other) == first
    assert read, "a copy has facts of its own"


def test_nothing_is_written_into_the_models_folder(folder: Path, memory: Path) -> None:
    before = sorted(folder.rglob("*")), folder.stat().st_mtime_ns
    fingerprint_of(folder, memory_dir=memory)
    fingerprint_of(folder)
    assert (sorted(folder.rglob("*")), folder.stat().st_mtime_ns) == before
    assert [path.stat().st_size > 0 for path in memory.iterdir()] == [True]


def test_a_damaged_memory_is_ignored(folder: Path, memory: Path) -> None:
    first = fingerprint_of(folder, memory_dir=memory)
    for path in memory.iterdir():
        path.write_text("{ damaged")
    assert fingerprint_of(folder, memory_dir=memory) == first


def test_a_memory_that_cannot_be_written_costs_time_only(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert fingerprint_of(folder, memory_dir=tmp_path / "file") == fingerprint_of(folder)
