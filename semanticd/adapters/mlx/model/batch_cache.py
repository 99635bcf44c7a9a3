"""SlottedKVCache: the attention cache of a running batch, whose rows join and leave without the others being copied.

```
keys, values [slots, heads, capacity, dim]        lengths (host integers)
slot 0   t0 t1 t2 t3 t4 ·  ·  ·                    5
slot 1   t0 t1 ·  ·  ·  ·  ·  ·                    2    a row begins at index 0: position p is at index p
slot 2   free                                      -    left by a row; the next one that joins is written here
```
mlx-lm's `BatchKVCache` pads rows on the left, so that all end at one index. There, a row that joins or leaves copies
the others, and one token can only be taken back from all rows. Here

- joining writes one slot, if one is free. Else there is one slot more, and the others are copied: an eighth of what a
  step's attention costs (8 rows of 4,000 tokens on two cores), too little to keep slots that take the memory of as
  many rows again. Leaving moves the last row into the slot that became free (see `DecodeBatch.filter`); room that no
  row needs is freed when it is more than half of what is needed and more than a slot, or when memory is short
  (`compact`);
- the capacity grows by `GROWTH_TOKENS`, as the ledger expects. A growth copies all rows, but only once in so many
  steps, each of which reads all rows anyway: under a hundredth of that, however long they are. Steps that grow with
  the length would save a part of this hundredth and cost an eighth of the memory. Copies are made one layer at a time,
  so that old and new tensors never exist at the same time for more than one layer;
- each row's tokens are written at the row's own end: one scatter a layer, in place. One slice for all where they are
  of one length. Measured with 30 layers on two cores: a scatter costs 9 µs a layer more than the slice, and a slice for
  each row more than the scatter from three rows on;
- taking back is subtraction, for each row its own number.

Rows of equal length need no mask but order, and their position is a number, which needs no waiting. Positions
after a row's end are masked; they are zeroed when a slot is reused, because zero times an infinity of the former row
is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, create_attention_mask

from semanticd.domain.decode_groups import capacity_for


class SlottedKVCache:
    """One layer's keys and values of several rows; takes the place of mlx-lm's `BatchKVCache`."""

    def __init__(self, num_rows: int = 1) -> None:
        self.keys: Any = None
        self.values: Any = None
        self.lengths = [0] * num_rows
        self.before_write: Callable[[], None] | None = None
        """Called when a layer has its keys and values; what it raises goes through the model to its caller."""

    @classmethod
    def of_row(cls, keys: mx.array, values: mx.array, length: int) -> SlottedKVCache:
        """Return a cache of one row, whose first `length` positions are filled; arrays `[1, heads, capacity, dim]`."""
        cache = cls()
        cache.keys, cache.values, cache.lengths = keys, values, [length]
        return cache

    # The interface that models use.

    @property
    def offset(self) -> int | mx.array:
        """Position of the next token: of all rows, or `[rows]` where they differ."""
        return self.lengths[0] if self._is_even else _offsets(tuple(self.lengths))

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write tokens behind each row, `[rows, heads, tokens, dim]`; return all, as long as the longest row."""
        if self.before_write is not None:
            self.before_write()
        num_tokens = keys.shape[2]
        if self.room < num_tokens:
            self._grow(num_tokens, like=(keys, values))
        if self._is_even:
            span = slice(self.lengths[0], self.lengths[0] + num_tokens)
            self.keys[: len(self.lengths), :, span] = keys
            self.values[: len(self.lengths), :, span] = values
        else:
            places = _places(tuple(self.lengths), num_tokens, keys.shape[1])
            self.keys[places] = keys
            self.values[places] = values
        self.lengths = [length + num_tokens for length in self.lengths]
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """Return the rows, as long as the longest one."""
        rows, longest = len(self.lengths), self.size()
        if (rows, longest) == (self.keys.shape[0], self.keys.shape[2]):
            return self.keys, self.values
        return self.keys[:rows, :, :longest], self.values[:rows, :, :longest]

    def make_mask(
        self,
        N: int,  # noqa: N803 (the library's name)
        return_array: bool = False,
        window_size: int | None = None,
    ) -> Any:
        """Return what `mx.fast.scaled_dot_product_attention` takes as a mask for N new tokens of each row."""
        if self._is_even:
            # As of one row: models ask for an array and count on None for a single token.
            return create_attention_mask(N, self.lengths[0], return_array, window_size)
        positions = _offsets(tuple(self.lengths))[:, None, None, None] + mx.arange(N)[:, None]
        indices = mx.arange(self.size() + N)
        mask = indices <= positions
        return mask if window_size is None else mask & (indices > positions - window_size)

    # The interface that the library's generation and ours use.

    @property
    def _is_even(self) -> bool:
        """Whether all rows have the same length."""
        return self.lengths.count(self.lengths[0]) == len(self.lengths)

    @property
    def capacity(self) -> int:
        """Tokens that a row may have without a growth."""
        return 0 if self.keys is None else int(self.keys.shape[2])

    @property
    def room(self) -> int:
        """Tokens that every row has room for: more of them would make it grow."""
        return self.capacity - self.size()

    @property
    def state(self) -> tuple[Any, Any]:
        """The arrays, to be evaluated."""
        return self.keys, self.values

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return 0 if self.keys is None else int(self.keys.nbytes + self.values.nbytes)

    @property
    def spare_bytes(self) -> int:
        """Bytes that `compact` would free."""
        if self.keys is None:
            return 0
        return self.nbytes - self.nbytes // (self.keys.shape[0] * self.capacity) * self._needed

    def empty(self) -> bool:
        """Return whether nothing has been written yet."""
        return self.keys is None

    def size(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)

    def is_trimmable(self) -> bool:
        """Tokens can be taken back."""
        return True

    def trim(self, num_tokens: int) -> int:
        """Take back the last tokens of every row; returns how many of the longest one."""
        num_tokens = min(num_tokens, self.size())
        self.take_back([num_tokens] * len(self.lengths))
        return num_tokens

    def take_back(self, counts: Sequence[int]) -> None:
        """Remove this number of tokens from the end of each row."""
        self.lengths = [max(length - count, 0) for length, count in zip(self.lengths, counts, strict=True)]

    def append(self, keys: mx.array, values: mx.array) -> None:
        """Write positions `[heads, tokens, dim]` behind the only row, which has room for them; to be evaluated."""
        (start,) = self.lengths
        end = start + keys.shape[1]
        self.keys[0, :, start:end], self.values[0, :, start:end] = keys, values
        self.lengths = [end]

    def extract(self, row: int) -> KVCache:
        """Return a copy of one row, as the cache of a single sequence."""
        single = KVCache()
        single.keys = mx.contiguous(self.keys[row : row + 1, :, : self.lengths[row]])
        single.values = mx.contiguous(self.values[row : row + 1, :, : self.lengths[row]])
        single.offset = self.lengths[row]
        return single

    def extend(self, other: SlottedKVCache) -> None:
        """Take in the rows of another cache."""
        first, self.lengths = len(self.lengths), self.lengths + other.lengths
        if other.keys is None and self.keys is None:
            return
        # In place only if nothing that runs reads what was there before.
        mx.eval([array for array in (*self.state, *other.state) if array is not None])
        needed = capacity_for(self.size() + 1)
        if self.keys is None or self.keys.shape[0] < len(self.lengths) or self.capacity < self.size():
            self._resize(len(self.lengths), needed, like=(other.keys, other.values), num_kept=first)
        if other.keys is not None:
            for row, length in enumerate(other.lengths):
                part = slice(row, row + 1), slice(None), slice(length)
                self._put(first + row, other.keys[part], other.values[part])
        # A layer at a time: what it was before is free for the next one.
        mx.eval(self.keys, self.values)

    def filter(self, batch_indices: Sequence[int]) -> None:
        """Keep these rows, in this order; only those that change their place are copied."""
        order = [int(row) for row in batch_indices]
        lengths = [self.lengths[row] for row in order]
        moved = [(place, row) for place, row in enumerate(order) if place != row]
        if self.keys is not None:
            if any(row < len(order) for _, row in moved):
                self.keys, self.values = self.keys[mx.array(order)], self.values[mx.array(order)]
            else:
                for place, row in moved:
                    single = self.extract(row)
                    mx.eval(self.keys, self.values, single.keys, single.values)
                    self._put(place, single.keys, single.values)
        self.lengths = lengths
        if self.keys is None:
            return
        held = self.keys.shape[0] * self.capacity
        if held - self._needed > max(self._needed // 2, self.capacity):
            slots = min(len(lengths) + 1, self.keys.shape[0])
            self._resize(slots, min(capacity_for(self.size() + 1), self.capacity))
        mx.eval(self.keys, self.values)

    def compact(self) -> int:
        """Free the room that no row needs; returns the bytes."""
        spare = self.spare_bytes
        if spare:
            self._resize(len(self.lengths), min(capacity_for(self.size() + 1), self.capacity))
            mx.eval(self.keys, self.values)
        return spare

    @property
    def _needed(self) -> int:
        """Tokens, over all rows, that there must be room for."""
        return len(self.lengths) * min(capacity_for(self.size() + 1), self.capacity)

    def _grow(self, num_tokens: int, *, like: tuple[mx.array, mx.array]) -> None:
        """Make room after the longest row for this number of tokens, in arrays `like` these."""
        is_copied = self.keys is not None
        self._resize(len(self.lengths), capacity_for(self.size() + num_tokens), like=like)
        if is_copied:
            # At once: else every layer would have its copy before the first frees its former one.
            mx.eval(self.keys, self.values)

    def _put(self, slot: int, keys: mx.array, values: mx.array) -> None:
        """Write a row, `[1, heads, tokens, dim]`, and nothing behind it."""
        length = keys.shape[2]
        for array, row in ((self.keys, keys), (self.values, values)):
            array[slot : slot + 1, :, :length] = row
            array[slot : slot + 1, :, length:] = 0

    def _resize(
        self,
        slots: int,
        capacity: int,
        *,
        like: tuple[mx.array, mx.array] | None = None,
        num_kept: int | None = None,
    ) -> None:
        """Copy the first `num_kept` rows (all) to arrays of another size; without any, make arrays `like` these."""
        if self.keys is None and like is not None:
            self.keys, self.values = (
                mx.zeros((slots, array.shape[1], capacity, array.shape[3]), array.dtype) for array in like
            )
            return
        rows = len(self.lengths) if num_kept is None else num_kept
        used = min(max(self.lengths[:rows]), capacity)
        padding = [(0, slots - rows), (0, 0), (0, capacity - used), (0, 0)]
        self.keys = mx.pad(self.keys[:rows, :, :used], padding)
        self.values = mx.pad(self.values[:rows, :, :used], padding)


@lru_cache(maxsize=4)
def _offsets(lengths: tuple[int, ...]) -> mx.array:
    """Return the rows' lengths as an array, which all layers of a step share."""
    return mx.array(lengths)


@lru_cache(maxsize=8)
def _places(lengths: tuple[int, ...], num_tokens: int, num_heads: int) -> tuple[mx.array, mx.array, mx.array]:
    """Return the indices behind each row, which all layers of a step share: slots, heads, positions."""
    rows = mx.arange(len(lengths))[:, None, None]
    positions = mx.array(lengths)[:, None, None] + mx.arange(num_tokens)
    return rows, mx.arange(num_heads)[None, :, None], positions
