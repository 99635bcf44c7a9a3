"""What the loader says of a model that it loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from semanticd.adapters.mlx.model.gguf.convert import convert
from semanticd.adapters.mlx.model.loader import ComputeOptions, MlxModelLoader
from semanticd.adapters.models.registry import ModelRegistry
from semanticd.application.ports.inference import finish_loading
from tests.fakes.telemetry import RecordingLog
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


@pytest.mark.parametrize(("available", "dtype"), [(8 << 30, "float32"), (1000, "bfloat16")])
def test_a_model_that_stays_in_half_precision_on_a_cpu_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: int, dtype: str
) -> None:
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
    folder = write_tiny_model(tmp_path / "tiny")
    weights = mx.load(str(folder / "model.safetensors"))
    halves = {name: array.astype(mx.bfloat16) for name, array in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), halves, metadata={"format": "mlx"})
    registry, log = ModelRegistry(tmp_path / "models", convert_gguf=convert), RecordingLog()
    installed = registry.pull(str(folder), lambda progress: None)
    loader = MlxModelLoader(
        block_tokens=16,
        precision="exact",
        available_bytes=lambda: available,
        compute=ComputeOptions(cpu_math=False),
        log=log,
    )
    loaded = finish_loading(loader.load(installed, on_progress=lambda share: None))
    assert loaded.description["compute_dtype"] == dtype
    assert log.events("warning") == ([] if dtype == "float32" else ["half_precision_on_cpu"])
