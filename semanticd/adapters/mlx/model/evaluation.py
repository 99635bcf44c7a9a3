"""Evaluates a prefill chunk in parts, so that an unneeded chunk can be abandoned in the middle.

A chunk of a long prompt takes up to a second. A layer's cache depends on the layers before it and on none
after it: evaluated in the layers' order, a part at a time, a chunk computes the same as at once. On a CPU our own
functions compute while the model is called (`cpu_math`): there each layer's cache asks before it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from semanticd.adapters.mlx.model.batch_cache import SlottedKVCache

NUM_PARTS = 16
"""Parts of a chunk, at most: of one that takes a second each takes 60 ms."""


class LeftError(Exception):
    """A chunk was left while the model was called."""


@contextmanager
def leaving_between_layers(
    caches: Iterable[SlottedKVCache], *, is_unwanted: Callable[[], bool]
) -> Iterator[None]:
    """Inside, a call of the model raises `LeftError` at the next layer once `is_unwanted` says yes."""

    def ask() -> None:
        if is_unwanted():
            raise LeftError

    leaves = list(caches)
    for leaf in leaves:
        leaf.before_write = ask
    try:
        yield
    finally:
        for leaf in leaves:
            leaf.before_write = None


def evaluated_in_parts(states: Sequence[Any], *, is_unwanted: Callable[[], bool]) -> bool:
    """Evaluate the layers' states in their order; returns whether all were.

    `is_unwanted` is asked before each part; once it says yes, what was not begun is left.
    """
    # A GPU has the next part in its queue while it computes one, so that it never waits for Python; two are computed
    # after the answer changed.
    has_queue = mx.default_device() != mx.Device(mx.cpu)
    size = max(-(-len(states) // NUM_PARTS), 1)
    begun: Sequence[Any] = ()
    for start in range(0, len(states), size):
        if is_unwanted():
            return False
        part = states[start : start + size]
        if has_queue:
            mx.async_eval(part)
            mx.eval(begun)
            begun = part
        else:
            mx.eval(part)
    mx.eval(begun)
    return True
