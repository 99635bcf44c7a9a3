"""Waiting time of a request and its reason, in words: wait 3.9 s (RAM). Pure."""

from __future__ import annotations

from typing import Final

from semanticd.control.results import RequestRow

WAIT_REASONS: Final = {
    "memory": "RAM",
    "place": "batch",
    "leader": "prefix",
    "restore": "disk",
    "turn": "turn",
    "model": "model",
    "prompt": "prompt",
}
"""Short words for `wait_reason`, for the narrowest tables."""
_LONGER: Final = {"model": "model loads", "prompt": "reading the prompt"}
"""The same where there is room."""


def wait_text(row: RequestRow, *, room: int | None = None) -> str:
    """Return how long a waiting request has waited and why, in at most `room` characters where a short form does it."""
    word = "preempted" if row.num_preemptions else "wait"
    begun = f"{word} {age_text(row.age_s)}"
    reason = WAIT_REASONS.get(row.wait_reason or "", "")
    if not reason:
        return begun
    text = f"{begun} ({_LONGER.get(row.wait_reason or '', reason)})"
    return text if room is None or len(text) <= room else f"{begun} ({reason})"


def age_text(seconds: float) -> str:
    """Return seconds in at most five characters: the reason behind them must find room in its column."""
    return (
        f"{seconds:.1f} s"
        if seconds < 10
        else f"{seconds:.0f} s"
        if seconds < 600
        else f"{seconds / 60:.0f} m"
    )
