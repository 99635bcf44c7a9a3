"""Rows of a batch cache join, grow, shrink and leave in any order; each holds what a cache of its own would."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import KVCache

from semanticd.adapters.mlx.model.batch_cache import SlottedKVCache

HEADS, KEY_DIM, VALUE_DIM = 2, 3, 5


def tokens(rows: int, count: int, seed: int = 0) -> tuple[mx.array, mx.array]:
    key = mx.random.key(seed)
    return (
        mx.random.normal((rows, HEADS, count, KEY_DIM), key=key),
        mx.random.normal((rows, HEADS, count, VALUE_DIM), key=key),
    )


def row(length: int, seed: int = 0) -> SlottedKVCache:
    """One row of so many tokens."""
    cache = SlottedKVCache()
    cache.update_and_fetch(*tokens(1, length, seed))
    return cache


def batch_of(*lengths: int) -> SlottedKVCache:
    """Rows of these lengths."""
    batch = row(lengths[0])
    for seed, length in enumerate(lengths[1:], 1):
        batch.extend(row(length, seed))
    return batch


def test_a_single_row_needs_no_mask_to_decode_and_only_order_to_prefill() -> None:
    assert row(5).make_mask(1) is None
    assert row(5).make_mask(1, return_array=True) is None, "deepseek_v32 takes along its mask's axes"
    assert row(5).make_mask(3) == "causal"


def test_who_asks_for_an_array_or_a_window_gets_one() -> None:
    assert row(5).make_mask(3, return_array=True).shape[-2:] == (3, 8)
    assert row(5).make_mask(3, window_size=4).shape[-2:] == (3, 8)


def test_rows_of_equal_length_need_no_mask_and_their_position_is_a_number() -> None:
    batch = batch_of(5, 5)
    assert (batch.make_mask(1), batch.make_mask(2), batch.offset) == (None, "causal", 5)


def test_what_is_behind_a_shorter_row_is_hidden_until_it_alone_is_left() -> None:
    batch = batch_of(5, 3)
    assert batch.make_mask(1)[:, 0, 0].tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert batch.make_mask(2)[1, 0].tolist() == [[True] * 4 + [False] * 3, [True] * 5 + [False] * 2]
    near = batch.make_mask(2, window_size=2)[1, 0].tolist()
    assert near == [[False] * 2 + [True] * 2 + [False] * 3, [False] * 3 + [True] * 2 + [False] * 2]
    assert isinstance(batch.offset, mx.array)
    assert batch.offset.tolist() == [5, 3]
    batch.filter([1])
    assert (batch.size(), batch.make_mask(1), batch.offset) == (3, None, 3)


def test_nothing_of_a_row_that_left_reaches_the_one_that_takes_its_slot() -> None:
    batch = batch_of(9, 9)
    infinite = SlottedKVCache()
    infinite.update_and_fetch(*(array * np.inf for array in tokens(1, 8)))
    batch.extend(infinite)
    batch.filter([0, 1])
    batch.extend(row(2))
    assert batch.keys.shape[0] == 3, "the slot is used again"
    keys, values = batch.keys_and_values()
    assert not keys[2, :, 2:].any()
    assert not values[2, :, 2:].any()


def held(cache: Any, number: int) -> tuple[Any, Any]:
    single = cache.extract(number)
    return np.array(single.keys), np.array(single.values)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_in_a_batch_hold_what_they_would_alone(data: Any) -> None:
    batch: SlottedKVCache | None = None
    alone: list[KVCache] = []
    for seed in range(data.draw(st.integers(3, 14))):
        kind = data.draw(
            st.sampled_from(["join", "join", "step", "step", "rewind", "leave", "reorder", "compact"])
        )
        leaves = kind == "leave" and batch is not None and len(alone) > 1
        if kind == "join" or batch is None:
            joining = [
                data.draw(st.sampled_from([1, 2, 30, 254, 255, 256, 300, 520]))
                for _ in range(data.draw(st.integers(1, 2)))
            ]
            other = None
            for number, length in enumerate(joining):
                keys, values = tokens(1, length, seed=1000 * seed + number)
                single = KVCache()
                single.update_and_fetch(keys, values)
                alone.append(single)
                made = SlottedKVCache()
                made.update_and_fetch(keys, values)
                other = made if other is None else (other.extend(made) or other)
            batch = other if batch is None else (batch.extend(other) or batch)
        elif kind == "step":
            keys, values = tokens(len(alone), data.draw(st.sampled_from([1, 1, 4, 260])), seed)
            batch.update_and_fetch(keys, values)
            for number, single in enumerate(alone):
                single.update_and_fetch(keys[number : number + 1], values[number : number + 1])
        elif kind == "rewind":
            counts = [data.draw(st.integers(0, min(5, single.offset - 1))) for single in alone]
            batch.take_back(counts)
            for single, count in zip(alone, counts, strict=True):
                single.trim(count)
        elif leaves:
            gone = data.draw(st.integers(0, len(alone) - 1))
            order = [number for number in range(len(alone)) if number != gone]
            if data.draw(st.booleans()) and gone < len(order):
                order = [*order[:gone], order[-1], *order[gone:-1]]
            batch.filter(order)
            alone = [alone[number] for number in order]
        elif kind == "reorder":
            order = data.draw(st.permutations(range(len(alone))))
            batch.filter(order)
            alone = [alone[number] for number in order]
        elif kind == "compact":
            spare, before = batch.spare_bytes, batch.nbytes
            assert batch.compact() == spare == before - batch.nbytes
            assert batch.spare_bytes == 0
        assert batch.lengths == [single.offset for single in alone]
        if leaves:
            assert batch.nbytes <= 2 * (batch.nbytes - batch.spare_bytes), "no more is spare than is needed"
        for number, single in enumerate(alone):
            for mine, expected in zip(held(batch, number), single.keys_and_values(), strict=True):
                np.testing.assert_array_equal(mine, np.array(expected))


def peak_of(action: Any) -> int:
    """Return the peak bytes of an action, beyond what is allocated before it."""
    mx.synchronize()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    action()
    mx.synchronize()
    return mx.get_peak_memory() - before


def test_a_step_of_uneven_rows_writes_in_place() -> None:
    batch = batch_of(2000, 1500, 1800)
    new = tokens(3, 1)
    mx.eval(batch.state, new)

    def step() -> None:
        keys, values = batch.update_and_fetch(*new)
        mx.eval(keys[:, :, -1], values[:, :, -1], batch.state)
        del keys, values

    assert peak_of(step) < batch.nbytes // 50


def test_joining_a_free_slot_and_leaving_allocate_no_more_than_a_row() -> None:
    batch = batch_of(2000, 2000, 2000, 2000, 2000)
    assert peak_of(lambda: batch.filter([0, 4, 2, 3])) < 1.5 * batch.nbytes / 5
    assert batch.keys.shape[0] == 5
    joining = row(20, seed=9)
    mx.eval(joining.state)
    assert peak_of(lambda: batch.extend(joining)) < batch.nbytes / 50
    assert batch.lengths == [2000, 2000, 2000, 2000, 20]


def test_what_left_is_given_back_when_it_is_more_than_half_of_what_stays() -> None:
    batch = batch_of(250, 250, 250, 250, 250, 250, 5000)
    one = batch.nbytes // 7 // batch.capacity
    batch.filter([0, 1, 2, 3, 4, 5])
    assert batch.nbytes <= 7 * 256 * one
    for rows in (5, 4, 3, 2, 1):
        batch.filter(range(rows))
        assert batch.spare_bytes <= max((batch.nbytes - batch.spare_bytes) // 2, 256 * one)


def test_layers_that_grow_in_one_step_are_copied_one_after_the_other() -> None:
    layers = [batch_of(255, 255, 255) for _ in range(8)]
    new = tokens(3, 2)
    mx.eval([layer.state for layer in layers], new)
    before = sum(layer.nbytes for layer in layers)

    def step() -> None:
        fetched = [layer.update_and_fetch(*new) for layer in layers]
        mx.eval([keys[:, :, -1] for keys, _ in fetched], [layer.state for layer in layers])

    taken = peak_of(step)
    grown_by = sum(layer.nbytes for layer in layers) - before
    assert grown_by == before
    assert taken < grown_by + before / 4, "besides its growth no more than one layer or two as they were"
