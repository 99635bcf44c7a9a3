"""AgentRows: agents as lists show them, from their summaries, the pool's shares and the disk's index.

Rule: no agent's conversation is read, looking changes nothing, and whatever asks the disk runs on a worker thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from semanticd.application.cache.agent_cache import AgentCache
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.ports.telemetry import Clock
from semanticd.application.services.agent_facts import AgentFacts, AgentList, AgentTotals
from semanticd.application.services.observations import Observations
from semanticd.domain.agent import AgentState
from semanticd.domain.agent_summary import AgentQuery, AgentSummary
from semanticd.domain.block_pool import AgentPlace
from semanticd.domain.generation import CacheTier
from semanticd.domain.ids import AgentId

MAX_SHARING_LISTED = 16
"""Agents that a row names as sharing blocks, at most; it counts them all."""


class AgentRows:
    """Makes rows; the methods may be called from any thread and take as long as the disk's index."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        agents: AgentRegistry,
        cache: AgentCache,
        observations: Observations,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._agents = agents
        self._store, self._tables = cache.store, cache.tables
        self._clock = clock
        self._arrivals = observations.arrivals
        self._outcomes = observations.outcomes
        self._savings = observations.savings

    def active(self) -> frozenset[AgentId]:
        """Return the agents that are answering, or whose request has arrived."""
        running = self._engine.running()
        arrivals = self._arrivals.outside(running)
        return frozenset([one.submission.agent_id for one in running] + [one.agent_id for one in arrivals])

    def page(self, query: AgentQuery) -> AgentList:
        """Return a page of rows, and where the next one begins."""
        page = self._agents.page(query)
        rows = self.of(page.summaries)
        return AgentList(tuple(rows), page.num_agents, rows[-1].id if page.has_more else None)

    def find(self, agents: Sequence[AgentId]) -> list[AgentFacts]:
        """Return the rows of those of these agents that there are."""
        found = [summary for one in agents if (summary := self._agents.summary(one)) is not None]
        return self.of(found)

    def of(self, summaries: Sequence[AgentSummary]) -> list[AgentFacts]:
        """Return the rows of these agents."""
        names = [summary.agent_id for summary in summaries]
        places = self._tables.places(names, max_sharing=MAX_SHARING_LISTED)
        away = [name for name in names if not self._agents.is_in_memory(name)]
        stored = self._agents.block_tables(away) if away else {}
        tables = [place.table or stored.get(name, ()) for name, place in zip(names, places, strict=True)]
        sizes = self._store.stored(block for table in tables for block in table)
        active = self.active()
        return [
            self._row(
                summary,
                place,
                num_blocks=len(table),
                warm_bytes=sum(sizes.get(block, 0) for block in table),
                is_active=summary.agent_id in active,
            )
            for summary, place, table in zip(summaries, places, tables, strict=True)
        ]

    def totals(self) -> AgentTotals:
        """Return all agents in one sum."""
        firsts = self._agents.first_blocks()
        active = self.active()
        hot = set(self._tables.hot_agents()) - active
        rest = {agent: name for agent, name in firsts.items() if agent not in active and agent not in hot}
        stored = self._store.stored({name for name in rest.values() if name is not None})
        num_warm = sum(name in stored for name in rest.values())
        states: dict[AgentState, int] = {
            "active": len(active),
            "hot": len(hot),
            "warm": num_warm,
            "cold": len(rest) - num_warm,
        }
        page = self._agents.page(AgentQuery())
        now = self._clock.wall()
        return AgentTotals(
            num_agents=page.num_agents,
            by_state={state: number for state, number in states.items() if number},
            num_pinned=sum(one.is_pinned(now) for one in page.summaries),
            num_tokens=sum(one.num_tokens for one in page.summaries),
            num_turns=sum(one.num_turns for one in page.summaries),
        )

    def _row(
        self, summary: AgentSummary, place: AgentPlace, *, num_blocks: int, warm_bytes: int, is_active: bool
    ) -> AgentFacts:
        share = place.share
        tier: CacheTier = "hot" if share.num_blocks else "warm" if warm_bytes else "cold"
        now = self._clock.wall()
        return AgentFacts(
            id=summary.agent_id,
            anonymous=summary.anonymous,
            model=summary.model_id,
            num_tokens=summary.num_tokens,
            num_turns=summary.num_turns,
            created_at=summary.created_at,
            last_used_at=summary.last_used_at,
            priority=summary.priority,
            ttl_s=summary.ttl_s,
            last_reuse_ratio=summary.last_reuse_ratio,
            last_ttft_ms=summary.last_ttft_ms,
            last_tokens_per_s=summary.last_tokens_per_s,
            state="active" if is_active else tier,
            tier=tier,
            num_blocks=num_blocks,
            num_hot_blocks=share.num_blocks,
            hot_bytes=share.num_bytes,
            own_hot_bytes=share.num_bytes - share.shared_bytes,
            shared_hot_bytes=share.shared_bytes,
            warm_bytes=warm_bytes,
            pinned=summary.is_pinned(now),
            kept=summary.is_kept(now),
            shared_with=place.sharing,
            num_shared_with=place.num_sharing,
            num_errors=self._outcomes.of_agent(summary.agent_id),
            saved_s=self._savings.of_agent(summary.agent_id).saved_s,
            unsaved=self._agents.is_unsaved(summary.agent_id),
        )
