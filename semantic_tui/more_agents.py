"""MoreAgents: agents beyond those used last, which the daemon's events leave out; a search or the list's end asks.

Rule: nothing is asked while the events hold every agent, and what was found is bounded. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from semanticd.control.results import AgentRow

PAGE = 500
"""Agents in one answer: as many as the daemon's events hold."""
MAX_FOUND = 2000
"""Agents beyond the events' ones that are kept; a search finds the others."""
MAX_WORDS_CHARS = 200
"""As many characters of a search as the daemon takes."""
ORDERS = {"last_used_at": "used", "id": "name", "num_tokens": "tokens", "num_turns": "turns"}
"""Orders that the daemon has, by the key of a row."""


@dataclass(frozen=True, slots=True)
class AgentSearch:
    """Search for agents: those with these words, the first `number` in this order."""

    words: str = ""
    order: str = "used"
    number: int = 0

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `agents.list`, without those of a page."""
        words = self.words.lower().split()
        given: dict[str, Any] = {"order": self.order}
        if "pinned" in words:
            given["pinned"] = True
        text = " ".join(word for word in words if word != "pinned")
        return {**given, "words": text[:MAX_WORDS_CHARS]} if text else given


class MoreAgents:
    """The last query and its results."""

    def __init__(self) -> None:
        self.search = AgentSearch()
        self.rows: tuple[AgentRow, ...] = ()
        self._answered = self.search
        self._has_more = False

    def ask(self, words: str, sort: str) -> bool:
        """Ask for the agents that a filter and an order show; return whether that is another question than before."""
        words, order = " ".join(words.split()), ORDERS.get(sort, "used")
        if (words, order) == (self.search.words, self.search.order):
            return False
        # The events hold those used last; any other question is about all agents.
        number = PAGE if words or order != "used" else 0
        self.search = AgentSearch(words, order, number)
        if not number:
            self.rows = ()
        return True

    def ask_more(self) -> bool:
        """Ask for a page more; return whether there may be one."""
        if not self.has_more:
            return False
        self.search = replace(self.search, number=self.search.number + PAGE)
        return True

    @property
    def has_more(self) -> bool:
        """Whether another page can be requested: the last one arrived, was not the end, and more can be kept."""
        if not self.search.number:
            return True
        return self._has_more and self._answered == self.search and self.search.number < MAX_FOUND

    def take(self, search: AgentSearch, rows: Sequence[AgentRow], *, has_more: bool) -> None:
        """Take the results, if they belong to the current query."""
        if search == self.search and search.number:
            self.rows, self._answered, self._has_more = tuple(rows[:MAX_FOUND]), search, has_more

    def drop(self, agent: str) -> None:
        """Forget an agent that was deleted."""
        self.rows = tuple(row for row in self.rows if row.id != agent)

    def forget(self) -> None:
        """Drop the results: they will be fetched again."""
        self.rows, self._answered = (), AgentSearch()
