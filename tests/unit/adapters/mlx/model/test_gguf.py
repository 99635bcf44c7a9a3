"""GGUF files become MLX models that compute the same, or are refused for a reason, and leave nothing behind."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from semanticd.adapters.mlx.model.gguf.convert import convert
from semanticd.adapters.mlx.model.gguf.tensors import as_matrix
from semanticd.adapters.mlx.model.gguf.vocabulary import tokenizer_of
from semanticd.adapters.mlx.model.weights import load_tokenizer, load_weights
from semanticd.application.ports.inference import finish_loading
from semanticd.domain.errors import BrokenModelError, ModelLoadError
from tests.fakes import tiny_gguf

Q = GGMLQuantizationType
PROMPT = mx.array([[1, 50, 3, 200, 7, 7, 90, 12]])


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    steps = load_weights(folder, device_is_cpu=True, available_bytes=8 << 30, on_progress=lambda share: None)
    return finish_loading(steps)


def furthest(found: mx.array, expected: mx.array) -> float:
    return float((mx.abs(found - expected).max() / mx.abs(expected).max()).item())


@pytest.mark.parametrize("name", sorted(tiny_gguf.ARGS))
def test_every_architecture_computes_what_the_model_it_was_made_from_does(tmp_path: Path, name: str) -> None:
    model = tiny_gguf.build(name)
    convert(tiny_gguf.write(tmp_path / "m.gguf", name, model, kind=Q.F32), tmp_path / "m")
    found, _ = load(tmp_path / "m")
    rounding = 3e-2 if name == "gemma3" else 3e-3
    assert furthest(found(PROMPT), model(PROMPT)) < rounding


@pytest.mark.parametrize("kind", [Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.BF16, Q.F16, Q.MXFP4])
def test_a_quantized_file_computes_with_the_values_that_it_holds(tmp_path: Path, kind: Q) -> None:
    model = tiny_gguf.build("llama")
    path = tiny_gguf.write(tmp_path / "m.gguf", "llama", model, kind=kind)
    convert(path, tmp_path / "own")
    convert(path, tmp_path / "floats", bits=16)
    own, floats = load(tmp_path / "own")[0](PROMPT), load(tmp_path / "floats")[0](PROMPT)
    assert furthest(own, floats) < 2e-2


class Tensor:
    """A matrix of random bytes in a quantization, with scales of a sensible size."""

    def __init__(self, kind: Q, *, rows: int = 6, columns: int = 512) -> None:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        source = np.random.default_rng(3)
        data = source.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
        for offset in _SCALES.get(kind, ()):
            scale = source.uniform(0.001, 0.02, len(data)).astype(np.float16)
            data[:, offset : offset + 2] = scale[:, None].view(np.uint8)
        self.data = data.reshape(rows, -1)
        self.tensor_type = kind
        self.shape = np.array([columns, rows])


_SCALES = {
    Q.Q4_0: (0,), Q.Q4_1: (0, 2), Q.Q5_0: (0,), Q.Q5_1: (0, 2), Q.Q8_0: (0,), Q.Q4_K: (0, 2), Q.Q5_K: (0, 2),
    Q.Q2_K: (80, 82), Q.Q3_K: (108,), Q.Q6_K: (208,), Q.IQ4_NL: (0,), Q.IQ4_XS: (0,), Q.IQ2_XXS: (0,),
    Q.IQ2_XS: (0,), Q.IQ2_S: (0,), Q.IQ3_XXS: (0,), Q.IQ3_S: (0,), Q.IQ1_S: (0,), Q.TQ1_0: (52,), Q.TQ2_0: (64,),
}  # fmt: skip
"""Where a block holds its scale (and minimum), in half precision."""


@pytest.mark.parametrize(
    "kind", [Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q4_K, Q.Q5_K], ids=lambda k: k.name
)
def test_codes_are_kept_where_mlx_has_the_form(kind: Q) -> None:
    tensor = Tensor(kind)
    matrix = as_matrix(tensor, mx.float32, bits=None)
    assert (matrix.bits, matrix.group_size) == ({"4": 4, "5": 5, "8": 8}[kind.name[1]], 32)
    parts = [matrix.arrays[name] for name in ("weight", "scales", "biases")]
    values = mx.dequantize(*parts, group_size=32, bits=matrix.bits)
    expected = gguf.dequantize(tensor.data, kind)
    assert np.allclose(np.array(values), expected, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(_SCALES, key=lambda k: k.name), ids=lambda k: k.name)
def test_every_quantization_that_the_library_reads_is_converted(kind: Q) -> None:
    tensor = Tensor(kind)
    matrix = as_matrix(tensor, mx.float32, bits=None)
    parts = [matrix.arrays[name] for name in ("weight", "scales", "biases")]
    values = mx.dequantize(*parts, group_size=matrix.group_size, bits=matrix.bits)
    expected = gguf.dequantize(tensor.data, kind)
    assert np.abs(np.array(values) - expected).max() < np.abs(expected).max() / 100


def test_all_of_the_librarys_quantizations_are_tried_above_or_through_a_file() -> None:
    through_files = {Q.F32, Q.F16, Q.BF16, Q.MXFP4}
    # Their blocks hold scales in forms of which random bytes are mostly infinite.
    untried = {Q.IQ1_M} | {kind for kind in Q if kind.name == "NVFP4"}
    assert {kind for kind in Q if _is_read(kind)} == set(_SCALES) | through_files | untried


def _is_read(kind: Q) -> bool:
    try:
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


@pytest.mark.parametrize(("bits", "expected"), [(4, 4), (8, 8), (16, None)])
def test_matrices_have_the_bits_that_were_asked_for(tmp_path: Path, bits: int, expected: int | None) -> None:
    convert(tiny_gguf.write(tmp_path / "m.gguf", kind=Q.Q5_0), tmp_path / "m", bits=bits)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config.get("quantization", {}).get("bits") == expected
    load(tmp_path / "m")


def test_llama_3s_frequencies_become_its_scaling(tmp_path: Path) -> None:
    frequencies = _llama3_frequencies(8.0)
    path = tiny_gguf.write(tmp_path / "m.gguf", extra={"rope_freqs.weight": frequencies})
    convert(path, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (config["rope_scaling"]["rope_type"], config["rope_scaling"]["factor"]) == ("llama3", 8.0)


def _llama3_frequencies(factor: float) -> np.ndarray:
    """What llama.cpp's converter writes, value by value."""
    base, dims, old = 10000.0, tiny_gguf.HEAD_DIM, 8192
    found = []
    for i in range(0, dims, 2):
        wavelength = 2 * np.pi * base ** (i / dims)
        if wavelength < old / 4:
            found.append(1.0)
        elif wavelength > old / 1:
            found.append(factor)
        else:
            smooth = (old / wavelength - 1) / (4 - 1)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


def test_progress_goes_from_nothing_to_all(tmp_path: Path) -> None:
    shares: list[float] = []
    convert(tiny_gguf.write(tmp_path / "m.gguf"), tmp_path / "m", on_progress=shares.append)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert shares == sorted(shares)


# What cannot be converted.


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def _cut_early(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def _cut_to(num_bytes: int, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


def _no_gguf(path: Path) -> None:
    path.write_text("hello")


def _changed_lengths(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8:16] = (1 << 40).to_bytes(8, "little")
    path.write_bytes(data)


CUT = "it is damaged or was cut off"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_cut, CUT),
        (_cut_early, CUT),
        *((partial(_cut_to, num_bytes), CUT) for num_bytes in (4, 7, 21, 23, 26, 45)),
        (_changed_lengths, CUT),
        (_no_gguf, "it is not a GGUF file"),
        (Path.unlink, "there is no such file"),
    ],
)
def test_a_damaged_file_is_refused_in_plain_words_and_leaves_nothing(
    tmp_path: Path, damage: Any, reason: str
) -> None:
    path = tiny_gguf.write(tmp_path / "m.gguf")
    damage(path)
    with pytest.raises(BrokenModelError, match=rf"cannot convert .*m\.gguf: {reason}") as refused:
        convert(path, tmp_path / "out" / "m")
    assert not any(word in refused.value.message for word in ("dtype", "array", "axis", "index"))
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"general.type": "mmproj"}, "it holds a mmproj"),
        ({"split.count": 3}, "one of several parts"),
        ({"llama.expert_count": 8}, "mixture of experts"),
        ({"llama.attention.head_count_kv": [1, 2]}, "its layers differ in"),
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 4.0}, "scaled by 'longrope'"),
        ({"tokenizer.ggml.model": "t5"}, "its tokenizer is of the kind 't5'"),
        ({"tokenizer.ggml.pre": "newest"}, "splits words in the way 'newest'"),
        ({"llama.block_count": None}, r"lacks `llama\.block_count`"),
    ],
)
def test_what_is_not_converted_has_a_reason_of_one_sentence(
    tmp_path: Path, metadata: dict[str, Any], reason: str
) -> None:
    path = tiny_gguf.write(tmp_path / "m.gguf", metadata=metadata)
    with pytest.raises(ModelLoadError, match=reason) as refused:
        convert(path, tmp_path / "out" / "m")
    assert "\n" not in refused.value.message
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_an_unknown_architecture_and_an_unknown_tensor_are_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "rwkv9")
    writer.add_tensor("x.weight", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match="its architecture is 'rwkv9'; converted are gemma3, llama"):
        convert(tmp_path / "a.gguf", tmp_path / "out")
    path = tiny_gguf.write(tmp_path / "b.gguf", extra={"blk.0.attn_sinks.weight": np.zeros(4, np.float32)})
    with pytest.raises(ModelLoadError, match=r"tensor 'blk\.0\.attn_sinks\.weight'"):
        convert(path, tmp_path / "out")


# Vocabularies.


def test_a_byte_level_tokenizer_and_its_template_are_those_of_the_file(tmp_path: Path) -> None:
    convert(tiny_gguf.write(tmp_path / "m.gguf"), tmp_path / "m")
    wrapper = load_tokenizer(tmp_path / "m")
    text = "héllo\n  wörld 🦊"
    assert wrapper.decode(wrapper.encode(text, add_special_tokens=False)) == text
    assert wrapper.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x"
    assert wrapper.eos_token == "<eos>"


PIECES = ["<unk>", "<s>", "</s>", "▁", "a", "b", "c", "ab", "▁a", "bc", "abc", "▁abc", "▁▁", "\n\n"]


def sentencepiece(**more: Any) -> dict[str, Any]:
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    scores = [0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -9.0, -1.0, -2.0, -0.5, -3.0, -4.0, -1000.0, -1000.0]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*PIECES, *bytes_],
        "tokenizer.ggml.scores": [*scores, *[0.0] * 256],
        "tokenizer.ggml.token_type": [2, 3, 3, *[1] * 9, 4, 4, *[6] * 256],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **more,
    }


def test_pieces_are_put_together_by_their_scores() -> None:
    tokenizer = tokenizer_of(sentencepiece(**{"tokenizer.ggml.add_space_prefix": False}))
    # `bc` has the best score: it is there before `ab` can be.
    assert tokenizer.encode("abc", add_special_tokens=False).tokens == ["abc"]
    assert tokenizer.encode("aabc", add_special_tokens=False).tokens == ["a", "abc"]
    assert tokenizer.encode("abb", add_special_tokens=False).tokens == ["ab", "b"]
    assert tokenizer.encode("a  \n\nx", add_special_tokens=False).tokens == ["a", "▁▁", "\n\n", "<0x78>"]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepieces_text_comes_back_with_unknown_characters_as_bytes(prefix: bool) -> None:
    tokenizer = tokenizer_of(sentencepiece(**{"tokenizer.ggml.add_space_prefix": prefix}))
    for text in ("abc  cab", "ünï 🦊", "a\n\nb"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text
    assert tokenizer.encode("abc").ids[0] == 1, "this kind wants a BOS unless it says otherwise"
