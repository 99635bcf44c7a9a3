"""A batch asks for a mask only where a row is padded, and a single row knows its position without asking."""

from __future__ import annotations

import mlx.core as mx

from semanticd.adapters.mlx.model.batch_cache import UnmaskedBatchKVCache


def row(length: int) -> UnmaskedBatchKVCache:
    """One row of so many tokens."""
    cache = UnmaskedBatchKVCache([0])
    cache.update_and_fetch(mx.ones((1, 1, length, 4)), mx.ones((1, 1, length, 4)))
    return cache


def test_a_single_row_needs_no_mask_to_decode_and_only_order_to_prefill() -> None:
    assert row(5).make_mask(1) is None
    assert row(5).make_mask(3) == "causal"


def test_who_asks_for_an_array_or_a_window_gets_one() -> None:
    assert row(5).make_mask(3, return_array=True).shape[-2:] == (3, 8)
    assert row(5).make_mask(3, window_size=4).shape[-2:] == (3, 8)


def test_rows_of_equal_length_need_no_mask_either() -> None:
    batch = row(5)
    batch.extend(row(5))
    assert batch.make_mask(1) is None


def test_a_shorter_row_is_hidden_where_it_is_padded_until_it_alone_is_left() -> None:
    batch = row(5)
    batch.extend(row(3))
    assert batch.make_mask(1)[:, 0, 0].tolist() == [[True] * 6, [False] * 2 + [True] * 4]
    again = row(5)
    again.extend(row(5))
    again.extend(batch)
    assert again.make_mask(1)[3, 0, 0].tolist() == [False] * 2 + [True] * 4
    again.filter([3])
    assert (again.size(), again.make_mask(1)) == (3, None)


def test_announced_padding_counts() -> None:
    cache = UnmaskedBatchKVCache([0, 0])
    cache.prepare(lengths=[2, 1], right_padding=[0, 1])
    assert isinstance(cache.make_mask(2), mx.array)
    assert isinstance(UnmaskedBatchKVCache([0, 2]).make_mask(2), mx.array)


def test_the_position_of_a_single_row_is_a_number_and_of_several_an_array() -> None:
    batch = row(5)
    assert batch.offset == 5
    batch.extend(row(3))
    batch.update_and_fetch(mx.ones((2, 1, 1, 4)), mx.ones((2, 1, 1, 4)))
    assert batch.offset.tolist() == [6, 4]
    batch.filter([1])
    assert batch.offset == 4
    batch.trim(1)
    assert batch.offset == batch.size() == 3


def test_padding_that_was_announced_counts_for_the_position() -> None:
    cache = UnmaskedBatchKVCache([0])
    cache.prepare(lengths=[1], right_padding=[1])
    cache.update_and_fetch(mx.ones((1, 1, 2, 4)), mx.ones((1, 1, 2, 4)))
    cache.finalize()
    assert cache.offset.tolist() == [1]
