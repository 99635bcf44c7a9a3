"""The savings of the cache and the costs of evictions: tokens, and the equivalent seconds of prefill.

Seconds are tokens divided by the measured prefill speed of the request's model at that time; while no prefill was
measured they count as none. The totals outlive the daemon (`kept`, `restore`); a day is one of the machine's local
calendar, so that daylight saving time gives it 23 or 25 hours, and a clock that is set back counts for its day again.
Rule: constant work per request, bounded memory; the event loop's thread only.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from semanticd.application.ports.telemetry import Clock, Metrics
from semanticd.application.services.plain import FLAT
from semanticd.domain.generation import CAUSES_OF_LOSS, CacheReport

MAX_AGENTS_COUNTED = 4096
MAX_DAYS_KEPT = 31
"""Days of which totals are kept: today's, and those that a clock may be set back to."""


@dataclass(frozen=True, slots=True)
class SavedFacts:
    """Totals at one time: prompt tokens that came from the cache, and those computed again because blocks had left."""

    reused_tokens: int
    saved_s: float
    recomputed_tokens: int
    recomputed_s: float


@dataclass(slots=True)
class Saved:
    """The totals while they are counted."""

    reused_tokens: int = 0
    saved_s: float = 0.0
    recomputed_tokens: int = 0
    recomputed_s: float = 0.0

    def add(self, reused: int, recomputed: int, tokens_per_s: float) -> None:
        """Add one request's prompt; a speed of 0 means that none was measured."""
        self.reused_tokens += reused
        self.recomputed_tokens += recomputed
        if tokens_per_s > 0:
            self.saved_s += reused / tokens_per_s
            self.recomputed_s += recomputed / tokens_per_s

    def as_list(self) -> list[float]:
        """Return the totals as they are kept."""
        return [self.reused_tokens, self.saved_s, self.recomputed_tokens, self.recomputed_s]

    def facts(self) -> SavedFacts:
        """Return the totals as they are now."""
        return SavedFacts(self.reused_tokens, self.saved_s, self.recomputed_tokens, self.recomputed_s)


@dataclass(frozen=True, slots=True)
class SavingsFacts:
    """The totals since they were first counted, and those of this day of the local calendar."""

    total: SavedFacts = field(metadata=FLAT)
    today: SavedFacts


def local_day(wall: float) -> str:
    """Return the day of the machine's calendar at this time (seconds since the epoch), as in 2026-11-29."""
    return datetime.fromtimestamp(wall, tz=timezone.utc).astimezone().date().isoformat()


class Savings:
    """Counts the tokens that each prompt reused: in all, by day, and per agent."""

    def __init__(self, *, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self.total = Saved()
        self.num_recomputed = 0
        """Tokens computed again since the start of this daemon."""
        self._by_day: dict[str, Saved] = {}
        self._by_agent: OrderedDict[str, Saved] = OrderedDict()
        self.num_changes = 0
        """Grows with every change of the kept figures."""
        self.forgotten = asyncio.Event()
        """Set when an agent was forgotten: the figures on disk still name it."""

    def started(self, agent_id: str, cache: CacheReport, *, prefill_tokens_per_s: float) -> None:
        """A prompt was matched against the cache; the speed is its model's, 0 where none was measured yet."""
        reused = cache.cached_tokens
        lost = cache.miss is not None and cache.miss.cause in CAUSES_OF_LOSS
        # Of a lost prefix everything from the miss on is computed, and so is the new message, which is short.
        recomputed = cache.computed_tokens if lost else 0
        agent = self._by_agent.pop(agent_id, None) or Saved()
        self._by_agent[agent_id] = agent
        while len(self._by_agent) > MAX_AGENTS_COUNTED:
            self._by_agent.popitem(last=False)
        for saved in (self.total, self._today(), agent):
            saved.add(reused, recomputed, prefill_tokens_per_s)
        self.num_recomputed += recomputed
        self.num_changes += 1
        if prefill_tokens_per_s > 0:
            self._metrics.count("saved_prefill_seconds_total", reused / prefill_tokens_per_s)
        self._metrics.count("recomputed_tokens_total", recomputed)

    def of_agent(self, agent_id: str) -> Saved:
        """Return the total savings of an agent's requests."""
        return self._by_agent.get(agent_id) or Saved()

    def facts(self) -> SavingsFacts:
        """Return the totals as they are now."""
        today = self._by_day.get(local_day(self._clock.wall())) or Saved()
        return SavingsFacts(self.total.facts(), today.facts())

    def forget(self, agent_id: str) -> None:
        """Forget an agent that was deleted; what it saved stays in the totals, which name none."""
        if self._by_agent.pop(agent_id, None) is not None:
            self.num_changes += 1
            self.forgotten.set()

    def kept(self) -> dict[str, Any]:
        """Return what outlives the daemon, in values that JSON has."""
        return {
            "total": self.total.as_list(),
            "days": {day: saved.as_list() for day, saved in list(self._by_day.items())},
            "agents": {agent: saved.as_list() for agent, saved in list(self._by_agent.items())},
        }

    def restore(self, kept: Mapping[str, Any], *, is_known: Callable[[str], bool]) -> None:
        """Load the totals of an earlier daemon, for known agents; before anything is counted.

        Raises:
            ValueError: It is not what `kept` returned; nothing has changed.
        """
        total = _saved(kept.get("total"))
        days = {day: _saved(one) for day, one in _named(kept.get("days"))}
        agents = [(agent, _saved(one)) for agent, one in _named(kept.get("agents")) if is_known(agent)]
        self.total = total
        self._by_day = dict(sorted(days.items())[-MAX_DAYS_KEPT:])
        self._by_agent = OrderedDict(agents[-MAX_AGENTS_COUNTED:])

    def _today(self) -> Saved:
        day = local_day(self._clock.wall())
        found = self._by_day.get(day)
        if found is None:
            found = self._by_day[day] = Saved()
            while len(self._by_day) > MAX_DAYS_KEPT:
                # The least recent of the others: a clock that is set back must not lose what it counts now.
                del self._by_day[min(self._by_day.keys() - {day})]
        return found


def _named(value: object) -> list[tuple[str, object]]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError("expected totals by name")
    return list(value.items())


def _saved(value: object) -> Saved:
    """Return totals from the list that they were kept as.

    Raises:
        ValueError: The list has another form.
    """
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError("expected four totals")
    for one in value:
        if isinstance(one, bool) or not isinstance(one, int | float) or not 0 <= one < math.inf:
            raise ValueError("expected totals that are numbers")
    reused, saved_s, recomputed, recomputed_s = value
    return Saved(int(reused), float(saved_s), int(recomputed), float(recomputed_s))
