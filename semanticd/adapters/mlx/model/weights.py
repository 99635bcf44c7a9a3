"""Loads a model folder's weights and tokenizer, and says in plain words why it could not."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import dequantize_model, load_model
from mlx_lm.utils import load_tokenizer as load_wrapped_tokenizer
from transformers import __version__ as transformers_version

from semanticd.adapters.mlx.platform.shortage import is_shortage
from semanticd.domain.errors import BrokenModelError, ModelLoadError

REVISION = 1
"""Raised when weights are made otherwise from the same files, so that KV comes out otherwise."""

_FLOAT32 = 4
_PACKED_PARTS = frozenset({"weight", "scales", "biases"})
"""Arrays that a quantized module keeps of its matrix."""
_SLICE_BYTES = 128 * 1024 * 1024
"""Weights that are read between two steps of the engine."""
_LAYERS = re.compile(r"(^|_)layers?$")
_MOST_LAYERS = 4096


def load_weights(
    path: Path,
    *,
    device_is_cpu: bool,
    available_bytes: int,
    on_progress: Callable[[float], None],
    trust_remote_code: bool = False,
    spread: Callable[[Any], None] | None = None,
) -> Generator[None, None, tuple[Any, dict[str, Any]]]:
    """Load a model in slices of about `_SLICE_BYTES`, and return it with its config; progress in [0, 1].

    On the CPU back-end float32 matrices run through BLAS and beat quantized ones, so weights are dequantized where
    they fit into two thirds of `available_bytes`. Where they do not, packed weights stay packed and what they are
    multiplied with becomes float32, if that fits: products with half precision take 10 to 40 times as long there.

    `spread` leaves of a model what one of several ranks computes, before any of it is read.

    Raises:
        BrokenModelError: A file is missing or damaged, or the architecture is not known.
        ModelLoadError: Memory is short.
    """
    on_progress(0.0)
    if not (path / "config.json").is_file():
        raise BrokenModelError(
            f"cannot load a model from {path}: config.json is missing; pull the model again"
        )
    if not list(path.glob("model*.safetensors")):
        raise BrokenModelError(
            f"cannot load a model from {path}: it has no model*.safetensors; pull the model again"
        )
    _check_ends(path)
    try:
        model, config = _load_lazily(path, trust_remote_code=trust_remote_code)
    except Exception as error:
        if is_shortage(error):
            raise ModelLoadError(_shortage(path, error)) from error
        raise BrokenModelError(_cause(path, error)) from error
    on_progress(0.3)
    yield
    try:
        if device_is_cpu:
            _widen(model, available_bytes)
        if spread is not None:
            spread(model)
        yield from _evaluate(model, on_progress=lambda share: on_progress(0.3 + 0.7 * share))
        # The conversion's freed buffers have sizes that no step requests.
        mx.clear_cache()
    except ModelLoadError:
        raise
    except Exception as error:
        if is_shortage(error):
            raise ModelLoadError(_shortage(path, error)) from error
        raise BrokenModelError(f"cannot load the weights in {path}: {error}; pull the model again") from error
    on_progress(1.0)
    return model, config


def _check_ends(path: Path) -> None:
    """Check the files that say which tokens end an answer.

    The library ignores a `generation_config.json` that it cannot read, after which answers may never end.

    Raises:
        BrokenModelError: A file is unreadable or wrong; the message has its name.
    """
    for name in ("config.json", "generation_config.json"):
        file = path / name
        if not file.is_file():
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelLoadError(
                f"cannot load {path}: cannot read {name}: {error.strerror or error}"
            ) from error
        except (ValueError, RecursionError) as error:
            raise BrokenModelError(
                f"cannot load {path}: {name} is not valid JSON; pull the model again"
            ) from error
        if not isinstance(content, dict):
            raise BrokenModelError(f"cannot load {path}: {name} is not a JSON object; pull the model again")
        _check_layers(path, name, content)
        ends = content.get("eos_token_id")
        if not all(type(end) is int for end in (ends if isinstance(ends, list) else [ends or 0])):
            raise BrokenModelError(
                f"cannot load {path}: `eos_token_id` in {name} is {str(ends)[:80]!r}; it is a token's id, or "
                "a list of them"
            )


def _check_layers(path: Path, name: str, content: Mapping[str, Any]) -> None:
    """Refuse a number of layers that no model has: each is made before any weight is looked at."""
    tables = [content, *(table for table in content.values() if isinstance(table, dict))]
    for key, value in (item for table in tables for item in table.items()):
        if _LAYERS.search(key) and isinstance(value, int | float) and value > _MOST_LAYERS:
            raise BrokenModelError(
                f"cannot load {path}: `{key}` in {name} is {value!r}, and no model has more than {_MOST_LAYERS} layers"
            )


def _evaluate(model: Any, *, on_progress: Callable[[float], None]) -> Generator[None, None, None]:
    """Read and convert the weights, which are lazy until now, a slice at a time."""
    leaves: Any = tree_flatten(model.parameters())
    num_bytes = max(sum(array.nbytes for _, array in leaves), 1)
    done_bytes = slice_bytes = 0
    for _, array in leaves:
        mx.eval(array)
        done_bytes += array.nbytes
        slice_bytes += array.nbytes
        if slice_bytes >= _SLICE_BYTES:
            slice_bytes = 0
            on_progress(done_bytes / num_bytes)
            yield


def _load_lazily(path: Path, *, trust_remote_code: bool) -> tuple[Any, dict[str, Any]]:
    if "trust_remote_code" in signature(load_model).parameters:
        loaded: tuple[Any, dict[str, Any]] = load_model(path, lazy=True, trust_remote_code=trust_remote_code)
        return loaded
    # mlx-lm 0.31, the last for Python 3.10, does not ask: it runs what the config names.
    if not trust_remote_code and "model_file" in json.loads((path / "config.json").read_text("utf-8")):
        raise ValueError("custom module")
    return load_model(path, lazy=True)


def _widen(model: Any, available_bytes: int) -> None:
    """Make all weights float32 in place where that fits, else all but packed ones where that fits."""
    most = available_bytes * 2 // 3
    if _bytes_in_float32(model, unpacked=True) <= most:
        # Scales first: what is unpacked in half precision is rounded to it at each step, and takes four times as long.
        model.set_dtype(mx.float32)
        dequantize_model(model)
        model.set_dtype(mx.float32)
    elif _bytes_in_float32(model, unpacked=False) <= most:
        model.set_dtype(mx.float32)


def _bytes_in_float32(model: Any, *, unpacked: bool) -> int:
    """Return what a model's weights take with floats of 32 bits; `unpacked`: the packed ones are made floats too."""
    modules: dict[str, Any] = dict(model.named_modules())
    leaves: Any = tree_flatten(model.parameters())
    num_bytes = 0
    for path, array in leaves:
        parent, _, name = path.rpartition(".")
        bits = getattr(modules.get(parent), "bits", None)
        if bits is None or name not in _PACKED_PARTS:
            num_bytes += array.size * _FLOAT32
        elif unpacked:
            # Scales and offsets go; a packed weight holds 32 / bits values per uint32.
            num_bytes += array.size * 32 // bits * _FLOAT32 if name == "weight" else 0
        elif mx.issubdtype(array.dtype, mx.floating):
            num_bytes += array.size * _FLOAT32
        else:
            num_bytes += array.nbytes
    return num_bytes


def packed_bytes_if_wide(model: Any) -> int | None:
    """Return what a model with packed weights would take with floats of 32 bits; None: none of its are packed."""
    if not any(getattr(module, "bits", None) is not None for _, module in model.named_modules()):
        return None
    return _bytes_in_float32(model, unpacked=True)


def compute_dtype(model: Any) -> str:
    """Return the type that a model computes in: that of most of its floats, as `float32`."""
    leaves: Any = tree_flatten(model.parameters())
    sizes: Counter[str] = Counter()
    for _, array in leaves:
        if mx.issubdtype(array.dtype, mx.floating):
            sizes[str(array.dtype).rpartition(".")[2]] += array.size
    return sizes.most_common(1)[0][0] if sizes else ""


def _shortage(path: Path, error: Exception) -> str:
    return (
        f"cannot load {path}: there is not enough memory for it ({error}); unload other models, lower "
        "SEMANTIC_MLX_CACHE_BUDGET_MB, or choose a smaller or a quantized model"
    )


def _cause(path: Path, error: Exception) -> str:
    model_type = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
    if "custom module" in str(error):
        return (
            f"cannot load {path}: the model brings Python code of its own, which is not run unless its entry in your "
            "configuration says `trust_remote_code = true`"
        )
    if "not supported" in str(error):
        return f"cannot load {path}: mlx-lm does not know the architecture {model_type!r}; try a newer mlx-lm"
    if not model_type:
        return f"cannot load {path}: config.json names no `model_type`; pull the model again"
    return f"cannot load the {model_type!r} model in {path}: {str(error) or type(error).__name__}"


_MISTRAL_FAMILY = frozenset({"mistral", "mistral3", "voxtral", "ministral", "ministral3", "pixtral"})
"""Models whose published tokenizer.json splits words by a wrong pattern; the library puts it right when asked."""

_ROUND_TRIPS = (
    "two words, and then some more.",
    "def f(x):\n    return {'a': [x,  1]}\n\n\tend",
    "emoji 🦊👩‍💻 and 中文汉字 日本語 한국어",
    "3141592653589793238462643383279502884197",
)
"""Texts like those of every conversation; no normalization of a tokenizer may change them."""


def load_tokenizer(
    path: Path, *, config: Mapping[str, Any] | None = None, trust_remote_code: bool = False
) -> Any:
    """Return mlx-lm's tokenizer wrapper, checked to read text as it is written.

    Raises:
        ModelLoadError: There is no tokenizer, it brings code that may not be run, or it does not keep text.
    """
    if not any(
        (path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    ):
        raise BrokenModelError(f"cannot load a model from {path}: it has no tokenizer; pull the model again")
    config = config or {}
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if config.get("model_type") in _MISTRAL_FAMILY:
        options["fix_mistral_regex"] = True
    try:
        wrapper = load_wrapped_tokenizer(path, options, eos_token_ids=config.get("eos_token_id"))
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ModelLoadError(
                f"cannot load the tokenizer in {path}: it brings Python code of its own, which is not run unless the "
                "model's entry in your configuration says `trust_remote_code = true`"
            ) from error
        raise BrokenModelError(f"cannot load the tokenizer in {path}: {error}") from error
    _check_round_trips(path, wrapper)
    return wrapper


def _check_round_trips(path: Path, wrapper: Any) -> None:
    for text in _ROUND_TRIPS:
        ids = wrapper.encode(text, add_special_tokens=False)
        if wrapper.unk_token_id is not None and wrapper.unk_token_id in ids:
            # The vocabulary lacks some of its characters, which the model was trained without.
            continue
        back = wrapper.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        # Some write a space before the first word.
        if back.removeprefix(" ") != text:
            raise ModelLoadError(
                f"cannot use the tokenizer in {path}: it reads {text!r} as {back!r}, so that the model would not see "
                f"what was written; transformers {transformers_version} may not know this tokenizer: install another "
                "version, or take another conversion of the model"
            )
