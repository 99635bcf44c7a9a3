"""The last hour in numbers: a sample a second for ten minutes, and one for ten seconds for an hour.

A value is None where there was nothing to measure: no turn ended, no token was decoded, no prompt arrived, no daemon
ran. The samples outlive the daemon (`kept`, `restore`). Rule: a sample costs the same however long the daemon runs and
however many agents it has; the event loop's thread only.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from semanticd.application.ports.telemetry import Clock, Log
from semanticd.application.services.outcomes import Outcomes
from semanticd.application.services.samples import (
    Columns,
    Sample,
    SampleRing,
    columns_of,
    figures_of,
    samples_of,
)
from semanticd.application.services.savings import Savings
from semanticd.application.services.status import RequestsService, StatusService
from semanticd.domain.generation import Usage

SECONDS_KEPT = 600
TENS_KEPT = 360
INTERVAL_S = 1.0
_TEN = 10
_DIGITS = 6
"""Significant digits of a kept value: what graphs show has three."""

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
"""Kept series, and the fold of ten samples into one; rates are shares or per second, counts are per interval."""


@dataclass(frozen=True, slots=True)
class HistoryFacts:
    """Samples with the numbers `first` to `last`, oldest first; `ended_at` is the last one's time since the epoch."""

    step_s: int
    first: int
    last: int
    ended_at: float
    series: Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True, slots=True)
class KeptHistory:
    """The samples that outlive the daemon; the first second's end is `ended_at` less the number of seconds."""

    ended_at: float
    seconds: Columns
    tens: Columns
    pending: Columns
    """Seconds that are not folded into ten yet."""

    def plain(self) -> dict[str, Any]:
        """Return it in values that JSON has, a list for each series; from any thread."""
        parts = {"seconds": self.seconds, "tens": self.tens, "pending": self.pending}
        return {"ended_at": self.ended_at, **{part: _rounded(columns) for part, columns in parts.items()}}

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> KeptHistory:
        """Make it of what `plain` returned; series of another version are left out or empty.

        Raises:
            ValueError: It is something else.
        """
        ended_at = kept.get("ended_at")
        if not _is_figure(ended_at) or ended_at is None:
            raise ValueError("expected the time of the last sample")
        parts = {"seconds": SECONDS_KEPT, "tens": TENS_KEPT, "pending": _TEN - 1}
        seconds, tens, pending = (_columns(kept.get(part), most=most) for part, most in parts.items())
        return cls(float(ended_at), seconds, tens, pending)


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
        self._rings = {1: SampleRing(SERIES, size=SECONDS_KEPT), _TEN: SampleRing(SERIES, size=TENS_KEPT)}
        self._pending: list[Sample] = []
        self._ended_at = {1: clock.wall(), _TEN: clock.wall()}
        self._is_restored = False
        """Whether the last sample is an earlier daemon's."""

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
        self._fill_gap()
        self._add(self._measure(), self._clock.wall())

    def facts(self, *, step_s: int = 1, after: int = -1) -> HistoryFacts:
        """Return the samples of a step (1 or 10 seconds) with numbers above `after`."""
        ring = self._rings[step_s]
        first = max(ring.num_taken - len(ring), min(after + 1, ring.num_taken))
        columns = ring.last(ring.num_taken - first)
        return HistoryFacts(
            step_s=step_s,
            first=first,
            last=ring.num_taken - 1,
            ended_at=self._ended_at[step_s],
            series={name: tuple(figures_of(column)) for name, column in columns.items()},
        )

    def kept(self) -> KeptHistory:
        """Return what outlives the daemon: copies."""
        seconds, tens = (ring.last(len(ring)) for ring in self._rings.values())
        return KeptHistory(self._ended_at[1], seconds, tens, columns_of(self._pending, SERIES))

    def restore(self, kept: KeptHistory) -> None:
        """Begin with an earlier daemon's samples; before the first one is taken."""
        for step_s, columns in ((1, kept.seconds), (_TEN, kept.tens)):
            for sample in samples_of(columns):
                self._rings[step_s].add(sample)
        self._pending = samples_of(kept.pending)
        self._ended_at = {1: kept.ended_at, _TEN: kept.ended_at - len(self._pending)}
        self._is_restored = True

    def _fill_gap(self) -> None:
        """Add the seconds in which no daemon ran: none where the clock was set back, an hour's at most."""
        if not self._is_restored:
            return
        self._is_restored = False
        now = self._clock.wall()
        num_seconds = min(math.floor(max(0.0, now - self._ended_at[1] - INTERVAL_S)), 10 * TENS_KEPT)
        for at in range(num_seconds, 0, -1):
            self._add(dict.fromkeys(SERIES), now - at)

    def _add(self, sample: Sample, ended_at: float) -> None:
        self._append(1, sample, ended_at)
        self._pending.append(sample)
        if len(self._pending) >= _TEN:
            folded, self._pending = fold(self._pending), []
            self._append(_TEN, folded, ended_at)

    def _append(self, step_s: int, sample: Sample, ended_at: float) -> None:
        self._rings[step_s].add(sample)
        self._ended_at[step_s] = ended_at

    def _counters(self) -> dict[str, float]:
        counters = self._status.counters()
        return {
            "reused": float(counters.hot_hit_tokens + counters.warm_hit_tokens),
            "computed": float(counters.computed_tokens),
            "evictions": float(sum(counters.evictions.copy().values())),
            "recomputed_tokens": float(self._savings.num_recomputed),
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


def _rounded(columns: Columns) -> dict[str, list[float | None]]:
    return {
        name: [None if figure is None else float(f"{figure:.{_DIGITS}g}") for figure in figures_of(column)]
        for name, column in columns.items()
    }


def _columns(kept: object, *, most: int) -> Columns:
    """Return the last samples, `most` at most, of the lists that they were kept as.

    Raises:
        ValueError: The lists have another form.
    """
    if not isinstance(kept, Mapping):
        raise ValueError("expected a list for each series")
    known = {name: values for name, values in kept.items() if name in SERIES}
    lengths = {len(values) if isinstance(values, list) else -1 for values in known.values()}
    if len(lengths) > 1 or -1 in lengths:
        raise ValueError("expected lists of one length")
    (length,) = lengths or {0}
    if not all(_is_figure(value) for values in known.values() for value in values):
        raise ValueError("expected numbers")
    begin = max(0, length - most)
    samples = (
        {name: known[name][at] if name in known else None for name in SERIES} for at in range(begin, length)
    )
    return columns_of(samples, SERIES)


def _is_figure(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
