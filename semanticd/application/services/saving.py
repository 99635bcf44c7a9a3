"""Waits until the disk has an answer before it is sent, so that a crash loses nothing that was answered.

A disk that is slow, or hangs, is waited for within a bound only: the writing is queued, and the answer says so.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

SAVED_WITHIN_S = 5.0
"""Maximum time that an answer waits for the disk, in seconds."""


async def saved_within(saving: Future[bool], seconds: float) -> bool:
    """Return whether the disk has it by then; False too where it refused, or is not done yet."""
    waiting = asyncio.ensure_future(asyncio.wrap_future(saving))
    await asyncio.wait({waiting}, timeout=seconds)
    return waiting.done() and waiting.result()
