"""Real models out of GGUF files: SmolLM2 in many quantizations, and Gemma 3 270M with its windows and K-quants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from mlx_lm.models.cache import make_prompt_cache

from semanticd.adapters.mlx.model.gguf.architecture import ARCHITECTURES, mlx_name
from semanticd.adapters.mlx.model.gguf.convert import convert
from semanticd.adapters.mlx.model.loader import MlxModelLoader
from semanticd.adapters.mlx.model.weights import load_tokenizer, load_weights
from semanticd.adapters.models.registry import ModelRegistry
from semanticd.application.ports.inference import LoadedModel, finish_loading
from semanticd.domain.memory_plan import DeviceMemory, WeightRoom
from tests.fakes import real_gguf
from tests.fakes.mlx_rig import WITHOUT_END, LoadedRig
from tests.fakes.warm_store import MemoryAgentArchive, MemoryWarmStore

ROOM = WeightRoom(DeviceMemory("cpu", 64 << 30, 64 << 30), lambda: 8 << 30)

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

Q = GGMLQuantizationType
PROMPT = "The capital of France is"


def requantized(source: Path, target: Path, kind: Q) -> Path:
    """Write the same model with its matrices in another quantization."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind_of_value = field.types[0]
        inner = field.types[-1] if kind_of_value == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind_of_value, sub_type=inner)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        raw = kind if values.ndim == 2 else Q.F32
        writer.add_tensor(tensor.name, gguf.quantize(np.ascontiguousarray(values), raw), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _slow(kind: Q) -> Any:
    # To write a model again takes half a minute.
    return pytest.param(kind, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "kind",
    [Q.Q4_1, _slow(Q.Q4_0), _slow(Q.Q5_0), _slow(Q.Q5_1), _slow(Q.Q8_0), _slow(Q.F16)],
    ids=lambda kind: kind.name,
)
def test_smollm2_computes_with_the_values_that_its_file_holds_in_every_quantization(
    models_dir: Path, tmp_path: Path, kind: Q
) -> None:
    source = real_gguf.smollm2(models_dir)
    path = source if kind == Q.Q4_1 else requantized(source, tmp_path / "m.gguf", kind)
    convert(path, tmp_path / "m")
    steps = load_weights(
        tmp_path / "m", device_is_cpu=True, available_bytes=4 << 30, on_progress=lambda share: None
    )
    model, config = finish_loading(steps)
    wrapper = load_tokenizer(tmp_path / "m", config=config)
    prompt = mx.array([wrapper.encode(PROMPT)])
    found = model(prompt)
    mx.eval(found)
    # What a coarser quantization makes of so small a model is not the conversion's to answer for: the reference is
    # what the library reads out of the same file.
    model.load_weights(list(_library_values(path).items()))
    expected = model(prompt)
    # Where MLX unpacks, it rounds each weight to half precision: by a two-thousandth.
    assert float((mx.abs(found - expected).max() / mx.abs(expected).max()).item()) < 5e-3
    assert mx.array_equal(mx.argmax(found, axis=-1), mx.argmax(expected, axis=-1))


def _library_values(path: Path) -> dict[str, mx.array]:
    """Return a file's values by mlx-lm's names, read without our conversion."""
    values = {}
    for tensor in GGUFReader(path).tensors:
        name = mlx_name(tensor.name, ARCHITECTURES["llama"])
        assert name is not None
        values[name] = mx.array(gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    return values


def test_smollm2_out_of_its_file_knows_the_capital_of_france(models_dir: Path, tmp_path: Path) -> None:
    convert(real_gguf.smollm2(models_dir), tmp_path / "m")
    steps = load_weights(
        tmp_path / "m", device_is_cpu=True, available_bytes=4 << 30, on_progress=lambda share: None
    )
    model, config = finish_loading(steps)
    wrapper = load_tokenizer(tmp_path / "m", config=config)
    assert wrapper.decode(greedy(model, wrapper.encode(PROMPT), 1)) == " Paris"


def greedy(model: Any, ids: list[int], num_tokens: int) -> list[int]:
    """Return the most likely tokens that follow."""
    cache, said = make_prompt_cache(model), []
    logits = model(mx.array([ids]), cache=cache)
    for _ in range(num_tokens):
        said.append(int(mx.argmax(logits[0, -1]).item()))
        logits = model(mx.array([[said[-1]]]), cache=cache)
    return said


@pytest.fixture(scope="module")
def gemma(models_dir: Path) -> LoadedModel:
    """Gemma, found by its file's path as a user would, and loaded as the daemon does."""

    def converted(path: Path, folder: Path, **more: Any) -> None:
        convert(path, folder, **more)

    registry = ModelRegistry(models_dir, convert_gguf=converted)
    installed = registry.pull(str(real_gguf.gemma(models_dir)), lambda progress: None)
    loader = MlxModelLoader(block_tokens=16, precision="exact", room=ROOM)
    return finish_loading(loader.load(installed, on_progress=lambda share: None))


def test_gemma_knows_what_it_was_trained_on(gemma: LoadedModel) -> None:
    with LoadedRig(gemma) as rig:
        prompt = gemma.tokenizer.encode(gemma.tokenizer.raw_text("def fibonacci(n):\n"))
        text = rig.ask(prompt, max_tokens=12, sampling=WITHOUT_END).answer().text
    assert text.startswith("    if n == 0:\n        return 0")


def test_gemma_answers_after_a_restart_as_it_would_have_from_the_beginning(gemma: LoadedModel) -> None:
    tokenizer = gemma.tokenizer
    warm, archive = MemoryWarmStore(), MemoryAgentArchive()
    text = "Once upon a time, in a small village by the sea, there lived an old fisherman who"
    prompt = tokenizer.encode(tokenizer.raw_text(text))
    with LoadedRig(gemma, warm=warm, archive=archive) as rig:
        said = rig.ask(prompt, agent="a", max_tokens=12, sampling=WITHOUT_END).answer()
    longer = prompt + tokenizer.encode(said.text) + tokenizer.encode(" Then one day")
    with LoadedRig(gemma, warm=warm, archive=archive) as rig:
        again = rig.ask(longer, agent="a", max_tokens=12, sampling=WITHOUT_END).answer()
    with LoadedRig(gemma) as rig:
        cold = rig.ask(longer, agent="b", max_tokens=12, sampling=WITHOUT_END).answer()
    assert again.cache.restored_warm_tokens >= len(prompt)
    assert cold.cache.cached_tokens == 0
    assert again.text == cold.text
