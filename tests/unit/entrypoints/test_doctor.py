"""What the doctor makes of the facts it finds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.config import Settings
from semanticd.domain.memory_plan import DeviceKind, device_memory
from semanticd.entrypoints.doctor import check_blas, check_folder, check_memory, room_on_disk

GIB = 1024**3


@pytest.mark.parametrize("reserve_gb", [0, 10, 50])
def test_a_full_disk_is_an_error_whatever_the_reserve(reserve_gb: int) -> None:
    for free_bytes in (0, GIB // 4):
        found = room_on_disk(Path("/caches"), free_bytes=free_bytes, reserve_bytes=reserve_gb * GIB)
        assert found.state == "error"
        assert "`semanticd cache prune SIZE`" in found.advice
        assert ("no block is written" in found.message) is (reserve_gb > 0)


@pytest.mark.parametrize(
    ("free_gb", "reserve_gb", "state"),
    [
        (1, 0, "warning"),
        (1, 10, "warning"),
        (9, 10, "warning"),
        (9, 0, "ok"),
        (40, 50, "warning"),
        (60, 50, "ok"),
    ],
)
def test_little_room_or_less_than_the_reserve_is_a_warning(free_gb: int, reserve_gb: int, state: str) -> None:
    found = room_on_disk(Path("/caches"), free_bytes=free_gb * GIB, reserve_bytes=reserve_gb * GIB)
    assert found.state == state
    assert ("no block is written" in found.message) is (free_gb < reserve_gb)


def settings_with(tmp_path: Path, **mlx: Any) -> Settings:
    defaults = Settings()
    paths = replace(defaults.paths, models_dir=tmp_path / "models")
    return replace(defaults, mlx=replace(defaults.mlx, **mlx), paths=paths)


@pytest.mark.parametrize(
    ("gb", "mlx", "state", "words"),
    [
        (16, {}, "ok", "cache budget by what weights leave, 1.1 GiB with deepseek-coder-v2-lite"),
        (16, {"cache_budget_mb": 1024}, "ok", "cache budget 1.0 GiB"),
        (16, {"cache_budget_mb": 4096}, "warning", "cache budget 4.0 GiB"),
        (16, {"model_id": "qwen3-coder-30b"}, "error", "qwen3-coder-30b does not fit"),
        (16, {"model_id": "no such model"}, "ok", "cache budget by what weights leave"),
        (8, {}, "ok", "with smollm2-135m"),
    ],
)
def test_the_memory_is_judged_by_the_model_to_serve(
    tmp_path: Path, gb: int, mlx: dict[str, Any], state: str, words: str
) -> None:
    found = check_memory(settings_with(tmp_path, **mlx), device_memory("metal", gb * GIB))
    assert found.state == state
    assert words in found.message
    assert bool(found.advice) == (state != "ok")


def test_no_blas_is_missed_where_a_gpu_computes() -> None:
    found = check_blas("cuda")
    assert (found.state, found.advice) == ("ok", "")
    assert "not used" in found.message


@pytest.mark.parametrize(("limit_mb", "missing"), [(2400, 0), (1900, 404)])
@pytest.mark.parametrize("kind", ["cpu", "metal"])
def test_weights_that_will_stay_packed_on_a_cpu_are_a_warning_with_what_is_missing(
    tmp_path: Path, kind: DeviceKind, limit_mb: int, missing: int
) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    shape = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}
    quantization = {"bits": 4, "group_size": 64}
    (folder / "config.json").write_text(json.dumps({**shape, "quantization": quantization}))
    whole = 134_515_008
    head = json.dumps(
        {
            "a.weight": {"dtype": "U32", "shape": [1, whole // 8], "data_offsets": [0, 0]},
            "a.scales": {"dtype": "F16", "shape": [1, whole // 64], "data_offsets": [0, 0]},
            "a.biases": {"dtype": "F16", "shape": [1, whole // 64], "data_offsets": [0, 0]},
        }
    ).encode()
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    (folder / "tokenizer.json").write_text("{}")
    settings = settings_with(tmp_path, model_id=str(folder), memory_mb=limit_mb)
    found = check_memory(settings, device_memory(kind, 24 * GIB, limit_bytes=limit_mb << 20))
    if kind == "metal" or not missing:
        assert found.state == "ok"
    else:
        assert found.state == "warning"
        assert found.advice is not None
        assert f"give it {missing} MiB more" in found.advice


@pytest.mark.parametrize("name", ["blocks", "quarantine"])
def test_a_file_in_the_place_of_a_folder_of_blocks_is_an_error(tmp_path: Path, name: str) -> None:
    tmp_path.chmod(0o700)
    assert check_folder("caches", tmp_path, private=True).state == "ok"
    (tmp_path / name).touch()
    found = check_folder("caches", tmp_path, private=True)
    assert (found.state, found.message) == ("error", f"{tmp_path / name} is not a folder")


@pytest.mark.parametrize("target", ["link", "nowhere"])
def test_a_link_that_leads_to_no_folder_is_an_error(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / target)
    assert check_folder("logs", tmp_path / "link", private=False).state == "error"
    assert check_folder("logs", tmp_path / "link" / "inside", private=False).state == "error"


def test_a_size_below_a_gib_is_not_rounded_to_none(tmp_path: Path) -> None:
    found = check_memory(settings_with(tmp_path, cache_budget_mb=32), device_memory("cpu", 8 * GIB))
    assert "cache budget 32.0 MiB" in found.message
    disk = room_on_disk(tmp_path, free_bytes=40 << 20, reserve_bytes=50 << 20)
    assert disk.message.startswith("40.0 MiB free")
    assert "less than 50.0 MiB are free" in disk.message
