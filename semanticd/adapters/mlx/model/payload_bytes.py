"""Conversion of blocks' tensors to bytes and back, depending on where the device has its memory.

A CPU and Metal compute in memory that Python reads: there bytes are views of tensors, and nothing is copied. numpy
copies into running caches from views of the bytes that were read: a block that is read is copied once.

A CUDA card has memory of its own. A buffer that the CPU looks at leaves it permanently (`Buffer::raw_ptr` calls
`move_to_unified_memory`, mlx/backend/cuda/allocator.cpp in 0.32), an array that is made of numpy's never was there,
and a freed buffer is given to the next array of about its size. Blocks would leave the card as soon as they are
written, and those that were read would never get there. So the card copies a block's tensors into one array of bytes,
and only that one is looked at; what was read arrives as one array, from which the card copies each tensor. Neither is
of about the size of a tensor.

Engine thread only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import mlx.core as mx
import numpy as np

from semanticd.application.ports.warm_store import TensorBytes
from semanticd.domain.errors import CacheError
from semanticd.domain.memory_plan import DeviceKind

# safetensors' names of types, as (mlx type, numpy type that carries its bits).
_DTYPES: dict[str, tuple[mx.Dtype, str]] = {
    "F32": (mx.float32, "<f4"),
    "F16": (mx.float16, "<f2"),
    "BF16": (mx.bfloat16, "<u2"),
    "U32": (mx.uint32, "<u4"),
    "I64": (mx.int64, "<i8"),
    "I32": (mx.int32, "<i4"),
}
PayloadTensor: TypeAlias = "mx.array | np.ndarray[Any, Any]"
"""A tensor of MLX, or numpy's view of bytes that were read."""
_DTYPE_NAMES = {mlx_type: name for name, (mlx_type, _) in _DTYPES.items()}
_NUMPYS_OWN = ("F32", "F16")
"""Types that numpy has, and so can copy."""
_NUMPY_NAMES = {np.dtype(_DTYPES[name][1]): name for name in _NUMPYS_OWN}
_APART_BYTES = 64 << 10
"""By how much an array of bytes is longer than its tensors: MLX gives a freed buffer to one that is shorter by less."""
_ALIGNMENT = 16


class PayloadBytes(Protocol):
    """A device's way from tensors to bytes, and back."""

    def dump(self, tensors: Mapping[str, PayloadTensor]) -> tuple[TensorBytes, ...]:
        """Return the bytes of tensors that never change; the tensors stay where they are."""

    def restore(
        self, tensors: Sequence[TensorBytes], *, for_numpy: Collection[str] = ()
    ) -> dict[str, PayloadTensor]:
        """Return tensors of these bytes, by name, where the device keeps those that it computes.

        Those whose names are in `for_numpy` are copied by numpy later on: they may be views of the bytes.

        Raises:
            CacheError: A tensor is of an unknown type.
        """


def payload_bytes(kind: DeviceKind) -> PayloadBytes:
    """Return the way of this kind of device."""
    return _CardBytes() if kind == "cuda" else _UnifiedBytes()


class _UnifiedBytes:
    """Memory that the CPU and the device share."""

    def dump(self, tensors: Mapping[str, PayloadTensor]) -> tuple[TensorBytes, ...]:
        """Return views, which keep the tensors alive."""
        bits: dict[str, Any] = {
            name: tensor.view(mx.uint16)
            if isinstance(tensor, mx.array) and tensor.dtype == mx.bfloat16
            else tensor
            for name, tensor in tensors.items()
        }
        mx.eval([tensor for tensor in bits.values() if isinstance(tensor, mx.array)])
        return tuple(_named(name, tensor, _bytes_of(bits[name])) for name, tensor in tensors.items())

    def restore(
        self, tensors: Sequence[TensorBytes], *, for_numpy: Collection[str] = ()
    ) -> dict[str, PayloadTensor]:
        """Copy each tensor once, except those that numpy copies."""
        return {
            tensor.name: _view_of(tensor)
            if tensor.name in for_numpy and tensor.dtype in _NUMPYS_OWN
            else _array_of(tensor)
            for tensor in tensors
        }


class _CardBytes:
    """Memory of a card's own."""

    def dump(self, tensors: Mapping[str, PayloadTensor]) -> tuple[TensorBytes, ...]:
        """Return parts of one copy, which is moved out of the card."""
        arrays: list[Any] = list(tensors.values())
        flat = [tensor.reshape(-1).view(mx.uint8) for tensor in arrays if tensor.size]
        # Of one array it would be no copy.
        copy = mx.concatenate([*flat, mx.zeros(_APART_BYTES, mx.uint8)])
        mx.eval(copy)
        whole = _bytes_of(copy)
        found, start = [], 0
        for name, tensor in tensors.items():
            found.append(_named(name, tensor, whole[start : start + tensor.nbytes]))
            start += tensor.nbytes
        return tuple(found)

    def restore(
        self, tensors: Sequence[TensorBytes], *, for_numpy: Collection[str] = ()
    ) -> dict[str, PayloadTensor]:
        """Bring all in as one array, and copy each tensor on the card, where numpy copies none."""
        starts, size = [], 0
        for tensor in tensors:
            starts.append(size)
            size += -(-len(tensor.data) // _ALIGNMENT) * _ALIGNMENT
        joined = np.zeros(size + _APART_BYTES, np.uint8)
        for tensor, start in zip(tensors, starts, strict=True):
            joined[start : start + len(tensor.data)] = np.frombuffer(tensor.data, np.uint8)
        arrived = mx.array(joined)
        restored: dict[str, PayloadTensor] = {}
        for tensor, start in zip(tensors, starts, strict=True):
            mlx_type, _ = _types(tensor)
            num_bytes = len(tensor.data)
            if num_bytes <= mlx_type.size:
                restored[tensor.name] = _array_of(tensor)
                continue
            part = arrived[start : start + num_bytes].view(mlx_type)
            restored[tensor.name] = mx.concatenate([part[:1], part[1:]]).reshape(tensor.shape)
        mx.eval(list(restored.values()))
        return restored


def _named(name: str, tensor: PayloadTensor, data: memoryview) -> TensorBytes:
    is_mlxs = isinstance(tensor, mx.array)
    dtype = _DTYPE_NAMES[tensor.dtype] if is_mlxs else _NUMPY_NAMES[tensor.dtype]  # type: ignore[index]
    return TensorBytes(name, dtype, tuple(tensor.shape), data)


def _types(tensor: TensorBytes) -> tuple[mx.Dtype, str]:
    if tensor.dtype not in _DTYPES:
        raise CacheError(f"cannot restore tensor {tensor.name}: unknown type {tensor.dtype}")
    return _DTYPES[tensor.dtype]


def _view_of(tensor: TensorBytes) -> np.ndarray[Any, Any]:
    _, numpy_type = _types(tensor)
    return np.frombuffer(tensor.data, dtype=numpy_type).reshape(tensor.shape)


def _array_of(tensor: TensorBytes) -> mx.array:
    mlx_type, _ = _types(tensor)
    array = mx.array(_view_of(tensor))
    return array.view(mlx_type) if array.dtype != mlx_type else array


def _bytes_of(tensor: PayloadTensor) -> memoryview:
    """Return a view of a tensor's bytes; a copy where its rows do not follow one another."""
    view: Any = np.ascontiguousarray(np.array(tensor, copy=False))
    return memoryview(view.reshape(-1).view(np.uint8)).toreadonly()
