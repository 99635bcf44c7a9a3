"""Requests per minute, counted per caller; the oldest callers are forgotten so that the table stays small."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from semanticd.application.ports.telemetry import Metrics
from semanticd.domain.errors import RateLimitedError
from semanticd.domain.limits import LIMITS


class RateLimiter:
    """A token bucket per name: `per_minute` requests may come at once, and as many again each minute."""

    def __init__(
        self,
        per_minute: int,
        *,
        what: str,
        monotonic: Callable[[], float],
        metrics: Metrics,
        max_callers: int = LIMITS.rate_limited_callers,
    ) -> None:
        """Limit to `per_minute` requests (0: no limit); `what` names the callers in messages and metrics."""
        self._max_callers = max_callers
        self._metrics = metrics
        self._per_minute = per_minute
        self._what = what
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, name: str) -> None:
        """Count one request.

        Raises:
            RateLimitedError: there were too many; says when the next one is welcome.
        """
        if self._per_minute <= 0:
            return
        now = self._monotonic()
        tokens, then = self._buckets.pop(name, (float(self._per_minute), now))
        rate = self._per_minute / 60.0
        tokens = min(float(self._per_minute), tokens + (now - then) * rate)
        admitted = tokens >= 1.0
        self._buckets[name] = (tokens - 1.0 if admitted else tokens, now)
        if len(self._buckets) > self._max_callers:
            self._buckets.popitem(last=False)
        if not admitted:
            self._metrics.count("rate_limited_total", scope=self._what)
            raise RateLimitedError(
                f"this {self._what} sent more than {self._per_minute} requests per minute; wait and retry",
                retry_after_s=(1.0 - tokens) / rate,
            )
