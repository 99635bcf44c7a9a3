"""What the loader says of a model that it loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model, quantize_model, save_model

from semanticd.adapters.mlx.model.gguf.convert import convert
from semanticd.adapters.mlx.model.loader import ComputeOptions, MlxModelLoader
from semanticd.adapters.models.registry import ModelRegistry
from semanticd.application.ports.inference import finish_loading
from semanticd.domain.memory_plan import DeviceMemory, WeightRoom
from tests.fakes.telemetry import RecordingLog
from tests.fakes.tiny_folder import write_tiny_model

ROOMY = DeviceMemory("cpu", 64 << 30, 64 << 30)


@pytest.mark.parametrize(("said", "thinks"), [(None, False), (True, True), (False, False)])
def test_an_entry_of_the_configuration_says_whether_a_model_thinks(
    tmp_path: Path, said: bool | None, thinks: bool
) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    registry = ModelRegistry(tmp_path / "models", convert_gguf=convert)
    installed = registry.pull(str(folder), lambda progress: None)
    installed = replace(installed, entry=replace(installed.entry, thinking=said))
    loader = MlxModelLoader(block_tokens=16, precision="exact", room=WeightRoom(ROOMY, lambda: 8 << 30))
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
        room=WeightRoom(ROOMY, lambda: available),
        compute=ComputeOptions(cpu_math=False),
        log=log,
    )
    loaded = finish_loading(loader.load(installed, on_progress=lambda share: None))
    assert loaded.description["compute_dtype"] == dtype
    assert log.events("warning") == ([] if dtype == "float32" else ["half_precision_on_cpu"])


@pytest.mark.parametrize("free", [8 << 30, 1000])
def test_weights_that_stay_packed_on_a_cpu_say_what_memory_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
    model, config = load_model(write_tiny_model(tmp_path / "whole"))
    model, config = quantize_model(model, config, group_size=32, bits=4)
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_model(folder, model)
    (folder / "config.json").write_text(json.dumps(config))
    for file in (tmp_path / "whole").glob("*.json"):
        if not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())
    registry, log = ModelRegistry(tmp_path / "models", convert_gguf=convert), RecordingLog()
    installed = registry.pull(str(folder), lambda progress: None)
    room = WeightRoom(ROOMY, lambda: free)
    loader = MlxModelLoader(
        block_tokens=16, precision="exact", room=room, compute=ComputeOptions(cpu_math=False), log=log
    )
    loaded = finish_loading(loader.load(installed, on_progress=lambda share: None))
    wide = installed.wide_bytes
    assert wide is not None
    if free > wide:
        assert "warning" not in loaded.description
        assert log.events("warning") == []
        # What is expected of the files is what their weights take.
        assert wide == loaded.weights_bytes == installed.held_bytes(ROOMY)
    else:
        missing = -(-(wide * 3 // 2 - free) // (1 << 20))
        assert f"compute many times slower: give it {missing} MiB more" in loaded.description["warning"]
        assert log.events("warning") == ["packed_weights_on_cpu"]
    metal = DeviceMemory("metal", 64 << 30, 64 << 30)
    assert installed.held_bytes(metal) == installed.held_bytes(None) == installed.size_bytes
    assert installed.held_bytes(DeviceMemory("cpu", 1 << 30, 1 << 30)) == installed.size_bytes
