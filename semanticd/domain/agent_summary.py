"""AgentSummary: an agent in numbers, without its conversation; and how agents are listed by them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from semanticd.domain.agent import Agent, Retained
from semanticd.domain.generation import Priority
from semanticd.domain.ids import AgentId

AgentOrder = Literal["used", "created", "tokens", "turns", "name"]
"""Order of a list: the largest, or latest, first; names in ascending order."""


@dataclass(frozen=True, slots=True)
class AgentSummary(Retained):
    """The row of an agent in lists; times in seconds since the epoch. The `last_…` are None before the first turn."""

    agent_id: AgentId
    created_at: float
    last_used_at: float
    anonymous: bool = False
    pinned: bool = False
    pinned_until: float | None = None
    kept_until: float | None = None
    model_id: str = ""
    priority: Priority = "interactive"
    ttl_s: float | None = None
    num_tokens: int = 0
    num_turns: int = 0
    num_blocks: int = 0
    last_reuse_ratio: float | None = None
    """Share of the last prompt's tokens that were not computed, 0 to 1."""
    last_ttft_ms: float | None = None
    last_tokens_per_s: float | None = None

    @property
    def may_be_pinned(self) -> bool:
        """Whether an operator pinned it, permanently or until some time, which may have passed."""
        return self.pinned or self.pinned_until is not None

    @property
    def expires_at(self) -> float | None:
        """Time at which its time to live ends, or None."""
        return None if self.ttl_s is None else self.last_used_at + self.ttl_s


def summary_of(agent: Agent) -> AgentSummary:
    """Return an agent's summary."""
    reuse_ratio = ttft_ms = tokens_per_s = None
    if agent.turns:
        last = agent.turns[-1]
        cache, decode_ms = last.cache, last.timings.decode_ms
        reuse_ratio = cache.cached_tokens / cache.prompt_tokens if cache.prompt_tokens else None
        ttft_ms = last.timings.ttft_ms
        tokens_per_s = 1000.0 * last.completion_tokens / decode_ms if decode_ms else None
    return AgentSummary(
        agent_id=agent.agent_id,
        created_at=agent.created_at,
        last_used_at=agent.last_used_at,
        anonymous=agent.anonymous,
        pinned=agent.pinned,
        pinned_until=agent.pinned_until,
        kept_until=agent.kept_until,
        model_id=agent.model_id,
        priority=agent.config.priority,
        ttl_s=agent.config.ttl_s,
        num_tokens=agent.transcript.num_tokens,
        num_turns=agent.num_turns,
        num_blocks=len(agent.block_table),
        last_reuse_ratio=reuse_ratio,
        last_ttft_ms=ttft_ms,
        last_tokens_per_s=tokens_per_s,
    )


@dataclass(frozen=True, slots=True)
class AgentQuery:
    """Filter and order of an agent list; None applies no filter."""

    limit: int | None = None
    after: AgentId | None = None
    """The last agent of the page before."""
    order: AgentOrder = "used"
    name: str | None = None
    """Part of an id."""
    words: tuple[str, ...] = ()
    """Each is part of the id or of the model's name; ASCII letters match in either case."""
    model_id: str | None = None
    anonymous: bool | None = None
    pinned: bool | None = None
    """Whether an operator pinned it, permanently or until some time, past or not."""
    among: frozenset[AgentId] | None = None

    def wants(self, summary: AgentSummary) -> bool:
        """Return whether the query includes an agent."""
        return (
            (self.name is None or self.name in summary.agent_id)
            and self._has_words(summary)
            and self.model_id in (None, summary.model_id)
            and self.anonymous in (None, summary.anonymous)
            and self.pinned in (None, summary.may_be_pinned)
            and (self.among is None or summary.agent_id in self.among)
        )

    def _has_words(self, summary: AgentSummary) -> bool:
        text = f"{summary.agent_id} {summary.model_id}".lower()
        return all(word.lower() in text for word in self.words)


@dataclass(frozen=True, slots=True)
class SummaryPage:
    """A part of a list; `num_agents` counts all agents that the query wants."""

    summaries: tuple[AgentSummary, ...]
    num_agents: int
    has_more: bool


def sort_key(summary: AgentSummary, order: AgentOrder) -> tuple[float, str]:
    """Return what a list is sorted by, ascending."""
    value = {
        "used": -summary.last_used_at,
        "created": -summary.created_at,
        "tokens": -summary.num_tokens,
        "turns": -summary.num_turns,
        "name": 0.0,
    }[order]
    return value, summary.agent_id


def page_of(
    summaries: Iterable[AgentSummary], query: AgentQuery, *, after: tuple[float, str] | None
) -> SummaryPage:
    """Return the page of these agents that a query asks for; `after` is the sort key of the last one before it."""
    wanted = [summary for summary in summaries if query.wants(summary)]
    ordered = sorted(wanted, key=lambda one: sort_key(one, query.order))
    if after is not None:
        ordered = [one for one in ordered if sort_key(one, query.order) > after]
    page = ordered[: query.limit]
    return SummaryPage(tuple(page), len(wanted), has_more=len(ordered) > len(page))
