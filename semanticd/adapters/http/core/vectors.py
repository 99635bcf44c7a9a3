"""Vectors as the dialects send them: lists of numbers, or base64 of little-endian float32."""

from __future__ import annotations

import asyncio
import base64
from array import array
from collections.abc import Callable, Sequence
from sys import byteorder
from typing import Any

import msgspec

_MANY_BYTES = 64 * 1024
"""Larger answers are written outside of the event loop."""


def as_numbers(vector: bytes) -> list[float]:
    """Return a vector's numbers."""
    numbers = array("f", vector)
    if byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def as_base64(vector: bytes) -> str:
    """Return a vector as OpenAI's `base64` encoding has it."""
    return base64.b64encode(vector).decode("ascii")


async def written(vectors: Sequence[bytes], answer: Callable[[], Any]) -> bytes:
    """Return `answer()`, which is made of the vectors, as JSON; a large one is made outside of the event loop."""
    if sum(map(len, vectors)) <= _MANY_BYTES:
        return msgspec.json.encode(answer())
    return await asyncio.to_thread(lambda: msgspec.json.encode(answer()))
