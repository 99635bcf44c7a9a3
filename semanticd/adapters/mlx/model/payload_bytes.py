"""How the tensors of blocks become bytes and come back, by where the device has its memory.

A CPU and Metal compute in memory that Python reads: there bytes are views of tensors, and nothing is copied.

A CUDA card has memory of its own. A buffer that the CPU looks at leaves it for good (`Buffer::raw_ptr` calls
`move_to_unified_memory`, mlx/backend/cuda/allocator.cpp in 0.32), an array that is made of numpy's never was there,
and a freed buffer is given to the next array of about its size. Blocks would leave the card as soon as they are
written, and those that were read would never get there. So the card copies a block's tensors into one array of bytes,
and only that one is looked at; what was read arrives as one array, from which the card copies each tensor. Neither is
of about the size of a tensor.

Engine thread only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

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
_DTYPE_NAMES = {mlx_type: name for name, (mlx_type, _) in _DTYPES.items()}
_APART_BYTES = 64 << 10
"""By how much an array of bytes is longer than its tensors: MLX gives a freed buffer to one that is shorter by less."""
_ALIGNMENT = 16


class PayloadBytes(Protocol):
    """A device's way from tensors to bytes, and back."""

    def dump(self, tensors: Mapping[str, mx.array]) -> tuple[TensorBytes, ...]:
        """Return the bytes of tensors that never change; the tensors stay where they are."""

    def restore(self, tensors: Sequence[TensorBytes]) -> dict[str, mx.array]:
        """Return tensors of these bytes, by name, where the device keeps those that it computes.

        Raises:
            CacheError: A tensor is of an unknown type.
        """


def payload_bytes(kind: DeviceKind) -> PayloadBytes:
    """Return the way of this kind of device."""
    return _CardBytes() if kind == "cuda" else _UnifiedBytes()


class _UnifiedBytes:
    """Memory that the CPU and the device share."""

    def dump(self, tensors: Mapping[str, mx.array]) -> tuple[TensorBytes, ...]:
        """Return views, which keep the tensors alive."""
        bits = {
            name: tensor.view(mx.uint16) if tensor.dtype == mx.bfloat16 else tensor
            for name, tensor in tensors.items()
        }
        mx.eval(list(bits.values()))
        return tuple(_named(name, tensor, _bytes_of(bits[name])) for name, tensor in tensors.items())

    def restore(self, tensors: Sequence[TensorBytes]) -> dict[str, mx.array]:
        """Copy each tensor once."""
        return {tensor.name: _array_of(tensor) for tensor in tensors}


class _CardBytes:
    """Memory of a card's own."""

    def dump(self, tensors: Mapping[str, mx.array]) -> tuple[TensorBytes, ...]:
        """Return parts of one copy, which is moved out of the card."""
        flat = [tensor.reshape(-1).view(mx.uint8) for tensor in tensors.values() if tensor.size]
        # Of one array it would be no copy.
        copy = mx.concatenate([*flat, mx.zeros(_APART_BYTES, mx.uint8)])
        mx.eval(copy)
        whole = _bytes_of(copy)
        found, start = [], 0
        for name, tensor in tensors.items():
            found.append(_named(name, tensor, whole[start : start + tensor.nbytes]))
            start += tensor.nbytes
        return tuple(found)

    def restore(self, tensors: Sequence[TensorBytes]) -> dict[str, mx.array]:
        """Bring all in as one array, and copy each tensor on the card."""
        starts, size = [], 0
        for tensor in tensors:
            starts.append(size)
            size += -(-len(tensor.data) // _ALIGNMENT) * _ALIGNMENT
        joined = np.zeros(size + _APART_BYTES, np.uint8)
        for tensor, start in zip(tensors, starts, strict=True):
            joined[start : start + len(tensor.data)] = np.frombuffer(tensor.data, np.uint8)
        arrived = mx.array(joined)
        restored: dict[str, mx.array] = {}
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


def _named(name: str, tensor: mx.array, data: memoryview) -> TensorBytes:
    return TensorBytes(name, _DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), data)


def _types(tensor: TensorBytes) -> tuple[mx.Dtype, str]:
    if tensor.dtype not in _DTYPES:
        raise CacheError(f"cannot restore tensor {tensor.name}: unknown type {tensor.dtype}")
    return _DTYPES[tensor.dtype]


def _array_of(tensor: TensorBytes) -> mx.array:
    mlx_type, numpy_type = _types(tensor)
    array = mx.array(np.frombuffer(tensor.data, dtype=numpy_type).reshape(tensor.shape))
    return array.view(mlx_type) if array.dtype != mlx_type else array


def _bytes_of(tensor: mx.array) -> memoryview:
    """Return a view of a tensor's bytes; a copy where its rows do not follow one another."""
    view: Any = np.ascontiguousarray(np.array(tensor, copy=False))
    return memoryview(view.reshape(-1).view(np.uint8)).toreadonly()
