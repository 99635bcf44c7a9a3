"""The attention cache of a running batch: the library's, without masks that hide nothing."""

from __future__ import annotations

from typing import Any

from mlx_lm.models.cache import BatchKVCache


class UnmaskedBatchKVCache(BatchKVCache):
    """A `BatchKVCache` that knows whether its rows are padded.

    The library's makes a mask for every step, because rows of different lengths are padded on the left. A single row,
    and rows of equal length, have no padding: without the mask attention need not read it, nor compute what lies in
    the future.
    """

    def __init__(self, left_padding: list[int]) -> None:
        """Make an empty cache of as many rows, padded on the left by so many tokens."""
        super().__init__(left_padding)
        self.padded = any(left_padding)

    def make_mask(self, N: int, return_array: bool = False, **more: Any) -> Any:  # noqa: N803 (the library's name)
        """Return what `mx.fast.scaled_dot_product_attention` takes as a mask for N new tokens."""
        if self.padded or return_array or more.get("window_size") is not None:
            return super().make_mask(N, return_array, **more)
        return "causal" if N > 1 else None

    def prepare(self, **more: Any) -> None:
        """Announce padding."""
        super().prepare(**more)
        self.padded = True

    def filter(self, batch_indices: Any) -> None:
        """Keep these rows."""
        super().filter(batch_indices)
        self.padded = self.padded and any(self.left_padding.tolist())

    def extend(self, other: Any) -> None:
        """Add the rows of another cache."""
        self.padded = self.padded or other.padded or self.size() != other.size()
        super().extend(other)
