"""Concurrent decode: several agents with short prompts answer at once.

The aggregate rate counts from the moment when the last stream has its first token to the moment when the first one
ends, so that only time in which all of them decode counts. Gaps are those of single streams.
"""

from __future__ import annotations

import asyncio

from semanticd.bench.client import Answer
from semanticd.bench.result import Figure
from semanticd.bench.session import BenchSession
from semanticd.bench.statistics import quantile

NAME = "concurrent_decode"
PROMPT_TOKENS = 32


async def run(session: BenchSession) -> list[Figure]:
    """Measure each number of streams."""
    figures = []
    for num_streams in session.settings.streams:
        answers = await asyncio.gather(*(_one(session, num_streams, number) for number in range(num_streams)))
        gaps = [gap for answer in answers for gap in answer.gaps_s]
        rate = aggregate_rate(answers)
        session.tell(f"{num_streams} streams: {rate:.1f} tok/s, gap p50 {1000 * quantile(gaps, 0.5):.0f} ms")
        case = str(num_streams)
        figures += [
            Figure(NAME, case, "rate", rate, "tok/s", lower_is_better=False),
            Figure(NAME, case, "itl_p50", quantile(gaps, 0.5), "s"),
            Figure(NAME, case, "itl_p95", quantile(gaps, 0.95), "s"),
        ]
    return figures


def aggregate_rate(answers: list[Answer]) -> float:
    """Return tokens per second of all answers together, over the time in which all of them decode.

    A piece of text counts as its share of the answer's tokens: servers may send several in one piece. Answers that
    never overlap (a server that takes one at a time) are counted over the whole time.
    """
    begin = max(answer.piece_times[0] for answer in answers)
    end = min(answer.piece_times[-1] for answer in answers)
    if end <= begin:
        begin = min(answer.piece_times[0] for answer in answers)
        end = max(answer.piece_times[-1] for answer in answers)
    if end <= begin:
        return 0.0
    tokens = 0.0
    for answer in answers:
        inside = sum(begin < at <= end for at in answer.piece_times)
        tokens += inside * answer.completion_tokens / len(answer.piece_times)
    return tokens / (end - begin)


async def _one(session: BenchSession, num_streams: int, number: int) -> Answer:
    label = f"decode/{num_streams}/{number}"
    message = {"role": "user", "content": session.text.prompt(label, PROMPT_TOKENS)}
    return await session.client.ask(
        [message], max_tokens=session.settings.decode_tokens, agent=f"bench-{label}"
    )
