"""Stored keys and values stay as close to what they were as their bits allow, whatever the shape."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from semanticd.adapters.mlx.model.kv_quantization import GROUP, KvQuantization, rotation

LAYERS, HEADS = 2, 3
DIMS = [64, 96, 256, 80, 16, 8]
LENGTHS = [1, 2, 63, 64, 65, 100, 256]


def numbers(num_tokens: int, dim: int, *, seed: int = 0) -> np.ndarray:
    """Return keys as models make them: some channels with an offset, and a first token ten times as large."""
    source = np.random.default_rng(seed)
    array = source.standard_normal((LAYERS, HEADS, num_tokens, dim)).astype(np.float32)
    array += 4 * (source.random((1, 1, 1, dim)) < 0.1)
    array[:, :, :1] *= 10
    return array


def stored(way: KvQuantization, array: np.ndarray, *, begins: bool) -> np.ndarray:
    parts = way.encode(mx.array(array).astype(way.dtype), begins=begins)
    mx.eval(list(parts.values()))
    assert way.fits(parts, num_layers=LAYERS)
    decoded = way.decode(parts, num_tokens=array.shape[2])
    assert decoded.dtype == way.dtype
    return np.array(decoded.astype(mx.float32))


def step_of(groups: np.ndarray, bits: int) -> np.ndarray:
    """Return how far a number may be from what it was, for each group of the last axis: half a step and a little.

    MLX moves the grid so that zero lies on it, by half a step of the shorter side at most, and what lies at the other
    end may be cut by as much. Scale and offset are rounded to half precision.
    """
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    largest = np.maximum(np.abs(low), np.abs(high))
    return 1.2 * (high - low) / (2**bits - 1) + largest / 512 + 1e-5


def bound(rotated: np.ndarray, bits: int, *, by_channel: bool) -> np.ndarray:
    """Return the allowed distance in the rotated space, grouped as the format says."""
    layers, heads, num_tokens, dim = rotated.shape
    split = num_tokens // GROUP * GROUP if by_channel else 0
    allowed = np.empty_like(rotated)
    if split:
        turned = rotated[:, :, :split].swapaxes(-1, -2).reshape(layers, heads, dim, -1, GROUP)
        wide = np.broadcast_to(step_of(turned, bits), turned.shape)
        allowed[:, :, :split] = wide.reshape(layers, heads, dim, split).swapaxes(-1, -2)
    if split < num_tokens:
        flat = rotated[:, :, split:].reshape(layers, heads, -1)
        padded = np.pad(flat, [(0, 0), (0, 0), (0, -flat.shape[2] % GROUP)]).reshape(layers, heads, -1, GROUP)
        wide = np.broadcast_to(step_of(padded, bits), padded.shape).reshape(layers, heads, -1)
        allowed[:, :, split:] = wide[:, :, : flat.shape[2]].reshape(rotated[:, :, split:].shape)
    return allowed


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("num_tokens", LENGTHS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("by_channel", [True, False])
@pytest.mark.parametrize("begins", [True, False])
def test_what_is_decoded_is_within_a_step_of_its_group(
    dim: int, num_tokens: int, bits: int, by_channel: bool, begins: bool
) -> None:
    way = KvQuantization(bits, HEADS, dim, mx.float32, by_channel=by_channel)
    array = numbers(num_tokens, dim)
    decoded = stored(way, array, begins=begins)
    assert decoded.shape == array.shape
    grouped = array.copy()
    if begins:
        assert np.array_equal(decoded[:, :, 0], array[:, :, 0])
        if num_tokens > 1:
            # It does not widen its group: its neighbour counts in its place.
            grouped[:, :, 0] = array[:, :, 1]
    turn = np.array(rotation(dim))
    allowed = bound(grouped @ turn, bits, by_channel=by_channel)
    error = np.abs((decoded - array) @ turn)
    assert (error <= allowed).all()


@pytest.mark.parametrize("dim", [*DIMS, 192, 512])
def test_a_rotation_is_its_own_inverse_and_spreads_every_channel(dim: int) -> None:
    turn = np.array(rotation(dim))
    assert np.allclose(turn @ turn, np.eye(dim), atol=1e-5)
    assert np.allclose(turn, turn.T)
    # 8 is the smallest part of these lengths.
    assert np.abs(turn).max() <= 8**-0.5 + 1e-6


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("dim", [64, 80, 96, 256])
@pytest.mark.parametrize("by_channel", [True, False])
def test_four_bits_are_at_most_four_and_six_tenths_with_all_that_belongs_to_them(
    dtype: mx.Dtype, dim: int, by_channel: bool
) -> None:
    way = KvQuantization(4, HEADS, dim, dtype, by_channel=by_channel)
    parts = way.encode(mx.array(numbers(256, dim)).astype(dtype), begins=True)
    num_bytes = sum(part.nbytes for part in parts.values())
    assert num_bytes == LAYERS * (256 * way.bytes_per_token + way.first_token_bytes)
    assert 8 * num_bytes / (LAYERS * HEADS * 256 * dim) <= 4.6
    assert np.array_equal(
        np.array(way.decode(parts, num_tokens=1)[:, :, 0].astype(mx.float32)),
        np.array(mx.array(numbers(256, dim)).astype(dtype)[:, :, 0].astype(mx.float32)),
    )


def test_numbers_beyond_half_precision_stay_finite() -> None:
    way = KvQuantization(4, HEADS, 64, mx.float32, by_channel=True)
    decoded = stored(way, 1e7 * numbers(64, 64), begins=False)
    assert np.isfinite(decoded).all()


def test_parts_of_another_shape_do_not_fit() -> None:
    way = KvQuantization(4, HEADS, 64, mx.float32, by_channel=True)
    parts = way.encode(mx.array(numbers(100, 64)), begins=True)
    assert way.fits(parts, num_layers=LAYERS)
    assert not way.fits(parts, num_layers=LAYERS + 1)
    assert not KvQuantization(4, HEADS, 80, mx.float32, by_channel=True).fits(parts, num_layers=LAYERS)
    assert not KvQuantization(4, HEADS + 1, 64, mx.float32, by_channel=True).fits(parts, num_layers=LAYERS)
    for name in parts:
        if name != "x":
            others = {key: part for key, part in parts.items() if key != name}
            # Without the packed numbers of one kind the rest is a whole block of fewer tokens.
            assert way.fits(others, num_layers=LAYERS) == (name in {"cq", "tq"})
    assert not way.fits({"q": parts["cq"], "s": parts["cs"], "b": parts["cb"]}, num_layers=LAYERS)
