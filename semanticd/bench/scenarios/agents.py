"""N agents round robin: a shared system prompt, a document each, one turn after another.

The server should be given less RAM than all conversations need, so that what it does with an idle agent counts.
"""

from __future__ import annotations

import time

from semanticd.bench.result import Figure, time_figure
from semanticd.bench.session import BenchSession, Conversation

NAME = "agents"
QUESTION_TOKENS = 15


async def run(session: BenchSession) -> list[Figure]:
    """Let each agent take its turn, `num_turns` times."""
    settings = session.settings
    system = {"role": "system", "content": session.text.prompt("agents/system", settings.system_tokens)}
    talks = [
        Conversation(f"bench-{settings.seed}-agent-{number}", [dict(system)])
        for number in range(settings.num_agents)
    ]
    first: list[float] = []
    later: list[float] = []
    cached = prompts = 0
    began = time.perf_counter()
    for turn in range(settings.num_turns):
        for number, talk in enumerate(talks):
            label = f"agents/{number}/{turn}"
            content = session.text.prompt(label, QUESTION_TOKENS)
            if turn == 0:
                content = (
                    session.text.prompt(f"agents/{number}/document", settings.document_tokens)
                    + "\n"
                    + content
                )
            answer = await session.say(talk, content, max_tokens=settings.answer_tokens)
            (first if turn == 0 else later).append(answer.ttft_s)
            cached += answer.cached_tokens
            prompts += answer.prompt_tokens
        session.tell(
            f"turn {turn + 1} of {settings.num_turns} done after {time.perf_counter() - began:.1f} s"
        )
    took = time.perf_counter() - began
    case = f"{settings.num_agents}x{settings.num_turns}"
    note = f"{cached} of {prompts} prompt tokens cached"
    return [
        Figure(NAME, case, "total", took, "s", samples=(took,), note=note),
        time_figure(NAME, case, "first_turn_ttft", first),
        time_figure(NAME, case, "later_turn_ttft", later),
    ]
