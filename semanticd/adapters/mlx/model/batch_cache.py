"""The attention cache of a running batch: the library's, without masks that hide nothing."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache


class UnmaskedBatchKVCache(BatchKVCache):
    """A `BatchKVCache` that knows whether its rows are padded, and whether there is but one.

    The library's makes a mask for every step, because rows of different lengths are padded on the left. A single row,
    and rows of equal length, have no padding: without the mask attention need not read it, nor compute what lies in
    the future. And the position of a single row is a number, which nobody has to wait for, as in the library's cache
    of a single sequence.
    """

    def __init__(self, left_padding: list[int]) -> None:
        """Make an empty cache of as many rows, padded on the left by so many tokens."""
        self.padded = any(left_padding)
        self._alone = not self.padded and len(left_padding) == 1
        super().__init__(left_padding)

    @property
    def offset(self) -> int | mx.array:
        """Position of the next token: of the only row, or `[rows]`."""
        return self._idx if self._alone else self._offsets

    @offset.setter
    def offset(self, offset: int | mx.array) -> None:
        self._offsets = offset

    def make_mask(self, N: int, return_array: bool = False, **more: Any) -> Any:  # noqa: N803 (the library's name)
        """Return what `mx.fast.scaled_dot_product_attention` takes as a mask for N new tokens."""
        if self.padded or return_array or more.get("window_size") is not None:
            return super().make_mask(N, return_array, **more)
        return "causal" if N > 1 else None

    @property
    def room(self) -> int:
        """Tokens for which there is room: more of them would make it grow."""
        return 0 if self.keys is None else int(self.keys.shape[2]) - int(self._idx)

    def prepare(self, **more: Any) -> None:
        """Announce padding."""
        self.end_alone()
        super().prepare(**more)
        self.padded = True

    def filter(self, batch_indices: Any) -> None:
        """Keep these rows."""
        self.end_alone()
        super().filter(batch_indices)
        self.padded = self.padded and any(self.left_padding.tolist())
        self._alone = not self.padded and len(batch_indices) == 1

    def extend(self, other: Any) -> None:
        """Add the rows of another cache."""
        self.padded = self.padded or other.padded or self.size() != other.size()
        self.end_alone()
        other.end_alone()
        super().extend(other)

    def end_alone(self) -> None:
        """Keep the positions as the library does from here on."""
        if self._alone:
            self._alone, self._offsets = False, mx.array([self._idx])
