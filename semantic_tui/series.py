"""The series of the history as screens show them: their names and the format of their values. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from semantic_tui.plain import duration, size


@dataclass(frozen=True, slots=True)
class Series:
    """One series: its name in the history, its title, and its values in words; `top` is the value of a full bar."""

    key: str
    title: str
    meaning: str
    show: Callable[[float], str]
    top: float | None = None
    holds: bool = False
    """Whether the last measured value still says something while nothing is measured."""
    is_count: bool = False
    """Whether samples are counts of their interval, so that the span's sum says more than the newest."""


def _rate(value: float) -> str:
    return f"{value:.1f}/s" if value < 100 else f"{value:,.0f}/s"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _ms(value: float) -> str:
    return f"{value:.1f} ms" if value < 1000 else f"{value / 1000:.1f} s"


SERIES = (
    Series("ttft_ms", "TTFT", "time to the first token of finished turns", duration, holds=True),
    Series("itl_ms", "ITL", "time between two tokens of an answer", _ms),
    Series("tokens_per_s", "decode", "tokens decoded per second, all answers together", _rate),
    Series("prefill_tokens_per_s", "prefill", "prompt tokens computed per second", _rate),
    Series("queue", "queue", "waiting requests", _count),
    Series(
        "hit_rate",
        "hit rate",
        "share of prompt tokens found in the cache",
        _percent,
        top=1.0,
        holds=True,
    ),
    Series("evictions", "evicted", "blocks evicted from RAM", _count, is_count=True),
    Series("recomputed_tokens", "again", "tokens recomputed after an eviction", _count, is_count=True),
    Series("used_bytes", "RAM", "bytes of the cache budget in use", size),
    Series("failed", "failed", "failed requests", _count, is_count=True),
    Series("refused", "refused", "refused requests", _count, is_count=True),
)
BY_KEY = {series.key: series for series in SERIES}
