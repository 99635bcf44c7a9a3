"""Masks of the allowed next tokens, one bit each: an eighth of the bytes to copy to the device for every token."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import numpy.typing as npt

PackedMask = npt.NDArray[np.uint32]
"""Words of 32 tokens, lowest bit first; tokens beyond its end may not come."""

_EVERY = np.uint32(0xFFFFFFFF)
_BITS = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))


def only(token_ids: Sequence[int]) -> PackedMask:
    """Return a mask of these tokens alone."""
    words = np.zeros(max(token_ids, default=0) // 32 + 1, dtype=np.uint32)
    for token_id in token_ids:
        words[token_id // 32] |= np.uint32(1 << token_id % 32)
    return words


def all_but(token_ids: Sequence[int], size: int) -> PackedMask:
    """Return a mask of `size` tokens without these."""
    words = within(np.full(-(-size // 32), _EVERY, dtype=np.uint32), size)
    for token_id in token_ids:
        words[token_id // 32] &= _EVERY ^ np.uint32(1 << token_id % 32)
    return words


def within(words: PackedMask, size: int) -> PackedMask:
    """Return a mask without tokens from `size` on."""
    words = words[: -(-size // 32)]
    if size % 32 and len(words) > size // 32:
        words = words.copy()
        words[-1] &= np.uint32((1 << size % 32) - 1)
    return words


def masked(logits: mx.array, mask: PackedMask) -> mx.array:
    """Return a row of logits `[1, vocab]` with all tokens but those of the mask at minus infinity."""
    size = logits.shape[-1]
    num_words = -(-size // 32)
    words = mask[:num_words] if len(mask) >= num_words else np.pad(mask, (0, num_words - len(mask)))
    allowed = ((mx.array(words)[:, None] & mx.array(_BITS)) != 0).reshape(1, -1)[:, :size]
    return mx.where(allowed, logits, -float("inf"))
