"""What the loader says of a model that it loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from semanticd.adapters.mlx.model.gguf.convert import convert
from semanticd.adapters.mlx.model.loader import MlxModelLoader
from semanticd.adapters.models.registry import ModelRegistry
from semanticd.application.ports.inference import finish_loading
from tests.fakes.tiny_folder import write_tiny_model


@pytest.mark.parametrize(("said", "thinks"), [(None, False), (True, True), (False, False)])
def test_an_entry_of_the_configuration_says_whether_a_model_thinks(
    tmp_path: Path, said: bool | None, thinks: bool
) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    registry = ModelRegistry(tmp_path / "models", convert_gguf=convert)
    installed = registry.pull(str(folder), lambda progress: None)
    installed = replace(installed, entry=replace(installed.entry, thinking=said))
    loader = MlxModelLoader(block_tokens=16, precision="exact", available_bytes=lambda: 8 << 30)
    loaded = finish_loading(loader.load(installed, on_progress=lambda share: None))
    assert loaded.description["thinks"] is thinks
