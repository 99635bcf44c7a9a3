"""Interference: decode rate of one agent during another's long prefill, relative to its rate without it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from semanticd.bench.client import Answer
from semanticd.bench.errors import BenchError
from semanticd.bench.result import Figure
from semanticd.bench.session import BenchSession
from semanticd.bench.statistics import gaps

NAME = "interference"
PROMPT_TOKENS = 32
SOLO_PIECES = 40
DECODER_TOKENS = 2000
"""More than the prompt's computation allows; the decoder is dropped when the other has its first token."""


async def run(session: BenchSession) -> list[Figure]:
    """Measure the decoder alone, then until the long prompt's first token."""
    pieces: list[float] = []
    decoder = asyncio.create_task(_decode(session, pieces))
    try:
        while len(pieces) < SOLO_PIECES:
            if decoder.done():
                decoder.result()
                raise BenchError(
                    f"the decoding agent's answer ended after {len(pieces)} pieces; forbid the model's end token with "
                    "--stop-token-id"
                )
            await asyncio.sleep(0.02)
        solo = _rate(pieces)
        began = time.perf_counter()
        long = await _prefill(session)
        ended = time.perf_counter()
    finally:
        decoder.cancel()
        with suppress(asyncio.CancelledError):
            await decoder
    during = [at for at in pieces if began <= at <= ended]
    # The gaps at both edges belong to it: a decoder that got nothing at all has one gap, the whole time.
    longest = max(gaps([began, *during, ended]))
    contended = len(during) / (ended - began)
    session.tell(f"keeps {contended / solo:.0%} of {solo:.1f} tok/s; longest gap {longest:.2f} s")
    case = str(session.settings.prefill_tokens)
    return [
        Figure(NAME, case, "kept_share", contended / solo, "ratio", lower_is_better=False),
        Figure(NAME, case, "solo_rate", solo, "tok/s", lower_is_better=False),
        Figure(NAME, case, "longest_gap", longest, "s"),
        Figure(NAME, case, "prefill_ttft", long.ttft_s, "s", note=f"{long.prompt_tokens} tokens"),
    ]


async def _decode(session: BenchSession, pieces: list[float]) -> None:
    message = {"role": "user", "content": session.text.prompt("interference/decoder", PROMPT_TOKENS)}
    agent = "bench-interference-decoder"
    async with session.client.stream([message], max_tokens=DECODER_TOKENS, agent=agent) as stream:
        # One by one, since the other side of the scenario watches them come.
        async for at in stream.pieces():
            pieces.append(at)  # noqa: PERF401


async def _prefill(session: BenchSession) -> Answer:
    prompt = session.text.prompt("interference/prefill", session.settings.prefill_tokens)
    message = {"role": "user", "content": prompt}
    return await session.client.ask([message], max_tokens=1, agent="bench-interference-prefill")


def _rate(times: list[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0])
