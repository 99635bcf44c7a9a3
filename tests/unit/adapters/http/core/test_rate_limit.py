"""Token buckets on a clock that advances only on demand."""

from __future__ import annotations

import pytest

from semanticd.adapters.http.core.rate_limit import RateLimiter
from semanticd.adapters.http.core.services import NullMetrics
from semanticd.domain.errors import RateLimitedError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_may_come_at_once_and_the_next_one_is_told_when() -> None:
    clock = Clock()
    limiter = RateLimiter(3, what="agent", monotonic=clock, metrics=NullMetrics())
    for _ in range(3):
        limiter.admit("a")
    limiter.admit("b")
    with pytest.raises(RateLimitedError) as caught:
        limiter.admit("a")
    assert caught.value.retry_after_s == pytest.approx(20.0)
    clock.now += 20.0
    limiter.admit("a")


def test_zero_means_no_limit() -> None:
    limiter = RateLimiter(0, what="key", monotonic=Clock(), metrics=NullMetrics())
    for _ in range(1000):
        limiter.admit("a")


def test_the_table_of_callers_stays_small() -> None:
    limiter = RateLimiter(1, what="key", monotonic=Clock(), metrics=NullMetrics(), max_callers=2)
    for name in ("a", "b", "c"):
        limiter.admit(name)
    limiter.admit("a")  # forgotten, hence new
    with pytest.raises(RateLimitedError):
        limiter.admit("c")
