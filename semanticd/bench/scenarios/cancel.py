"""Cancel to idle: a client drops a long prompt; how long does the next one's short request wait for its first token?"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from semanticd.bench.result import Figure, time_figure
from semanticd.bench.session import BenchSession
from semanticd.bench.statistics import median

NAME = "cancel"
SHORT_TOKENS = 32
DROPPED_AFTER_S = 1.5


async def run(session: BenchSession) -> list[Figure]:
    """Measure the short request on the idle server, then after a drop."""
    repeats = session.settings.repeats
    idle = [await _short(session, f"idle/{number}") for number in range(repeats)]
    dropped = []
    for number in range(min(repeats, 2)):
        await _drop(session, number)
        dropped.append(await _short(session, f"dropped/{number}"))
        session.tell(f"idle {median(idle):.2f} s, after a drop {dropped[-1]:.2f} s")
    case = str(session.settings.dropped_tokens)
    ratio = median(dropped) / median(idle)
    return [
        time_figure(NAME, case, "idle_ttft", idle),
        time_figure(NAME, case, "dropped_ttft", dropped),
        Figure(NAME, case, "dropped_to_idle", ratio, "ratio"),
    ]


async def _short(session: BenchSession, label: str) -> float:
    message = {"role": "user", "content": session.text.prompt(f"cancel/{label}", SHORT_TOKENS)}
    answer = await session.client.ask([message], max_tokens=2, agent=f"bench-cancel-{label}")
    return answer.ttft_s


async def _drop(session: BenchSession, number: int) -> None:
    """Begin a long prompt and disconnect while it is computed."""
    content = session.text.prompt(f"cancel/long/{number}", session.settings.dropped_tokens)

    async def long() -> None:
        await session.client.ask(
            [{"role": "user", "content": content}], max_tokens=2, agent=f"bench-cancel-long-{number}"
        )

    task = asyncio.create_task(long())
    with suppress(asyncio.TimeoutError):
        # It is cancelled at the timeout, and with it the connection is closed.
        await asyncio.wait_for(task, DROPPED_AFTER_S)
