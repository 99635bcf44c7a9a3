"""Polling: what is only fetched while a screen shows it, and fetched again when it has changed.

The block map and an agent's turns are too large for every status event. Rule: a poll follows a change in the
events' facts, at most once in `INTERVAL_S`; an idle daemon is not asked again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from semantic_tui.connection import Connection
from semantic_tui.state import WatchState
from semanticd.control.errors import ControlError

INTERVAL_S = 1.0
_BLOCK_COUNTS = ("num_hot_blocks", "num_shared_blocks", "num_warm_blocks", "pinned_bytes", "dirty_bytes")
_AGENT_FACTS = ("num_turns", "state", "num_hot_blocks", "pinned", "num_shared_with", "num_tokens")

Poll = Callable[[], Awaitable[None]]


class Polling:
    """Decides which polls are due; the app runs them while the screen goes on."""

    def __init__(self, connection: Connection, state: WatchState, clock: Callable[[], float]) -> None:
        """Fetch over this connection into this state."""
        self._connection = connection
        self._state = state
        self._clock = clock
        self._marks: dict[str, Any] = {}
        self._polled_at: dict[str, float] = {}

    def due(self, screen: str, agent: str | None) -> Poll | None:
        """Return the poll that the screen needs now, if any."""
        if not self._state.connected:
            self._marks.clear()
            return None
        if screen == "dashboard":
            cache = self._state.cache
            if self._moved("blocks", tuple(cache.get(key) for key in _BLOCK_COUNTS)):
                return self.at_blocks
        elif screen == "agent" and agent is not None:
            row = self._state.agent(agent)
            if self._moved(f"agent {agent}", tuple(row.get(key) for key in _AGENT_FACTS)):
                return lambda: self.at_agent(agent)
        return None

    def _moved(self, what: str, mark: Any) -> bool:
        now = self._clock()
        if self._marks.get(what) == mark or now - self._polled_at.get(what, -INTERVAL_S) < INTERVAL_S:
            return False
        self._marks = {what: mark}
        self._polled_at = {what: now}
        return True

    async def at_blocks(self) -> None:
        """Fetch each block's tier and sharing; an older daemon, or one without engine, sends only counts."""
        try:
            self._state.take_blocks(await self._connection.call("cache.stats"))
        except ControlError:
            self._state.blocks = None

    async def at_agent(self, agent: str) -> None:
        """Fetch an agent's facts, turns and words; raises `ControlError` when there is no such agent."""
        facts = await self._connection.call("agents.show", agent=agent)
        try:
            messages = (await self._connection.call("agents.messages", agent=agent)).get("messages") or []
        except ControlError as error:
            messages = [{"role": "not shown", "content": str(error)}]
        self._state.take_details(agent, {**facts, "messages": messages})
