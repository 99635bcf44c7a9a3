"""OutputHead: a model's step from features to logits, the widest of its matrices, for the last position only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx


class OutputHead:
    """The module of an mlx-lm model that computes the logits: `lm_head`, or the embeddings if they are tied.

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
        with self._replaced(_of_last):
            yield

    def joining(self, model: Any, rest: Sequence[int]) -> Callable[..., mx.array]:
        """Return the model for a step that computes the tokens of `rest` before its own; its logits are as above."""
        before = mx.array([list(rest)], mx.uint32)

        def step(last: mx.array, cache: Any) -> mx.array:
            with self.last_position_only():
                logits: mx.array = model(mx.concatenate([before, last], axis=1), cache=cache)
            return logits

        return step

    @contextmanager
    def seen(self) -> Iterator[list[mx.array]]:
        """Inside, a call of the model adds its features, `[B, L, D]`, to the list; its logits are as above."""
        found: list[mx.array] = []

        def noting(head: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
            def step(features: mx.array) -> mx.array:
                found.append(features)
                return head(features[:, -1:])

            return step

        with self._replaced(noting):
            yield found

    @contextmanager
    def _replaced(
        self, change: Callable[[Callable[[mx.array], mx.array]], Callable[[mx.array], mx.array]]
    ) -> Iterator[None]:
        heads = [owner["lm_head"] for owner in self._owners]
        try:
            for owner, head in zip(self._owners, heads, strict=True):
                owner["lm_head"] = change(head)
            for embedding in self._embeddings:
                embedding.as_linear = change(embedding.as_linear)
            yield
        finally:
            for owner, head in zip(self._owners, heads, strict=True):
                owner["lm_head"] = head
            for embedding in self._embeddings:
                embedding.__dict__.pop("as_linear", None)


def _of_last(head: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
    return lambda features: head(features[:, -1:])
