"""Attention, rotary positions and gated activations, faster on MLX's CPU back-end; for that device only.

There `exp` is the slow part (mlx 0.32): a softmax over scores, or a SiLU, takes longer than the matrix products beside
it; and a function that the GPU has a kernel for is a dozen small steps. Ways around it, all equal to the library's
within float32 rounding (tested):

- Scores are turned into weights in place through numpy, whose `exp` takes a tenth of the time, a few rows at a time,
  so that they stay in the processor's cache; query heads that share a key head are one matrix product. The products
  stay MLX's, which go through the fast BLAS.
- `2 ** (x * log2 e)` takes a third of the time of `e ** x`; gated activations are written with it.
- Sines and cosines of positions are the same in every layer: they are computed once a step.

`install` puts these in the library's place, because each model's module holds its own references to them.
"""

from __future__ import annotations

import functools
import math
import sys
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn
from mlx_lm.models import activations, switch_layers

_LOG2_E = math.log2(math.e)
_MASKED = -1e30
"""Far below any score, and finite: a row that is all padding must not become NaN."""
_SCORES_BYTES = 32 << 20
"""Largest tensor of scores; longer queries are taken in parts."""
_ROWS = 64
"""Rows of scores handled at once: with 1,024 keys 256 KiB, which fits into a core's own cache."""
_ANGLES_KEPT = 8
"""A step needs one set of angles, models that mix two kinds of attention two; batches may take turns."""

# Untyped: their functions are replaced, which no stub foresees.
_fast: Any = mx.fast
_nn: Any = nn

_library_attention = _fast.scaled_dot_product_attention
_library_rope = _fast.rope
_library_swiglu = activations.swiglu
_library_gelu_approx = _nn.gelu_approx


def attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    *,
    scale: float,
    mask: Any = None,
    sinks: mx.array | None = None,
    **more: Any,
) -> mx.array:
    """Attend like `mx.fast.scaled_dot_product_attention`.

    Single queries, attention sinks, masks per head and types other than float32 are left to the library.

    Args:
        queries: `[B, Hq, L, D]`.
        keys: `[B, Hk, S, D]`; `Hk` divides `Hq`.
        values: `[B, Hk, S, Dv]`.
        scale: Factor of the scores.
        mask: None, `causal`, or what broadcasts to `[B, 1, L, S]`: booleans, or numbers to add.
        sinks: Only the library knows them.
        more: Passed on to the library.
    """
    per_head = isinstance(mask, mx.array) and (mask.ndim == 3 or (mask.ndim == 4 and mask.shape[1] != 1))
    if queries.shape[2] == 1:
        mixed = _library_attention(queries, keys, values, scale=scale, mask=mask, sinks=sinks, **more)
        # Begun now: else nothing would be computed while Python describes the layers that follow.
        mx.async_eval(mixed)
        return mixed
    if sinks is not None or queries.dtype != mx.float32 or per_head:
        return _library_attention(queries, keys, values, scale=scale, mask=mask, sinks=sinks, **more)
    batch, num_heads, length, _ = queries.shape
    positions = keys.shape[2]
    rows = max(16, _SCORES_BYTES // (batch * num_heads * positions * 4))
    causal = isinstance(mask, str)
    parts = []
    for start in range(0, length, rows):
        end = min(start + rows, length)
        # The last of these rows sees so many positions.
        seen = positions - length + end if causal else positions
        if mask is not None and not causal:
            mask_rows = mask if mask.shape[-2] == 1 else mask[..., start:end, :]
        else:
            mask_rows = mask
        part = _attend(queries[:, :, start:end] * scale, keys[:, :, :seen], values[:, :, :seen], mask_rows)
        if end < length:
            mx.eval(part)
        parts.append(part)
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)


def _attend(queries: mx.array, keys: mx.array, values: mx.array, mask: Any) -> mx.array:
    batch, num_heads, length, dim = queries.shape
    num_kv_heads, positions = keys.shape[1:3]
    group = num_heads // num_kv_heads
    scores = queries.reshape(batch, num_kv_heads, group * length, dim) @ keys.swapaxes(-1, -2)
    if isinstance(mask, mx.array):
        grouped = scores.reshape(batch, num_kv_heads, group, length, positions)
        mask = mask[:, :, None] if mask.ndim == 4 else mask
        grouped = (
            mx.where(mask, grouped, _MASKED) if mask.dtype == mx.bool_ else grouped + mask.astype(mx.float32)
        )
        scores = grouped.reshape(scores.shape)
        future = None
    else:
        future = _future(length) if mask else None
    mx.eval(scores)
    # A view: from here on the array holds weights, not yet divided by their sums.
    view = np.array(scores, copy=False).reshape(batch * num_heads, length, positions)
    sums = np.empty((batch * num_heads, length), np.float32)
    heads_at_once = max(_ROWS // length, 1)
    for first in range(0, len(view), heads_at_once):
        heads = slice(first, first + heads_at_once)
        for start in range(0, length, _ROWS):
            rows = slice(start, start + _ROWS)
            _exponentiate(view[heads, rows], sums[heads, rows], None if future is None else future[rows])
    mixed = (scores @ values).reshape(batch, num_heads, length, values.shape[-1])
    return mixed / mx.array(sums).reshape(batch, num_heads, length, 1)


@functools.lru_cache(maxsize=2)
def _future(length: int) -> npt.NDArray[np.float32]:
    """Return what hides from each of these rows the positions after it, `[length, length]`."""
    return np.triu(np.full((length, length), -np.inf, np.float32), 1)


def _exponentiate(
    scores: npt.NDArray[np.float32], sums: npt.NDArray[np.float32], future: npt.NDArray[np.float32] | None
) -> None:
    """Make scores `[heads, rows, S]` weights in place; their sums go to `sums`, `[heads, rows]`."""
    if future is not None:
        scores[..., scores.shape[-1] - future.shape[-1] :] += future
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    np.sum(scores, axis=-1, out=sums)


@mx.compile
def _turn(first: mx.array, second: mx.array, cos: mx.array, sin: mx.array) -> list[mx.array]:
    return [first * cos - second * sin, first * sin + second * cos]


def rope(
    a: mx.array,
    dims: int,
    *,
    traditional: bool,
    base: float | mx.array | None,
    scale: float,
    offset: int | mx.array,
    freqs: mx.array | None = None,
    **more: Any,
) -> mx.array:
    """Turn pairs of features by their positions' angles, like `mx.fast.rope`.

    Types other than float32, and bases that are computed, are left to the library.

    Args:
        a: `[B, ..., L, D]`.
        dims: Features that turn, counted from the first; even.
        traditional: Whether neighbours are a pair, rather than features half of `dims` apart.
        base: Ratio of the slowest angle to the fastest; None where `freqs` are given.
        scale: Factor of the positions.
        offset: Position of the first row; one for all, or `[B]`.
        freqs: Positions per radian, `[dims / 2]`.
        more: Passed on to the library.
    """
    if a.dtype != mx.float32 or more or isinstance(base, mx.array):
        return _library_rope(
            a, dims, traditional=traditional, base=base, scale=scale, offset=offset, freqs=freqs, **more
        )
    offsets: Any = [offset] if isinstance(offset, int) else offset.reshape(-1).tolist()
    cos, sin = _angles(a.ndim, a.shape[-2], dims, base, scale, tuple(offsets), freqs)
    if traditional:
        turned = mx.stack(_turn(a[..., 0:dims:2], a[..., 1:dims:2], cos, sin), axis=-1).flatten(-2)
    else:
        turned = mx.concatenate(_turn(a[..., : dims // 2], a[..., dims // 2 : dims], cos, sin), axis=-1)
    return mx.concatenate([turned, a[..., dims:]], axis=-1) if dims < a.shape[-1] else turned


_recent_angles: dict[tuple[Any, ...], tuple[mx.array | None, mx.array, mx.array]] = {}


def _angles(
    ndim: int,
    length: int,
    dims: int,
    base: float | None,
    scale: float,
    offsets: tuple[int, ...],
    freqs: mx.array | None,
) -> tuple[mx.array, mx.array]:
    """Return cosines and sines, `[B or 1, 1..., L, dims / 2]`."""
    key = (ndim, length, dims, base, scale, offsets, id(freqs))
    known = _recent_angles.get(key)
    if known is not None:
        return known[1:]
    if freqs is None:
        rates = mx.exp(mx.arange(dims // 2, dtype=mx.float32) * (-math.log(base or 1.0) / (dims // 2)))
    else:
        rates = 1.0 / freqs.astype(mx.float32)
    positions = (mx.arange(length) + mx.array(offsets)[:, None]).astype(mx.float32) * scale
    angles = (positions[..., None] * rates).reshape(len(offsets), *[1] * (ndim - 3), length, dims // 2)
    cos, sin = mx.cos(angles), mx.sin(angles)
    mx.eval(cos, sin)
    while len(_recent_angles) >= _ANGLES_KEPT:
        del _recent_angles[next(iter(_recent_angles))]
    # The frequencies are kept too: while they are, nothing else can have their id.
    _recent_angles[key] = freqs, cos, sin
    return cos, sin


@mx.compile
def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    return gate / (1.0 + mx.power(2.0, gate * -_LOG2_E)) * x


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """Return `silu(gate) * x`; types other than float32 are left to the library."""
    return _swiglu(gate, x) if gate.dtype == mx.float32 else _library_swiglu(gate, x)


@mx.compile
def _gelu_approx(x: mx.array) -> mx.array:
    # (1 + tanh z) / 2 = 1 / (1 + e^-2z)
    z = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
    return x / (1.0 + mx.power(2.0, z * (-2.0 * _LOG2_E)))


def gelu_approx(x: mx.array) -> mx.array:
    """Return `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`; types other than float32 are left to the library."""
    return _gelu_approx(x) if x.dtype == mx.float32 else _library_gelu_approx(x)


def install(model: Any) -> None:
    """Let this model, and what the library builds models of, use the functions above."""
    _fast.scaled_dot_product_attention = attention
    _fast.rope = rope
    _nn.gelu_approx = gelu_approx
    for module in _modules(model):
        if getattr(module, "swiglu", None) is _library_swiglu:
            module.swiglu = swiglu  # type: ignore[attr-defined]


def uninstall(model: Any) -> None:
    """Give the library its own functions back, to compare the two."""
    _fast.scaled_dot_product_attention = _library_attention
    _fast.rope = _library_rope
    _nn.gelu_approx = _library_gelu_approx
    for module in _modules(model):
        if getattr(module, "swiglu", None) is swiglu:
            module.swiglu = _library_swiglu  # type: ignore[attr-defined]


def _modules(model: Any) -> tuple[ModuleType, ...]:
    return activations, switch_layers, sys.modules[type(model).__module__]
