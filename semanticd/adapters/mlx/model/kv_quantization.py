"""Keys and values in fewer bits: rotated, then rounded in groups of 64 that share a scale and an offset.

A layer's tensor `[layers, heads, tokens, dim]` becomes

```
x   [layers, heads, 1, dim]           the first token of a sequence as it is, in the blocks that begin one
c*  [layers, heads, dim, tokens']     groups along the tokens of one channel; tokens' is a multiple of 64
t*  [layers, heads, tokens * dim]     groups along the channels of a token, or of the next one (filled up to 64)
```
of which `*` is q (packed numbers), s (scales) and b (offsets), as MLX packs them, with scales and offsets in float16.

- The rotation is a Hadamard matrix: it spreads the few channels that are far larger than the others over all of
  them. A length that is not a power of two is rotated in parts that are (80: 64 and 16).
- A rotated key still has channels that keep their offset from token to token: keys are grouped by channel. The tokens
  behind the last multiple of 64 are grouped by token, and values always are.
- Models park their attention on the first token. Its keys and values have ten times the size of others, and a small
  error there changes every answer: they are kept, and do not widen the range of the group in which they lie.

Measured by `contrib/dev/checks/kv_accuracy.py`; see docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np

GROUP = 64
"""Numbers that share a scale and an offset."""

_LARGEST_ROTATION = 256
_SCALE_BYTES = 2 * mx.float16.size
_LARGEST_SCALE = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class KvQuantization:
    """Storage format of the keys or values of layers of one shape."""

    bits: int
    num_heads: int
    dim: int
    dtype: mx.Dtype
    """Of the tensors that it takes and gives."""
    by_channel: bool
    """Whether groups lie along the tokens, where there are enough of them."""

    @property
    def bytes_per_token(self) -> float:
        """Bytes of a token in one layer."""
        return self.num_heads * self.dim * (self.bits / 8 + _SCALE_BYTES / GROUP)

    @property
    def first_token_bytes(self) -> int:
        """Bytes in one layer that a block takes in addition if it begins a sequence."""
        return self.num_heads * self.dim * self.dtype.size

    def encode(self, array: mx.array, *, begins: bool) -> dict[str, mx.array]:
        """Return the parts of `[layers, heads, tokens, dim]`, to be evaluated; `begins`: it begins a sequence."""
        parts: dict[str, mx.array] = {}
        if begins:
            parts["x"] = mx.contiguous(array[:, :, :1])
            if array.shape[2] > 1:
                # Its neighbour takes its place.
                array = mx.concatenate([array[:, :, 1:2], array[:, :, 1:]], axis=2)
        num_tokens = array.shape[2]
        array = array.astype(mx.float32)
        split = num_tokens // GROUP * GROUP if self.by_channel else 0
        if split:
            rotated = self._rotation @ mx.swapaxes(array[:, :, :split], -1, -2)
            self._pack(parts, "c", rotated)
        if split < num_tokens:
            flat = mx.flatten(array[:, :, split:] @ self._rotation, 2)
            if flat.shape[2] % GROUP:
                flat = mx.pad(flat, [(0, 0), (0, 0), (0, -flat.shape[2] % GROUP)])
            self._pack(parts, "t", flat)
        return parts

    def decode(self, parts: Mapping[str, mx.array], *, num_tokens: int) -> mx.array:
        """Return the first of the encoded tokens, `[layers, heads, num_tokens, dim]`, to be evaluated.

        Raises:
            KeyError: Parts are missing.
        """
        arrays: list[mx.array] = []
        if "cq" in parts:
            arrays.append(mx.swapaxes(self._unpacked(parts, "c"), -1, -2) @ self._rotation)
        if "tq" in parts or not arrays:
            flat = self._unpacked(parts, "t")
            # The padding may be as long as a token.
            length = flat.shape[2] // self.dim
            rows = mx.unflatten(flat[:, :, : length * self.dim], 2, (length, self.dim))
            arrays.append(rows @ self._rotation)
        array = arrays[0] if len(arrays) == 1 else mx.concatenate(arrays, axis=2)
        array = array[:, :, :num_tokens].astype(self.dtype)
        if "x" in parts:
            array[:, :, :1] = parts["x"]
        return array

    def fits(self, parts: Mapping[str, mx.array], *, num_layers: int) -> bool:
        """Return whether the parts are `encode`'s output for this number of layers and this shape."""
        whole = (num_layers, self.num_heads, self.dim)
        by_channel, by_token = parts.get("cq"), parts.get("tq")
        if by_channel is None and by_token is None:
            return False
        first = parts.get("x")
        return (
            (by_channel is None or (by_channel.ndim == 4 and by_channel.shape[:3] == whole))
            and (by_token is None or (by_token.ndim == 3 and by_token.shape[:2] == whole[:2]))
            and (first is None or first.shape == (num_layers, self.num_heads, 1, self.dim))
            and all(f"{kind}{part}" in parts for kind in "ct" if f"{kind}q" in parts for part in "sb")
        )

    @property
    def _rotation(self) -> mx.array:
        return rotation(self.dim)

    def _pack(self, parts: dict[str, mx.array], kind: str, rotated: mx.array) -> None:
        packed, scales, offsets = mx.quantize(rotated, group_size=GROUP, bits=self.bits)
        parts[f"{kind}q"] = packed
        for name, array in (("s", scales), ("b", offsets)):
            parts[f"{kind}{name}"] = mx.clip(array, -_LARGEST_SCALE, _LARGEST_SCALE).astype(mx.float16)

    def _unpacked(self, parts: Mapping[str, mx.array], kind: str) -> mx.array:
        scales, offsets = (parts[f"{kind}{name}"].astype(mx.float32) for name in "sb")
        return mx.dequantize(parts[f"{kind}q"], scales, offsets, group_size=GROUP, bits=self.bits)


@lru_cache(maxsize=32)
def rotation(dim: int) -> mx.array:
    """Return the matrix `[dim, dim]` that rotates rows; it is its own inverse."""
    matrix = np.zeros((dim, dim), np.float32)
    start = 0
    while start < dim:
        size = min(1 << ((dim - start).bit_length() - 1), _LARGEST_ROTATION)
        part = np.ones((1, 1), np.float32)
        while len(part) < size:
            part = np.block([[part, part], [part, -part]])
        matrix[start : start + size, start : start + size] = part / np.sqrt(size)
        start += size
    return mx.array(matrix)
