"""Polling: facts that are fetched only while a screen shows them, and again when they have changed.

The block map, an agent's turns and the failures are too large for every status event. Rule: a poll follows a change in
the events' facts, at most once in `INTERVAL_S`; an idle daemon is asked for new samples of its history only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from semantic_tui.connection import Connection
from semantic_tui.history import SAMPLES_KEPT
from semantic_tui.more_agents import PAGE, AgentSearch
from semantic_tui.state import WatchState
from semanticd.control.errors import CommandFailedError, ControlError
from semanticd.control.results import AgentRow, read_all
from semanticd.control.terminal_text import safe_values

INTERVAL_S = 1.0
SEARCH_INTERVAL_S = 0.3
FOUND_INTERVAL_S = 5.0
"""Agents that were found are looked up again when others came or went, and this rarely."""
NOT_FOUND = "agent_not_found"
_BLOCK_COUNTS = ("num_hot_blocks", "num_shared_blocks", "num_warm_blocks", "pinned_bytes", "dirty_bytes")
_AGENT_FACTS = ("num_turns", "state", "num_hot_blocks", "pinned", "num_shared_with", "num_tokens")

Poll = Callable[[], Awaitable[None]]


class Polling:
    """Decides which polls are due; the app runs them while the screen continues."""

    def __init__(self, connection: Connection, state: WatchState, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._state = state
        self._clock = clock
        self._marks: dict[str, object] = {}
        self._polled_at: dict[str, float] = {}

    def due(self, screen: str, agent: str | None) -> list[Poll]:
        """Return the polls that the screen needs now."""
        if not self._state.connected:
            self._marks.clear()
            return []
        polls: list[Poll] = []
        outcomes = self._state.status.outcomes
        if outcomes is not None and self._changed("failures", (outcomes.num_failed, outcomes.num_refused)):
            polls.append(self.failures)
        if screen == "dashboard":
            cache = self._state.cache
            if self._changed("blocks", tuple(getattr(cache, key) for key in _BLOCK_COUNTS)):
                polls.append(self.blocks)
            if self._is_search_due():
                polls.append(self.search)
        elif screen == "agent" and agent is not None:
            row, running = self._state.agent(agent), self._state.requests_of(agent)
            # One that is listed no longer was deleted, or is not among those used last.
            facts = row and tuple(getattr(row, key) for key in _AGENT_FACTS)
            if (row or not running) and self._changed(f"agent {agent}", facts or "not listed"):
                polls.append(lambda: self.agent(agent))
            if running and running[-1].id not in self._state.prompts and self._has_prompts:
                polls.append(lambda: self.prompt(running[-1].id))
        if self._changed("history", self._state.status.uptime_s):
            polls.append(self.history)
        return polls

    @property
    def _has_prompts(self) -> bool:
        """Whether the daemon shows the prompts of running requests."""
        return "requests.prompt" in self._state.daemon.commands

    def _is_search_due(self) -> bool:
        state = self._state
        if not state.more.search.number or state.num_agents <= len(state.agents):
            return False
        others = (state.num_agents, state.agents[-1].id if state.agents else "")
        if self._changed("search", state.more.search, SEARCH_INTERVAL_S):
            self._marks["found"], self._polled_at["found"] = others, self._clock()
            return True
        return self._changed("found", others, FOUND_INTERVAL_S)

    def _changed(self, what: str, mark: object, interval_s: float = INTERVAL_S) -> bool:
        now = self._clock()
        if self._marks.get(what) == mark or now - self._polled_at.get(what, -interval_s) < interval_s:
            return False
        if what.startswith("agent "):
            # One agent is shown at a time; what was known of others is fetched again when they are.
            self._marks = {key: value for key, value in self._marks.items() if not key.startswith("agent ")}
            self._polled_at = {key: at for key, at in self._polled_at.items() if not key.startswith("agent ")}
        self._marks[what] = mark
        self._polled_at[what] = now
        return True

    async def history(self) -> None:
        """Fetch the samples that are new."""
        for step_s in SAMPLES_KEPT:
            after = self._state.history.last(step_s)
            self._state.take_history(await self._connection.call("history", step_s=step_s, after=after))

    async def failures(self) -> None:
        """Fetch the last failures and refusals."""
        self._state.take_failures(await self._connection.call("requests.failures"))

    async def blocks(self) -> None:
        """Fetch each block's tier and sharing; an older daemon, or one without engine, sends only counts."""
        try:
            self._state.take_blocks(await self._connection.call("cache.stats"))
        except ControlError:
            self._state.blocks = None

    async def search(self) -> None:
        """Fetch the agents that are asked for beyond those of the events, page by page."""
        state, search = self._state, self._state.more.search
        rows: list[AgentRow] = []
        after = None
        if search == AgentSearch(number=search.number) and state.agents:
            # The events hold the first ones of this order.
            after = state.agents[-1].id
        while True:
            page = await self._connection.call("agents.list", limit=PAGE, after=after, **search.arguments)
            rows += read_all(AgentRow, safe_values(page.get("agents")))
            after = page.get("next")
            if after is None or len(rows) >= search.number or search != state.more.search:
                break
        state.more.take(search, rows, has_more=after is not None)

    async def prompt(self, request: str) -> None:
        """Fetch the prompt of a running request: its agent has it only when the turn has ended."""
        try:
            answer = await self._connection.call("requests.prompt", request=request)
        except ControlError:
            # It has ended meanwhile, or its prompt is too long for a message: it is not asked for again.
            answer = {}
        self._state.take_prompt(request, answer)

    async def agent(self, agent: str) -> None:
        """Fetch an agent's facts, turns and messages.

        Raises:
            ControlError: There is no such agent.
        """
        try:
            facts = await self._connection.call("agents.show", agent=agent)
        except CommandFailedError as error:
            if error.code == NOT_FOUND and not self._state.requests_of(agent):
                self._state.forget(agent)
            raise
        try:
            messages = (await self._connection.call("agents.messages", agent=agent)).get("messages")
        except ControlError as error:
            messages = [{"role": "not shown", "content": str(error)}]
        self._state.take_details(agent, facts, messages)
