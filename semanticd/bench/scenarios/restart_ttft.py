"""Restart TTFT: the next turn of each conversation after the server's process was replaced.

The server answers one short request first, so that what it loads lazily is loaded; each conversation then takes its
first turn. A second restart follows for a second sample.
"""

from __future__ import annotations

import time

from semanticd.bench.result import Figure, time_figure
from semanticd.bench.scenarios import Skipped
from semanticd.bench.session import FIRST_ANSWER_TOKENS, BenchSession

NAME = "restart_ttft"
QUESTION_TOKENS = 12
NUM_RESTARTS = 2


async def run(session: BenchSession) -> list[Figure]:
    """Restart, then take one turn of each length."""
    if session.restart is None:
        raise Skipped("no restart command was given (--restart-command)")
    talks = {length: await session.conversation(length) for length in session.settings.lengths}
    times: dict[int, list[float]] = {length: [] for length in talks}
    cached: dict[int, list[int]] = {length: [] for length in talks}
    ready: list[float] = []
    # A server that lost everything pays the cold price each time; once is enough to know it.
    for number in range(NUM_RESTARTS):
        began = time.perf_counter()
        await session.restart()
        await session.wait_ready()
        ready.append(time.perf_counter() - began)
        for length, talk in talks.items():
            question = session.text.prompt(f"restart/{length}/{number}", QUESTION_TOKENS)
            answer = await session.say(talk, question, max_tokens=FIRST_ANSWER_TOKENS)
            times[length].append(answer.ttft_s)
            cached[length].append(answer.cached_tokens)
            session.tell(f"{length} tokens: {answer.ttft_s:.3f} s, {answer.cached_tokens} cached")
        if not any(cached[length][-1] > length // 2 for length in talks):
            break
    figures = [
        time_figure(NAME, str(length), "ttft", samples, f"{min(cached[length])} tokens cached")
        for length, samples in times.items()
    ]
    return [*figures, time_figure(NAME, "all", "stop_to_first_answer", ready)]
