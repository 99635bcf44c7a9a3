"""Warm TTFT: the next turns of a conversation that the same process has seen. Each turn adds a short question."""

from __future__ import annotations

from semanticd.bench.result import Figure, time_figure
from semanticd.bench.session import FIRST_ANSWER_TOKENS, BenchSession

NAME = "warm_ttft"
QUESTION_TOKENS = 12


async def run(session: BenchSession) -> list[Figure]:
    """Measure `repeats` turns of each length."""
    figures = []
    for length in session.settings.lengths:
        talk = await session.conversation(length)
        times, cached, prompts = [], [], []
        for turn in range(session.settings.repeats):
            question = session.text.prompt(f"warm/{length}/{turn}", QUESTION_TOKENS)
            answer = await session.say(talk, question, max_tokens=FIRST_ANSWER_TOKENS)
            times.append(answer.ttft_s)
            cached.append(answer.cached_tokens)
            prompts.append(answer.prompt_tokens)
        session.tell(f"{length} tokens: {', '.join(f'{t:.3f}' for t in times)} s")
        note = f"{min(cached)} of {min(prompts)} tokens cached"
        figures.append(time_figure(NAME, str(length), "ttft", times, note))
    return figures
