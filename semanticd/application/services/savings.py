"""What the cache saved and what evictions cost: tokens, and the seconds of prefill that they stand for.

Seconds are tokens divided by the measured prefill speed of the request's model at that time; while no prefill was
measured they count as none. Rule: constant work per request, bounded memory; the event loop's thread only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from semanticd.application.ports.telemetry import Clock, Metrics
from semanticd.application.services.plain import FLAT
from semanticd.domain.generation import CAUSES_OF_LOSS, CacheReport

MAX_AGENTS_COUNTED = 4096
_DAY_S = 86_400


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

    def facts(self) -> SavedFacts:
        """Return the totals as they are now."""
        return SavedFacts(self.reused_tokens, self.saved_s, self.recomputed_tokens, self.recomputed_s)


@dataclass(frozen=True, slots=True)
class SavingsFacts:
    """The totals since the start, and those of this day (UTC) since the start."""

    total: SavedFacts = field(metadata=FLAT)
    today: SavedFacts


@dataclass(slots=True)
class _Day:
    number: int = -1
    saved: Saved = field(default_factory=Saved)


class Savings:
    """Counts what each prompt took from the cache: in all since the start, today (UTC), and per agent."""

    def __init__(self, *, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self.total = Saved()
        self._day = _Day()
        self._by_agent: OrderedDict[str, Saved] = OrderedDict()

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
        if prefill_tokens_per_s > 0:
            self._metrics.count("saved_prefill_seconds_total", reused / prefill_tokens_per_s)
        self._metrics.count("recomputed_tokens_total", recomputed)

    def of_agent(self, agent_id: str) -> Saved:
        """Return what an agent's requests saved since the start."""
        return self._by_agent.get(agent_id) or Saved()

    def facts(self) -> SavingsFacts:
        """Return the totals as they are now."""
        return SavingsFacts(self.total.facts(), self._today().facts())

    def _today(self) -> Saved:
        number = int(self._clock.wall() // _DAY_S)
        if self._day.number != number:
            self._day = _Day(number)
        return self._day.saved
