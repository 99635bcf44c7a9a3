"""The last hour in numbers: a sample a second for ten minutes, and one for ten seconds for an hour.

A value is None where there was nothing to measure: no turn ended, no token was decoded, no prompt arrived. Rule: a
sample costs the same however long the daemon runs and however many agents it has; the event loop's thread only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from semanticd.application.ports.telemetry import Clock, Log
from semanticd.application.services.outcomes import Outcomes
from semanticd.application.services.savings import Savings
from semanticd.application.services.status import RequestsService, StatusService
from semanticd.domain.generation import Usage

SECONDS_KEPT = 600
TENS_KEPT = 360
INTERVAL_S = 1.0

Fold = Literal["sum", "mean", "max"]

SERIES: dict[str, Fold] = {
    "hit_rate": "mean",
    "evictions": "sum",
    "recomputed_tokens": "sum",
    "ttft_ms": "mean",
    "itl_ms": "mean",
    "tokens_per_s": "mean",
    "prefill_tokens_per_s": "mean",
    "running": "max",
    "queue": "max",
    "used_bytes": "max",
    "failed": "sum",
    "refused": "sum",
}
"""What is kept, and how ten samples become one; rates are shares or per second, counts are those of the interval."""

Sample = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class HistoryFacts:
    """Samples with the numbers `first` to `last`, oldest first; `ended_at` is the last one's time since the epoch."""

    step_s: int
    first: int
    last: int
    ended_at: float
    series: Mapping[str, tuple[float | None, ...]]


class History:
    """Takes samples of the services and answers for a step of 1 or 10 seconds."""

    def __init__(
        self,
        *,
        status: StatusService,
        requests: RequestsService,
        outcomes: Outcomes,
        savings: Savings,
        clock: Clock,
        log: Log,
    ) -> None:
        self._status = status
        self._requests = requests
        self._outcomes = outcomes
        self._savings = savings
        self._clock = clock
        self._log = log
        self._counted: dict[str, float] = self._counters()
        self._ttfts: list[float] = []
        self._rings: dict[int, deque[Sample]] = {1: deque(maxlen=SECONDS_KEPT), 10: deque(maxlen=TENS_KEPT)}
        self._num_taken = {1: 0, 10: 0}
        self._pending: list[Sample] = []
        self._ended_at = {1: clock.wall(), 10: clock.wall()}

    def finished(self, usage: Usage) -> None:
        """A turn ended; its time to the first token counts in the present sample."""
        self._ttfts.append(usage.timings.ttft_ms)

    async def run(self) -> None:
        """Take a sample every second until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                self.sample()
            except Exception as error:  # noqa: BLE001 (see below)
                # Figures for people must not end the daemon; the next sample may succeed.
                self._log.warning("history_sample_failed", error=repr(error))

    def sample(self) -> None:
        """Take one sample now."""
        self._requests.watch_waits()
        self._add(1, self._measure())
        if len(self._pending) == 10:
            folded, self._pending = fold(self._pending), []
            self._add(10, folded)

    def facts(self, *, step_s: int = 1, after: int = -1) -> HistoryFacts:
        """Return the samples of a step (1 or 10 seconds) with numbers above `after`."""
        ring, num_taken = self._rings[step_s], self._num_taken[step_s]
        first = max(num_taken - len(ring), min(after + 1, num_taken))
        samples = list(ring)[len(ring) - (num_taken - first) :] if num_taken > first else []
        return HistoryFacts(
            step_s=step_s,
            first=first,
            last=num_taken - 1,
            ended_at=self._ended_at[step_s],
            series={name: tuple(sample[name] for sample in samples) for name in SERIES},
        )

    def _add(self, step_s: int, sample: Sample) -> None:
        self._rings[step_s].append(sample)
        self._num_taken[step_s] += 1
        self._ended_at[step_s] = self._clock.wall()
        if step_s == 1:
            self._pending.append(sample)

    def _counters(self) -> dict[str, float]:
        counters = self._status.counters()
        return {
            "reused": float(counters.hot_hit_tokens + counters.warm_hit_tokens),
            "computed": float(counters.computed_tokens),
            "evictions": float(sum(counters.evictions.copy().values())),
            "recomputed_tokens": float(self._savings.total.recomputed_tokens),
            "failed": float(self._outcomes.num_failed),
            "refused": float(self._outcomes.num_refused),
        }

    def _measure(self) -> Sample:
        before, self._counted = self._counted, self._counters()
        moved = {name: max(0.0, value - before[name]) for name, value in self._counted.items()}
        asked = moved["reused"] + moved["computed"]
        engine = self._status.engine()
        decoding, prefilling = engine.batch_size, engine.num_prefilling
        ttfts, self._ttfts = self._ttfts, []
        return {
            "hit_rate": moved["reused"] / asked if asked else None,
            "evictions": moved["evictions"],
            "recomputed_tokens": moved["recomputed_tokens"],
            "ttft_ms": sum(ttfts) / len(ttfts) if ttfts else None,
            "itl_ms": engine.decode_step_ms if decoding else None,
            "tokens_per_s": engine.decode_tokens_per_s if decoding else None,
            "prefill_tokens_per_s": engine.prefill_tokens_per_s if prefilling else None,
            "running": float(engine.num_running),
            "queue": float(engine.num_waiting),
            "used_bytes": float(self._status.used_bytes()),
            "failed": moved["failed"],
            "refused": moved["refused"],
        }


def fold(samples: Sequence[Sample]) -> Sample:
    """Return one sample for several: counts are added, of states the largest is kept, of rates the mean."""
    folded: Sample = {}
    for name, how in SERIES.items():
        known = [value for sample in samples if (value := sample[name]) is not None]
        if not known:
            folded[name] = None
        elif how == "max":
            folded[name] = max(known)
        else:
            folded[name] = sum(known) / (1 if how == "sum" else len(known))
    return folded
