"""Decode rate of mlx-lm by itself, the baseline for our engine. Engine thread only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step

from semanticd.application.ports.inference import StreamDecoder


def library_decode_rate(
    model: Any, prompt: Sequence[int], *, num_tokens: int, decoder: StreamDecoder
) -> float:
    """Return tokens per second from the first to the last of `num_tokens` greedy ones, their text included.

    This is the loop of mlx-lm's `stream_generate`, without its end at an end of turn, and without its wiring of all
    memory that the device recommends: the engine wires the weights only, and both shall be measured alike.
    """
    steps = generate_step(mx.array(list(prompt)), model, max_tokens=num_tokens)
    began = 0.0
    count = 0
    for token, _ in steps:
        if not count:
            began = time.perf_counter()
        decoder.add(int(token))
        count += 1
    return (count - 1) / max(time.perf_counter() - began, 1e-9)
