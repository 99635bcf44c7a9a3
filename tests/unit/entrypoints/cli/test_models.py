"""`semanticd models` without a daemon: what it lists, and what it says when it removes something."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from semanticd.adapters.models.registry import ModelRegistry
from semanticd.entrypoints.cli import main


def write_folder(gguf: Path, folder: Path, *, bits: int | None, on_progress: object) -> None:
    """Convert a file that is no real GGUF."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    """Live in a folder with a GGUF file, of which a model was made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SEMANTIC_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("SEMANTIC_MODELS_DIR", str(tmp_path / "models"))
    (tmp_path / "mine.gguf").write_bytes(b"weights")
    registry = ModelRegistry(tmp_path / "models", convert_gguf=write_folder)
    registry.pull(str(tmp_path / "mine.gguf"), lambda progress: None)
    return registry


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run a command in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["semanticd", *words])
    try:
        main()
    except SystemExit as error:
        return int(error.code or 0)
    return 0


@pytest.mark.parametrize("typed", ["mine.gguf", "./mine.gguf", "~/mine.gguf", "mine"])
def test_removing_says_which_folder_went_and_that_the_users_file_stays(
    models: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], typed: str,
) -> None:  # fmt: skip
    (installed,) = models.installed()
    assert run(monkeypatch, "models", "rm", typed) == 0
    said = capsys.readouterr()
    assert f"path:        {installed.path}\n" in said.out
    assert said.err == f"the file {tmp_path / 'mine.gguf'} is your own and was not deleted\n"
    assert (tmp_path / "mine.gguf").exists()
    assert not Path(installed.path).exists()
    assert run(monkeypatch, "models", "rm", typed) == 1
    assert "is not installed" in capsys.readouterr().err


def test_a_file_that_is_gone_is_not_said_to_be_left_alone(
    models: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.gguf").unlink()
    assert run(monkeypatch, "models", "rm", "mine.gguf") == 0
    said = capsys.readouterr()
    assert "freed_bytes:" in said.out
    assert said.err == ""
    assert models.installed() == []


def test_what_is_not_here_is_listed_with_the_size_of_its_download(
    models: ModelRegistry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "models", "list") == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert rows["mine"][1:5] == ["installed", "4096", "7", "B"]
    assert rows["qwen3-8b"][1:5] == ["-", "40960", "4.3", "GiB"]
    assert run(monkeypatch, "models", "info", "qwen3-8b") == 0
    assert "download_bytes:      4.3 GiB" in capsys.readouterr().out
    assert run(monkeypatch, "models", "info", "mine") == 0
    assert "download_bytes" not in capsys.readouterr().out
