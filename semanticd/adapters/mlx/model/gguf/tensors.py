"""GGUF's tensors as MLX's: packed as they are where both know the form, else as floats.

MLX stores a row in groups of 32 or 64 values with a scale and a bias: `value = scale x code + bias`. Q4_0, Q4_1, Q5_0,
Q5_1, Q8_0, Q4_K and Q5_K do the same with groups of 32, so their codes are kept; scales are rounded to the type of the
model. Tensors in other quantizations are read with the `gguf` library and, unless floats are wanted, quantized to
8 bits, which changes less than any of them did.

Forms of the blocks: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and the library's `quants.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, dequantize

Floats = npt.NDArray[np.float32]

_GROUP = 32
_PART_VALUES = 1 << 23
"""Values that are handled at once: a large embedding would take gigabytes as floats."""
_FLOAT_TYPES = frozenset(
    {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16, GGMLQuantizationType.F64}
)


@dataclass(frozen=True, slots=True)
class _Form:
    """A quantization of 32-value groups: bits of a code, and where a block of it keeps scale and bias."""

    bits: int
    offset: int | None
    """The code of zero; None: the block has a minimum alongside its scale."""
    super_block: bool = False
    """Whether a block has 8 groups, with 6-bit scales and minimums of them."""


_FORMS: dict[Any, _Form] = {
    GGMLQuantizationType.Q4_0: _Form(4, 8),
    GGMLQuantizationType.Q4_1: _Form(4, None),
    GGMLQuantizationType.Q5_0: _Form(5, 16),
    GGMLQuantizationType.Q5_1: _Form(5, None),
    GGMLQuantizationType.Q8_0: _Form(8, 128),
    GGMLQuantizationType.Q4_K: _Form(4, None, super_block=True),
    GGMLQuantizationType.Q5_K: _Form(5, None, super_block=True),
}


@dataclass(frozen=True, slots=True)
class Converted:
    """One matrix in MLX's form; `bits` and `group_size` are None for floats."""

    arrays: dict[str, mx.array]
    bits: int | None = None
    group_size: int | None = None


def as_floats(tensor: Any, dtype: mx.Dtype) -> mx.array:
    """Return a tensor's values, `[rows, columns]` or `[columns]`."""
    return mx.concatenate([mx.array(part).astype(dtype) for part in _floats(tensor)])


def as_matrix(tensor: Any, dtype: mx.Dtype, *, bits: int | None) -> Converted:
    """Return a matrix: of `bits` 4 or 8 quantized so, of 16 as floats, of None as it is where MLX has its form."""
    columns = int(tensor.shape[0])
    if bits is None and tensor.tensor_type in _FORMS and columns % _GROUP == 0:
        kept = _kept(tensor, _FORMS[tensor.tensor_type], dtype)
        if kept is not None:
            return kept
    if bits is None:
        bits = 16 if tensor.tensor_type in _FLOAT_TYPES else 8
    group = next((size for size in (64, _GROUP) if columns % size == 0), None)
    if bits == 16 or group is None:
        return Converted({"weight": as_floats(tensor, dtype)})
    packed: list[list[mx.array]] = []
    for part in _floats(tensor):
        packed.append(list(mx.quantize(mx.array(part).astype(dtype), group_size=group, bits=bits)))
        mx.eval(packed[-1])
    joined = [mx.concatenate(list(parts)) for parts in zip(*packed, strict=True)]
    return Converted(dict(zip(("weight", "scales", "biases"), joined, strict=True)), bits, group)


def _floats(tensor: Any) -> Iterator[Floats]:
    """Give a tensor's values as float32, some rows at a time."""
    data = tensor.data
    if data.ndim == 1:
        yield np.asarray(dequantize(data[None], tensor.tensor_type), np.float32)[0]
        return
    for rows in _row_parts(tensor):
        yield np.asarray(dequantize(data[rows], tensor.tensor_type), np.float32)


def _row_parts(tensor: Any) -> Iterator[slice]:
    num_rows = tensor.data.shape[0]
    step = max(1, _PART_VALUES // int(tensor.shape[0]))
    for first in range(0, num_rows, step):
        yield slice(first, min(first + step, num_rows))


def _kept(tensor: Any, form: _Form, dtype: mx.Dtype) -> Converted | None:
    """Return the tensor with its own codes; None where they do not give its values again."""
    parts: dict[str, list[mx.array]] = {"weight": [], "scales": [], "biases": []}
    for rows in _row_parts(tensor):
        data = tensor.data[rows]
        values = np.asarray(dequantize(data, tensor.tensor_type), np.float32)
        scales, biases = _scales(np.ascontiguousarray(data), form, num_groups=values.shape[1] // _GROUP)
        groups = values.reshape(len(values), -1, _GROUP)
        step = np.where(scales == 0, 1, scales)[..., None]
        codes = np.rint((groups - biases[..., None]) / step)
        again = codes * scales[..., None] + biases[..., None]
        if (
            np.abs(again - groups).max() > 1e-3 * np.abs(scales).max()
            or codes.min() < 0
            or codes.max() >= 1 << form.bits
        ):
            return None
        parts["weight"].append(mx.array(_packed(codes.astype(np.uint8).reshape(values.shape), form.bits)))
        parts["scales"].append(mx.array(scales).astype(dtype))
        parts["biases"].append(mx.array(biases).astype(dtype))
    return Converted({name: mx.concatenate(arrays) for name, arrays in parts.items()}, form.bits, _GROUP)


def _scales(data: npt.NDArray[np.uint8], form: _Form, *, num_groups: int) -> tuple[Floats, Floats]:
    """Return scales and biases of each row's groups, `[rows, groups]`."""
    num_rows = len(data)
    groups_per_block = 8 if form.super_block else 1
    blocks = data.reshape(num_rows * num_groups // groups_per_block, -1)
    scale = blocks[:, 0:2].copy().view(np.float16).astype(np.float32)
    if form.super_block:
        minimum = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
        factors, minimums = _six_bits(blocks[:, 4:16])
        scales, biases = scale * factors, -minimum * minimums
    elif form.offset is None:
        scales, biases = scale, blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
    else:
        scales, biases = scale, -form.offset * scale
    return scales.reshape(num_rows, num_groups), biases.reshape(num_rows, num_groups)


def _six_bits(packed: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Return 8 factors and 8 minimums of each 12 bytes.

    Four of each are in the low bits of the first 8 bytes; the low halves of the others in the last 4 bytes, their high
    halves in the high bits of the first 8.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    factors = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minimums = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return factors.astype(np.float32), minimums.astype(np.float32)


def _packed(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint32]:
    """Write codes `[rows, columns]` one behind the other, lowest bit first."""
    if bits == 8:
        return codes.view(np.uint32)
    if bits == 4:
        return np.ascontiguousarray(codes[:, 0::2] | (codes[:, 1::2] << 4)).view(np.uint32)
    streams = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(streams.reshape(len(codes), -1), axis=1, bitorder="little").view(np.uint32)
