"""AgentChanges: which agents changed since the last query, in bounded memory."""

from __future__ import annotations

from semanticd.domain.ids import AgentId

MAX_NOTED = 10_000
"""Agents noted one by one; beyond that all count as changed."""


class AgentChanges:
    """Agents to look at again. Changed and read under the cache store's lock."""

    def __init__(self) -> None:
        """Begin with none."""
        self._agents: set[AgentId] = set()
        self._all = False

    def note(self, agent: AgentId) -> None:
        """Note that something about an agent changed."""
        if not self._all:
            self._agents.add(agent)
            if len(self._agents) > MAX_NOTED:
                self._agents.clear()
                self._all = True

    def take(self) -> set[AgentId] | None:
        """Return the agents that changed since the last call; None: all may have."""
        agents, self._agents = self._agents, set()
        was_all, self._all = self._all, False
        return None if was_all else agents
