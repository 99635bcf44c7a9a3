"""Evaluates a prefill chunk in parts, so that one which nobody wants any more is left in the middle.

A chunk of a long prompt takes up to a second. What a layer's cache holds depends on the layers before it and on none
behind: evaluated in the layers' order, a part at a time, a chunk computes the same as at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

NUM_PARTS = 16
"""Parts of a chunk, at most: of one that takes a second each takes 60 ms."""


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
