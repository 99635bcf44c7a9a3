"""Attention, rotary positions and gated activations, faster on MLX's CPU back-end; for that device only.

There `exp` is the slow part (mlx 0.32): a softmax over scores, or a SiLU, takes longer than the matrix products
alongside it; and a function that the GPU has a kernel for is a dozen small steps. Ways around it, all equal to the
library's within float32 rounding (tested):

- `exp` is numpy's, which takes a tenth of the time, in the array's own memory. Scores become weights a few rows at a
  time, so that they stay in the processor's cache, and where there are many of them on all cores; query heads that
  share a key head are one matrix product. The products stay MLX's, which go through the fast BLAS.
- Sines and cosines of positions are the same in every layer: they are computed once a step. Where neighbours are a
  pair, they are a complex number, and turning them is one product.
- What these functions return is begun at once: else nothing would be computed while Python describes what follows.

`install` puts these in the library's place, because each model's module holds its own references to them.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn
from mlx_lm.models import activations, switch_layers

REVISION = 1
"""Counts changes of what these functions compute."""

_MASKED = -1e30
"""Far below any score, and finite: a row that is all padding must not become NaN."""
SCORES_BYTES = 8 << 20
"""Largest tensor of scores; longer queries are split. Larger ones are not faster, and no budget covers them."""
_ROWS = 64
"""Rows of scores handled at once: with 1,024 keys 256 KiB, which fits into a core's own cache."""
_BLOCKS_PER_THREAD = 6
"""Blocks of rows, fewer of which are done before another thread has woken."""
_NUM_THREADS = min(os.cpu_count() or 1, 8)
_helpers = ThreadPoolExecutor(max(_NUM_THREADS - 1, 1), thread_name_prefix="semanticd-softmax")
_TURNS_KEPT = 8
"""A step needs one set of cosines and sines, models that mix two kinds of attention two; batches may take turns."""

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
        return _begun(_library_attention(queries, keys, values, scale=scale, mask=mask, sinks=sinks, **more))
    if sinks is not None or queries.dtype != mx.float32 or per_head:
        return _library_attention(queries, keys, values, scale=scale, mask=mask, sinks=sinks, **more)
    batch, num_heads, length, _ = queries.shape
    positions = keys.shape[2]
    rows = max(16, SCORES_BYTES // (batch * num_heads * positions * 4))
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
    return _begun(parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2))


def _begun(result: mx.array) -> mx.array:
    mx.async_eval(result)
    return result


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
    _weigh(view, sums, future)
    mixed = (scores @ values).reshape(batch, num_heads, length, values.shape[-1])
    return mixed / mx.array(sums).reshape(batch, num_heads, length, 1)


@functools.lru_cache(maxsize=2)
def _future(length: int) -> npt.NDArray[np.float32]:
    """Return what hides from each of these rows the positions after it, `[length, length]`."""
    return np.triu(np.full((length, length), -np.inf, np.float32), 1)


def _weigh(
    scores: npt.NDArray[np.float32], sums: npt.NDArray[np.float32], future: npt.NDArray[np.float32] | None
) -> None:
    """Make scores `[heads, L, S]` weights in place; their sums go to `sums`, `[heads, L]`."""
    num_heads, length, _ = scores.shape
    heads_at_once = max(_ROWS // length, 1)
    blocks = [
        (slice(head, head + heads_at_once), slice(row, row + _ROWS))
        for head in range(0, num_heads, heads_at_once)
        for row in range(0, length, _ROWS)
    ]

    def weigh(blocks: list[tuple[slice, slice]]) -> None:
        for heads, rows in blocks:
            _exponentiate(scores[heads, rows], sums[heads, rows], None if future is None else future[rows])

    num_threads = min(_NUM_THREADS, len(blocks) // _BLOCKS_PER_THREAD) or 1
    others = [_helpers.submit(weigh, blocks[i::num_threads]) for i in range(1, num_threads)]
    weigh(blocks[::num_threads])
    for other in others:
        other.result()


def _exponentiate(
    scores: npt.NDArray[np.float32], sums: npt.NDArray[np.float32], future: npt.NDArray[np.float32] | None
) -> None:
    """Make scores `[heads, rows, S]` weights in place; their sums go to `sums`, `[heads, rows]`."""
    if future is not None:
        scores[..., scores.shape[-1] - future.shape[-1] :] += future
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    np.sum(scores, axis=-1, out=sums)


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
    turns = _turns(traditional, a.ndim, a.shape[-2], dims, base, scale, tuple(offsets), freqs)
    if traditional:
        turned = (a[..., :dims].view(mx.complex64) * turns[0]).view(mx.float32)
    else:
        cos, sin = turns
        first, second = a[..., : dims // 2], a[..., dims // 2 : dims]
        turned = mx.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return mx.concatenate([turned, a[..., dims:]], axis=-1) if dims < a.shape[-1] else turned


_recent_turns: dict[tuple[Any, ...], tuple[mx.array | None, tuple[mx.array, ...]]] = {}


def _turns(
    traditional: bool,
    ndim: int,
    length: int,
    dims: int,
    base: float | None,
    scale: float,
    offsets: tuple[int, ...],
    freqs: mx.array | None,
) -> tuple[mx.array, ...]:
    """Return cosines and sines, `[B or 1, 1..., L, dims / 2]`; where neighbours are a pair, as one complex array."""
    key = (traditional, ndim, length, dims, base, scale, offsets, id(freqs))
    known = _recent_turns.get(key)
    if known is not None:
        return known[1]
    if freqs is None:
        rates = mx.exp(mx.arange(dims // 2, dtype=mx.float32) * (-math.log(base or 1.0) / (dims // 2)))
    else:
        rates = 1.0 / freqs.astype(mx.float32)
    positions = (mx.arange(length) + mx.array(offsets)[:, None]).astype(mx.float32) * scale
    angles = (positions[..., None] * rates).reshape(len(offsets), *[1] * (ndim - 3), length, dims // 2)
    cos, sin = mx.cos(angles), mx.sin(angles)
    turns = (cos + 1j * sin,) if traditional else (cos, sin)
    mx.eval(turns)
    while len(_recent_turns) >= _TURNS_KEPT:
        del _recent_turns[next(iter(_recent_turns))]
    # The frequencies are kept too: while they are, nothing else can have their id.
    _recent_turns[key] = freqs, turns
    return turns


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """Return `silu(gate) * x`; types other than float32 are left to the library."""
    if gate.dtype != mx.float32:
        return _library_swiglu(gate, x)
    return _begun(gate / (1.0 + _exp_in_place(-gate)) * x)


def gelu_approx(x: mx.array) -> mx.array:
    """Return `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`; types other than float32 are left to the library."""
    if x.dtype != mx.float32:
        return _library_gelu_approx(x)
    # (1 + tanh z) / 2 = 1 / (1 + e^-2z)
    return _begun(x / (1.0 + _exp_in_place((x + 0.044715 * x * x * x) * (-2.0 * math.sqrt(2.0 / math.pi)))))


def _exp_in_place(x: mx.array) -> mx.array:
    """Return `e ** x`, computed now; `x` must have no other owner, because it holds the result."""
    mx.eval(x)
    view = np.array(x, copy=False)
    # Infinity is right: it is divided by.
    with np.errstate(over="ignore"):
        np.exp(view, out=view)
    return x


def install(model: Any) -> None:
    """Let this model, and what the library builds models of, use the functions above."""
    _fast.scaled_dot_product_attention = attention
    _fast.rope = rope
    _nn.gelu_approx = gelu_approx
    for module in _modules(model):
        if getattr(module, "swiglu", None) is _library_swiglu:
            module.swiglu = swiglu  # type: ignore[attr-defined]
    _share_frequencies(model)


def _share_frequencies(model: Any) -> None:
    """Let layers whose rotary frequencies are equal hold one array, so that they find one another's turns."""
    known: dict[tuple[tuple[int, ...], bytes], mx.array] = {}
    for module in model.modules():
        freqs = module.get("_freqs")
        if isinstance(freqs, mx.array):
            module["_freqs"] = known.setdefault((freqs.shape, np.array(freqs).tobytes()), freqs)


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
