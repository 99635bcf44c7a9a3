"""A turn's time in one sentence: which part of it was the longest, and why. A pure function of the turn's facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CAUSES = {
    "first_request": "the first request has nothing to reuse",
    "evicted": "the blocks had been evicted",
    "system_changed": "the system text changed",
    "tools_changed": "the tools changed",
    "date_changed": "a date or time changed",
    "history_changed": "the history changed",
    "model_changed": "another model answers",
    "tools_reordered": "the tools came in another order",
}
_WAITS = {
    "memory": "for RAM",
    "place": "for a place in the batch",
    "leader": "for a prefix that is computed",
    "restore": "for the disk",
    "turn": "for its turn",
}
_QUICK_MS = 250.0
"""A first token that comes within this needs no explanation."""


def verdict(turn: Mapping[str, Any], *, reason: str | None = None, behind: str | None = None) -> str:
    """Return the verdict on a turn (a row of `agents.why`); `reason` and `behind` say what it waited for longest."""
    ttft = _ms(turn, "ttft_ms")
    queue, restore, prefill = (_ms(turn, key) for key in ("queue_ms", "restore_ms", "prefill_ms"))
    others = max(ttft - queue - restore - prefill, 0.0)
    if ttft <= _QUICK_MS:
        return f"Quick: the first token came after {_time(ttft)}{_work(turn)}."
    longest = max(queue, restore, prefill, others)
    if longest == queue:
        where = _WAITS.get(reason or "", "before its work began")
        after = f" behind {behind}" if behind else ""
        return f"{_share(queue, ttft)} waiting {where}{after}."
    if longest == restore:
        tokens = int(turn.get("restored_warm_tokens") or 0)
        return f"{_share(restore, ttft)} reading {tokens:,} tokens from disk."
    if longest == others:
        return f"{_share(others, ttft)} while the engine computed for other requests."
    return f"{_share(prefill, ttft)} computing {int(turn.get('computed_tokens') or 0):,} tokens{_why(turn)}."


def _ms(turn: Mapping[str, Any], key: str) -> float:
    return float(turn.get(key) or 0.0)


def _time(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def _share(part: float, whole: float) -> str:
    if whole < 1000:
        return f"{part:.0f} of {whole:.0f} ms"
    return f"{part / 1000:.1f} of {whole / 1000:.1f} s"


def _work(turn: Mapping[str, Any]) -> str:
    computed = int(turn.get("computed_tokens") or 0)
    return f"; {computed:,} tokens were computed" if computed else ""


def _why(turn: Mapping[str, Any]) -> str:
    miss = turn.get("miss")
    if not isinstance(miss, Mapping):
        return " that were new"
    cause = str(miss.get("cause") or "")
    text = _CAUSES.get(cause, cause.replace("_", " ") or "the cause is not known")
    position = miss.get("position")
    return f": {text}" + (f" at token {position:,}" if isinstance(position, int) and position else "")
