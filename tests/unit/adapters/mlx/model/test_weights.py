"""What is said when a model cannot be loaded, and what loading does to weights on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import quantize_model, save_model

from semanticd.adapters.mlx.model import weights
from semanticd.adapters.mlx.model.weights import load_tokenizer, load_weights
from semanticd.application.ports.inference import finish_loading
from semanticd.domain.errors import BrokenModelError, ModelLoadError
from tests.fakes.tiny_folder import write_tiny_model as write_model

GIB = 1024**3


def load(folder: Path, *, cpu: bool = True, available: int = 8 * GIB) -> tuple[object, dict[str, object]]:
    """Load without telling how far it is."""
    steps = load_weights(folder, device_is_cpu=cpu, available_bytes=available, on_progress=lambda share: None)
    return finish_loading(steps)


def test_progress_goes_from_nothing_to_all(tmp_path: Path) -> None:
    told: list[float] = []
    steps = load_weights(
        write_model(tmp_path / "m"), device_is_cpu=True, available_bytes=8 * GIB, on_progress=told.append
    )
    finish_loading(steps)
    assert told[0] == 0.0
    assert told[-1] == 1.0
    assert told == sorted(told)


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{ not json")


def _written(name: str, content: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(content)

    return damage


def _half(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _unknown(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nobody_knows"}))


def test_a_reason_without_words_is_named_by_its_kind(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": -5}))
    with pytest.raises(BrokenModelError, match=r"cannot load the 'llama' model in .*/m: \w+"):
        load(folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_without("config.json"), "config.json is missing"),
        (_without("model.safetensors"), "no model*.safetensors"),
        (_no_json, "not valid JSON"),
        (_written("config.json", "[]"), "config.json is not a JSON object"),
        (_written("generation_config.json", "[]"), "generation_config.json is not a JSON object"),
        (_written("generation_config.json", "null"), "generation_config.json is not a JSON object"),
        (_written("generation_config.json", "{bad"), "generation_config.json is not valid JSON"),
        (_written("config.json", "[" * 100_000), "config.json is not valid JSON"),
        (
            _written("config.json", '{"num_hidden_layers": 1000000000}'),
            "`num_hidden_layers` in config.json is 1000000000, and no model has more than 4096 layers",
        ),
        (
            _written("config.json", '{"text_config": {"n_layer": 1e300}}'),
            "`n_layer` in config.json is 1e+300, and no model has more",
        ),
        (
            _written("generation_config.json", '{"eos_token_id": "x"}'),
            "`eos_token_id` in generation_config.json is 'x'",
        ),
        (
            _written("generation_config.json", '{"eos_token_id": [1, null]}'),
            "in generation_config.json is '[1, None]'",
        ),
        (_written("config.json", "{}"), "config.json names no `model_type`"),
        (_half, "cannot load"),
        (_unknown, "does not know the architecture 'nobody_knows'"),
    ],
    ids=[
        "no config",
        "no weights",
        "no json",
        "config is a list",
        "generation is a list",
        "generation is null",
        "generation is no json",
        "config without end",
        "a billion layers",
        "more layers than numbers",
        "end is a word",
        "an end is null",
        "config is empty",
        "truncated",
        "unknown architecture",
    ],
)
def test_a_folder_that_cannot_be_loaded_says_why(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    folder = write_model(tmp_path / "m")
    damage(folder)
    with pytest.raises(BrokenModelError) as refused:
        load(folder)
    assert words in refused.value.message


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelLoadError, match="no tokenizer"):
        load_tokenizer(folder)


def quantized_folder(tmp_path: Path, *, bits: int = 4, dtype: mx.Dtype = mx.float32) -> Path:
    """Return a model of so many bits, and of this type where it is not packed."""
    model, config = load(write_model(tmp_path / "m"))
    model.set_dtype(dtype)  # type: ignore[attr-defined]
    quantized, config = quantize_model(model, config, group_size=32, bits=bits)
    folder = tmp_path / "q"
    folder.mkdir()
    save_model(folder, quantized)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def dtypes(model: object) -> set[mx.Dtype]:
    """Return the types of a model's weights."""
    return {array.dtype for _, array in tree_flatten(model.parameters())}  # type: ignore[attr-defined]


def test_on_the_cpu_quantized_weights_become_float32_and_compute_the_same(tmp_path: Path) -> None:
    folder = quantized_folder(tmp_path)
    packed, _ = load(folder, cpu=False)
    wide, _ = load(folder, cpu=True)
    assert mx.uint32 in dtypes(packed)
    assert dtypes(wide) == {mx.float32}
    prompt = mx.array([[1, 2, 3, 4]])
    expected, found = np.array(packed(prompt)), np.array(wide(prompt))  # type: ignore[operator]
    assert np.allclose(expected, found, atol=1e-3)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_that_fit_in_float32_just_so_become_it(tmp_path: Path, bits: int) -> None:
    folder = quantized_folder(tmp_path, bits=bits, dtype=mx.bfloat16)
    wide, _ = load(folder)
    num_bytes = sum(array.nbytes for _, array in tree_flatten(wide.parameters()))  # type: ignore[attr-defined]
    assert dtypes(load(folder, available=num_bytes * 3 // 2 + 2)[0]) == {mx.float32}
    assert mx.uint32 in dtypes(load(folder, available=num_bytes * 3 // 2 - 2)[0])


def test_where_only_packed_weights_fit_what_they_are_multiplied_with_is_float32(tmp_path: Path) -> None:
    folder = quantized_folder(tmp_path, dtype=mx.float16)
    whole, wide = load(folder, cpu=False)[0], load(folder)[0]
    num_bytes = sum(array.nbytes for _, array in tree_flatten(wide.parameters()))  # type: ignore[attr-defined]
    packed, _ = load(folder, available=num_bytes)
    assert dtypes(whole) == {mx.uint32, mx.float16}
    assert dtypes(packed) == {mx.uint32, mx.float32}
    assert (weights.compute_dtype(whole), weights.compute_dtype(packed)) == ("float16", "float32")
    prompt = mx.array([[1, 2, 3, 4]])
    expected, found = np.array(wide(prompt)), np.array(packed(prompt))  # type: ignore[operator]
    # Wide ones that had been unpacked in half precision would differ a hundred times more.
    assert np.abs(expected - found).max() < 1e-5 * np.abs(expected).max()


def test_where_memory_is_short_weights_stay_as_they_are(tmp_path: Path) -> None:
    model, _ = load(quantized_folder(tmp_path), available=1000)
    assert mx.uint32 in dtypes(model)


def _edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    data = json.loads((folder / "tokenizer.json").read_text())
    change(data)
    (folder / "tokenizer.json").write_text(json.dumps(data))
    return folder


def _without_spaces(data: dict[str, Any]) -> None:
    data["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": ""}


def _without_line_ends(data: dict[str, Any]) -> None:
    data["normalizer"] = {"type": "Replace", "pattern": {"String": "\n"}, "content": " "}


@pytest.mark.parametrize("change", [_without_spaces, _without_line_ends])
def test_a_tokenizer_that_loses_text_is_refused_with_what_it_made_of_it(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    folder = _edited(write_model(tmp_path / "m"), change)
    with pytest.raises(ModelLoadError, match="the model would not see what was written"):
        load_tokenizer(folder)


def test_a_tokenizer_that_brings_code_needs_permission(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "mine.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n"
        "class Mine(PreTrainedTokenizerFast):\n    is_mine = True\n"
    )
    with pytest.raises(ModelLoadError, match="trust_remote_code = true"):
        load_tokenizer(folder)
    assert load_tokenizer(folder, trust_remote_code=True).is_mine


@pytest.mark.parametrize(("model_type", "asked"), [("mistral", True), ("llama", False)])
def test_the_librarys_correction_of_mistrals_pattern_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, asked: bool
) -> None:
    seen: list[dict[str, Any]] = []
    load = weights.load_wrapped_tokenizer

    def see(path: Path, options: dict[str, Any], **more: Any) -> Any:
        seen.append(options)
        return load(path, options, **more)

    monkeypatch.setattr(weights, "load_wrapped_tokenizer", see)
    load_tokenizer(write_model(tmp_path / "m"), config={"model_type": model_type})
    assert ("fix_mistral_regex" in seen[0]) is asked


def test_ends_of_turn_that_the_config_names_end_a_turn(tmp_path: Path) -> None:
    wrapper = load_tokenizer(write_model(tmp_path / "m"), config={"eos_token_id": [3, 5]})
    assert {3, 5} <= set(wrapper.eos_token_ids)
