"""Cold TTFT: a prompt of each length that the server has never seen. The rate includes time other than prefill."""

from __future__ import annotations

from semanticd.bench.result import Figure
from semanticd.bench.session import BenchSession

NAME = "cold_ttft"


async def run(session: BenchSession) -> list[Figure]:
    """Measure each length once: computing a long prompt is dear, and its time hardly varies."""
    figures = []
    for length in session.settings.lengths:
        answer = (await session.conversation(length)).last
        assert answer is not None
        session.tell(f"{length} tokens: {answer.ttft_s:.2f} s")
        case = str(length)
        note = f"{answer.prompt_tokens} tokens, {answer.cached_tokens} cached"
        figures += [
            Figure(NAME, case, "ttft", answer.ttft_s, "s", samples=(answer.ttft_s,), note=note),
            Figure(
                NAME,
                case,
                "prefill_rate",
                answer.prompt_tokens / answer.ttft_s,
                "tok/s",
                lower_is_better=False,
            ),
        ]
    return figures
