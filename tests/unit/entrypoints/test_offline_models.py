"""`semanticd models` without a daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from semanticd.adapters.models.registry import ModelRegistry
from semanticd.domain.errors import ModelNotFoundError
from semanticd.domain.memory_plan import device_memory
from semanticd.entrypoints.offline_models import OfflineModels, convert_gguf


def offline(tmp_path: Path, *, configured: str | None = None, **user_models: object) -> OfflineModels:
    models = {name: {"sources": [source]} for name, source in user_models.items()}
    registry = ModelRegistry(tmp_path / "models", convert_gguf=convert_gguf, user_models=models)
    return OfflineModels(registry, device_memory("cpu", 8 << 30), configured=configured)


@pytest.mark.parametrize(("configured", "found"), [(None, "smollm2-135m"), ("qwen3-8b", "qwen3-8b")])
def test_the_default_is_the_model_that_a_daemon_would_serve(
    tmp_path: Path, configured: str | None, found: str
) -> None:
    assert offline(tmp_path, configured=configured).info("default").id == found


def test_a_model_that_is_called_default_keeps_its_name(tmp_path: Path) -> None:
    assert offline(tmp_path, default="hf:o/own").info("default").id == "default"


def test_nothing_is_removed_under_a_name_that_means_whatever_is_served(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        offline(tmp_path).remove("default")
