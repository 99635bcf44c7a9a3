"""AgentWatch: the events for watchers of agents. Only changed rows are rebuilt.

Every change of an agent is noted (`AgentChanges`); each poll makes the rows of those agents, and of a few others in
turn, because time and the disk's pruning change rows without a note. The rows of the agents used last are kept, so
that a new watcher begins with all of them. The event loop's thread; the rows are made on a worker thread.
"""

from __future__ import annotations

import asyncio
from collections import deque

from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.services.agent_facts import AgentFacts, AgentUpdate, WatchedAgents
from semanticd.application.services.agent_rows import AgentRows
from semanticd.domain.agent_summary import AgentQuery
from semanticd.domain.ids import AgentId

MAX_WATCHED = 500
"""Agents whose rows watchers are sent: those used last."""
_IN_TURN = 8
"""Rows that each look makes again without a note."""


class AgentWatch:
    """The rows that watchers have, and the changes since the last query."""

    def __init__(self, *, rows: AgentRows, agents: AgentRegistry) -> None:
        self._rows = rows
        self._agents = agents
        self._known: dict[AgentId, AgentFacts] | None = None
        self._num_agents = 0
        self._active: frozenset[AgentId] = frozenset()
        self._in_turn: deque[AgentId] = deque()
        self._looking = asyncio.Lock()

    async def whole(self) -> WatchedAgents:
        """Return all rows that watchers have, most recently used first."""
        async with self._looking:
            known = self._known if self._known is not None else await self._begin()
            return WatchedAgents(tuple(sorted(known.values(), key=_newest_first)), self._num_agents)

    async def look(self) -> AgentUpdate | None:
        """Return what changed since the last look; None: nothing."""
        async with self._looking:
            if self._known is None:
                await self._begin()
                return None
            changed = self._take_changes()
            if changed is None:
                before = self._known
                await self._begin()
                return self._difference(before)
            return await self._update(self._known, changed)

    def stop(self) -> None:
        """Forget the rows, because no client watches."""
        self._known = None

    async def _begin(self) -> dict[AgentId, AgentFacts]:
        self._take_changes()
        page = await asyncio.to_thread(self._rows.page, AgentQuery(limit=MAX_WATCHED))
        self._num_agents = page.num_agents
        self._known = {row.id: row for row in page.agents}
        return self._known

    def _take_changes(self) -> set[AgentId] | None:
        """Return agents to look at again; None: all of them."""
        before, self._active = self._active, self._rows.active()
        changed = self._agents.take_changes()
        return None if changed is None else changed | (before ^ self._active)

    async def _update(self, known: dict[AgentId, AgentFacts], changed: set[AgentId]) -> AgentUpdate | None:
        if not self._in_turn:
            self._in_turn.extend(known)
        for _ in range(min(_IN_TURN, len(self._in_turn))):
            changed.add(self._in_turn.popleft())
        rows, number = await asyncio.to_thread(self._make, list(changed))
        before = dict(known)
        for one in changed.intersection(known).difference(row.id for row in rows):
            del known[one]
        is_less = len(known) < len(before)
        known.update((row.id, row) for row in rows)
        self._drop_oldest(known)
        if is_less and len(known) < min(number, MAX_WATCHED):
            # Older ones, which were left out, take the places of those that are gone.
            await self._begin()
            return self._difference(before)
        before_number, self._num_agents = self._num_agents, number
        update = self._difference(before)
        return update if update.agents or update.removed or number != before_number else None

    def _make(self, agents: list[AgentId]) -> tuple[list[AgentFacts], int]:
        return self._rows.find(agents), self._agents.page(AgentQuery(limit=0)).num_agents

    @staticmethod
    def _drop_oldest(known: dict[AgentId, AgentFacts]) -> None:
        if len(known) > MAX_WATCHED:
            for row in sorted(known.values(), key=_newest_first)[MAX_WATCHED:]:
                del known[row.id]

    def _difference(self, before: dict[AgentId, AgentFacts]) -> AgentUpdate:
        known = self._known or {}
        news = tuple(row for one, row in known.items() if before.get(one) != row)
        return AgentUpdate(news, tuple(one for one in before if one not in known), self._num_agents)


def _newest_first(row: AgentFacts) -> tuple[float, str]:
    return -row.last_used_at, row.id
