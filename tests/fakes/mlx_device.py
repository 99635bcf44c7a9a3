"""A device that counts: how often Python waits for MLX, and how often it begins an evaluation and goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import pytest


class Device:
    """Counts what a step asks of MLX: `waits` for results, and `begun` evaluations."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.order: list[str] = []

    def note(self, what: str) -> None:
        self.seen[what] += 1
        self.order.append(what)


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """Count every way in which Python can wait for MLX: the step's own, and each that an array has."""
    device = Device()

    def noting(what: str, function: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            device.note(what)
            return function(*args, **more)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(mx, "eval", noting("wait", mx.eval))
        patch.setattr(mx, "synchronize", noting("wait", mx.synchronize))
        patch.setattr(mx, "async_eval", noting("begin", mx.async_eval))
        for name in ("tolist", "item", "__array__", "__bool__", "__int__", "__float__", "__buffer__"):
            if hasattr(mx.array, name):
                patch.setattr(mx.array, name, noting("wait", getattr(mx.array, name)))
        yield device
