"""OutputHead: a model's step from features to logits, the widest of its matrices, for the last position only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx


class OutputHead:
    """Where one of mlx-lm's models computes its logits: in its `lm_head`, or in its embeddings when they are tied.

    A model that does it elsewhere computes the logits of all positions, as it would without this.
    """

    def __init__(self, model: Any) -> None:
        """Look through the model's modules."""
        modules: list[Any] = model.modules()
        self._owners = [module for module in modules if "lm_head" in module]
        self._embeddings = [module for module in modules if hasattr(module, "as_linear")]

    @contextmanager
    def last_position_only(self) -> Iterator[None]:
        """Inside, a call of the model returns logits of its last position alone, `[B, 1, V]`."""
        heads = [owner["lm_head"] for owner in self._owners]
        try:
            for owner, head in zip(self._owners, heads, strict=True):
                owner["lm_head"] = _of_last(head)
            for embedding in self._embeddings:
                embedding.as_linear = _of_last(embedding.as_linear)
            yield
        finally:
            for owner, head in zip(self._owners, heads, strict=True):
                owner["lm_head"] = head
            for embedding in self._embeddings:
                embedding.__dict__.pop("as_linear", None)


def _of_last(head: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
    return lambda features: head(features[:, -1:])
