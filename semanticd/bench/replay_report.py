"""A replay's figures: one row for each agent, and all of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from semanticd.bench.replay import Played, Replay
from semanticd.bench.report import table

FORMAT_VERSION = 1
_UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """The costs of one agent's requests in tokens and seconds; None where the server does not report them."""

    agent: str
    trace: str
    num_requests: int
    num_refused: int
    prompt_tokens: int
    reusable_tokens: int | None
    reused_tokens: int
    reused_hot_tokens: int | None
    reused_warm_tokens: int | None
    recomputed_tokens: int | None
    """Tokens that were computed though they were reusable."""
    recomputed_by_cause: dict[str, int] = field(default_factory=dict)
    reused_of_reusable: float | None = None
    reused_after_first: float | None = None
    """Reused tokens over all prompt tokens but those of the agent's first request."""
    ttft_median_s: float | None = None
    ttft_worst_s: float | None = None


def figures(agent: str, trace: str, played: Sequence[Played]) -> AgentFigures:
    """Sum up some requests."""
    answered = [one for one in played if one.refusal is None]
    known = [one for one in answered if one.reusable is not None]
    causes: Counter[str] = Counter()
    for one in known:
        if one.recomputed:
            causes[one.miss or _UNEXPLAINED] += one.recomputed
    reusable = sum(one.reusable or 0 for one in known)
    again = sum(one.recomputed for one in known)
    later = [one for one in answered if one is not _first_of(one.agent, answered)]
    prompts = sum(one.prompt for one in later)
    times = sorted(one.ttft_s for one in answered if one.ttft_s is not None)
    tiers = [one for one in answered if one.hot is not None]
    return AgentFigures(
        agent=agent,
        trace=trace,
        num_requests=len(played),
        num_refused=len(played) - len(answered),
        prompt_tokens=sum(one.prompt for one in answered),
        reusable_tokens=reusable if known else None,
        reused_tokens=sum(one.reused for one in answered),
        reused_hot_tokens=sum(one.hot or 0 for one in tiers) if tiers else None,
        reused_warm_tokens=sum(one.warm or 0 for one in tiers) if tiers else None,
        recomputed_tokens=again if known else None,
        recomputed_by_cause=dict(causes.most_common()),
        reused_of_reusable=(reusable - again) / reusable if reusable else None,
        reused_after_first=sum(one.reused for one in later) / prompts if prompts else None,
        ttft_median_s=times[len(times) // 2] if times else None,
        ttft_worst_s=times[-1] if times else None,
    )


def _first_of(agent: str, played: Sequence[Played]) -> Played:
    return next(one for one in played if one.agent == agent)


def result_of(replay: Replay, *, target: str) -> dict[str, Any]:
    """Return everything as plain values, for JSON."""
    agents: dict[str, list[Played]] = {}
    for one in replay.played:
        agents.setdefault(one.agent, []).append(one)
    rows = [figures(name, played[0].trace, played) for name, played in sorted(agents.items())]
    settings = asdict(replay.settings)
    settings |= {name: sorted(settings[name]) for name in ("restart_at", "evict_at")}
    return {
        "replay": FORMAT_VERSION,
        "target": target,
        "tokens_by": None if replay.tokens is None else replay.tokens.name,
        "settings": settings,
        "events": replay.events,
        "agents": [asdict(row) for row in rows],
        "total": asdict(figures("all", "", replay.played)),
        "requests": [asdict(one) for one in replay.played],
    }


def markdown(result: dict[str, Any]) -> str:
    """Return the report for people."""
    head = [
        "agent",
        "requests",
        "refused",
        "prompt",
        "reusable",
        "hot",
        "warm",
        "reused",
        "again",
        "of reusable",
    ]
    head += ["after the first", "TTFT", "worst"]
    rows = [_row(one) for one in (*result["agents"], result["total"])]
    lines = [f"# Replay against {result['target']}", "", *table(head, rows), ""]
    causes = result["total"]["recomputed_by_cause"]
    if causes:
        lines.append(
            "Computed again though reusable: " + ", ".join(f"{n} tokens {why}" for why, n in causes.items())
        )
    lines += [f"- before request {event['before']}: {event['what']}" for event in result["events"]]
    lines.append(
        f"- tokens counted by: {result['tokens_by'] or 'unknown, so that reusable tokens are not known either'}"
    )
    return "\n".join(lines) + "\n"


def _row(one: dict[str, Any]) -> list[str]:
    return [
        one["agent"],
        str(one["num_requests"]),
        str(one["num_refused"]),
        _count(one["prompt_tokens"]),
        _count(one["reusable_tokens"]),
        _count(one["reused_hot_tokens"]),
        _count(one["reused_warm_tokens"]),
        _count(one["reused_tokens"]),
        _count(one["recomputed_tokens"]),
        _share(one["reused_of_reusable"]),
        _share(one["reused_after_first"]),
        _time(one["ttft_median_s"]),
        _time(one["ttft_worst_s"]),
    ]


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _share(ratio: float | None) -> str:
    return "–" if ratio is None else f"{100 * ratio:.2f} %"


def _time(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.2f} s"
