"""Converts a GGUF file into an MLX model folder: weights, settings, tokenizer and chat template, all from the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader

from semanticd.adapters.mlx.model.gguf.architecture import Architecture, Settings, architecture_of, mlx_name
from semanticd.adapters.mlx.model.gguf.tensors import Converted, as_floats, as_matrix
from semanticd.adapters.mlx.model.gguf.vocabulary import described, tokenizer_of
from semanticd.domain.errors import BrokenModelError, ModelLoadError

_SHARD_BYTES = 1 << 30
_MAGIC = b"GGUF"


def convert(
    gguf: Path,
    folder: Path,
    *,
    bits: int | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Write the model as an MLX folder; it appears whole or not at all.

    Args:
        gguf: The file.
        folder: Where the model goes; one that is there is replaced.
        bits: 4 or 8: matrices are quantized so; 16: they are floats; None: they stay as they are where MLX has their
            form, and the others have 8 bits.
        on_progress: Hears the share of the tensors that are done, in [0, 1].

    Raises:
        BrokenModelError: The file is damaged or of a kind that is not converted; the reason is one sentence.
        ModelLoadError: It cannot be read, or the model cannot be written.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        reader = _read(gguf)
        partial.mkdir(parents=True)
        _write_model(reader, partial, bits, on_progress)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except ModelLoadError as error:
        raise BrokenModelError(f"cannot convert {gguf}: {error.message}") from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise BrokenModelError(f"cannot convert {gguf}: {_what_is_wrong(gguf, error)}") from error
    except OSError as error:
        raise ModelLoadError(f"cannot convert {gguf}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        mx.clear_cache()


class _Reader(GGUFReader):
    """The library's reader over a plain array: slices of a memory-mapped one take ten times as long to make."""

    def __init__(self, path: Path) -> None:
        self._plain: npt.NDArray[np.uint8] | None = None
        super().__init__(path)

    def _get(self, offset: int, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        if self._plain is None:
            self._plain = np.asarray(self.data)
        whole = np.dtype(dtype)
        part = self._plain[offset : offset + whole.itemsize * int(count)].view(whole)
        return part.view(whole.newbyteorder(override_order or self.byte_order))


def _read(gguf: Path) -> Any:
    try:
        return _Reader(gguf)
    except FileNotFoundError as error:
        raise ModelLoadError("there is no such file") from error
    except Exception as error:
        # The reader checks little: what is cut off or no GGUF at all fails in whatever it meets first.
        raise ModelLoadError(_what_is_wrong(gguf, error)) from error


def _what_is_wrong(gguf: Path, error: Exception) -> str:
    """Return a reason that people can act on; the library's own words speak of arrays."""
    with gguf.open("rb") as file:
        begin = file.read(len(_MAGIC))
    if begin != _MAGIC:
        return "it is not a GGUF file: it does not begin with `GGUF`"
    if "is not a valid" in str(error) or "file appears to be version" in str(error):
        return f"it is damaged, or written for a newer version of GGUF than this gguf package reads ({error})"
    return f"it is damaged or was cut off: it has {gguf.stat().st_size:,} bytes; check its size, and download it again"


def _write_model(reader: Any, folder: Path, bits: int | None, on_progress: Callable[[float], None]) -> None:
    metadata = {name: field.contents() for name, field in reader.fields.items() if _is_wanted(name)}
    architecture = architecture_of(metadata)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = _config(metadata, tensors, architecture)
    names = {name: mlx_name(name, architecture) for name in tensors}
    # First what may refuse the file, for the weights take a while.
    tokenizer = tokenizer_of(metadata)
    dtype = _dtype(tensors, architecture)
    shard = _Shards(folder)
    quantized: dict[str, dict[str, int]] = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        on_progress(number / len(tensors))
        target = names[name]
        if target is not None:
            converted = _convert(tensor, target, dtype, architecture, bits)
            stem = target.removesuffix(".weight").removesuffix(".bias")
            if converted.bits is not None and converted.group_size is not None:
                quantized[stem] = {"group_size": converted.group_size, "bits": converted.bits}
            shard.add({f"{stem}.{part}": array for part, array in converted.arrays.items()})
    shard.flush()
    if quantized:
        forms = list(quantized.values())
        common = max(forms, key=forms.count)
        config["quantization"] = {**common, **{n: form for n, form in quantized.items() if form != common}}
    _write(folder / "config.json", config)
    tokenizer.save(str(folder / "tokenizer.json"))
    context_length = config["max_position_embeddings"]
    _write(folder / "tokenizer_config.json", described(metadata, context_length=context_length))
    on_progress(1.0)


def _is_wanted(name: str) -> bool:
    return not name.startswith("GGUF.")


def _config(metadata: dict[str, Any], tensors: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
    settings = Settings(metadata, tensors)
    if "token_embd.weight" not in tensors:
        raise ModelLoadError("it has no `token_embd.weight`: it is not complete")
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    config = {
        "model_type": architecture.model_type,
        **architecture.settings(settings),
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": list(dict.fromkeys(int(end) for end in ends if end is not None)) or None,
    }
    return {key: value for key, value in config.items() if value is not None}


def _dtype(tensors: dict[str, Any], architecture: Architecture) -> mx.Dtype:
    """Return the type of floats and scales."""
    is_bfloat16 = any(tensor.tensor_type == GGMLQuantizationType.BF16 for tensor in tensors.values())
    return mx.bfloat16 if is_bfloat16 or architecture.wide_range else mx.float16


def _convert(
    tensor: Any, target: str, dtype: mx.Dtype, architecture: Architecture, bits: int | None
) -> Converted:
    if len(tensor.shape) == 2 and target.endswith(".weight"):
        return as_matrix(tensor, dtype, bits=bits)
    values = as_floats(tensor, mx.float32)
    if architecture.norms_hold_one_more and target.endswith("norm.weight"):
        values = values - 1.0
    return Converted({target.rpartition(".")[2]: values.astype(dtype)})


class _Shards:
    """Writes tensors into files of about a gigabyte, so that a large model need not fit into memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[str, mx.array] = {}
        self._number = 0

    def add(self, arrays: dict[str, mx.array]) -> None:
        """Take more tensors."""
        self._waiting |= arrays
        if sum(array.nbytes for array in self._waiting.values()) >= _SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the converted tensors."""
        if not self._waiting:
            return
        self._number += 1
        path = self._folder / f"model-{self._number:05}.safetensors"
        mx.save_safetensors(str(path), self._waiting, metadata={"format": "mlx"})
        self._waiting = {}


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
