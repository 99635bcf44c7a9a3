"""Swap stall: another model is made the current one while a client asks; how long does it wait for its first token?"""

from __future__ import annotations

import asyncio
import time

from semanticd.bench.result import Figure, time_figure
from semanticd.bench.scenarios import Skipped
from semanticd.bench.session import BenchSession
from semanticd.bench.statistics import median

NAME = "swap"
PROMPT_TOKENS = 32
ASKED_AFTER_S = 0.05
"""The request comes when the swap has begun."""


async def run(session: BenchSession) -> list[Figure]:
    """Swap `repeats` times; each swap is met by one request."""
    if session.swap is None:
        raise Skipped("no swap command was given (--swap-command)")
    idle = [await _short(session, f"idle/{number}") for number in range(session.settings.repeats)]
    swaps, stalls = [], []
    for number in range(session.settings.repeats):
        began = time.perf_counter()
        swapping = asyncio.create_task(_timed(session))
        await asyncio.sleep(ASKED_AFTER_S)
        ttft = await _short(session, f"swap/{number}")
        swaps.append(await swapping - began)
        stalls.append(ttft)
        session.tell(
            f"idle {median(idle):.2f} s, during a swap {ttft:.2f} s; the swap took {swaps[-1]:.2f} s"
        )
    return [
        time_figure(NAME, "all", "idle_ttft", idle),
        time_figure(NAME, "all", "ttft_during_swap", stalls),
        time_figure(NAME, "all", "swap", swaps),
    ]


async def _timed(session: BenchSession) -> float:
    assert session.swap is not None
    await session.swap()
    return time.perf_counter()


async def _short(session: BenchSession, label: str) -> float:
    message = {"role": "user", "content": session.text.prompt(f"swap/{label}", PROMPT_TOKENS)}
    answer = await session.client.ask([message], max_tokens=2, agent=f"bench-swap-{label}")
    return answer.ttft_s
