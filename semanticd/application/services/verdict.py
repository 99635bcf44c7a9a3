"""A turn's time in one sentence: which part of it was the longest, and why. A pure function of the turn's facts."""

from __future__ import annotations

from semanticd.application.services.agent_facts import TurnFacts
from semanticd.domain.generation import CacheMiss

_CAUSES = {
    "first_request": "the first request has nothing to reuse",
    "evicted": "the blocks were no longer in RAM or on disk",
    "gone_before_start": "the blocks were gone before the daemon started",
    "files_missing": "block files were gone from the disk",
    "files_damaged": "block files were damaged",
    "peer_failed": "a peer did not deliver its blocks",
    "no_snapshot": "this model resumes from snapshots only, and the nearest is",
    "system_changed": "the system text changed",
    "tools_changed": "the tools changed",
    "date_changed": "a date or time changed",
    "history_changed": "the history changed",
    "thinking_dropped": "the template dropped the thinking of an earlier turn",
    "model_changed": "another model answers",
    "tools_reordered": "the order of the tools changed",
}
_WAITS = {
    "memory": "for RAM",
    "place": "for a place in the batch",
    "leader": "for a prefix that another request computes",
    "restore": "for the disk",
    "turn": "for its turn",
    "model": "for a model to load",
    "prompt": "for its prompt to be read",
}
_QUICK_MS = 250.0
"""A first token that comes within this needs no explanation."""


def verdict(turn: TurnFacts, *, reason: str | None = None, behind: str | None = None) -> str:
    """Return the verdict on a turn; `reason` and `behind` are those of its longest wait."""
    ttft, queue, restore, prefill = turn.ttft_ms, turn.queue_ms, turn.restore_ms, turn.prefill_ms
    others = max(ttft - queue - restore - prefill, 0.0)
    if ttft <= _QUICK_MS:
        return f"Quick: the first token came after {_time(ttft)}{_work(turn)}."
    longest = max(queue, restore, prefill, others)
    if longest == queue:
        where = _WAITS.get(reason or "", "before its work began")
        after = f" behind {behind}" if behind else ""
        return f"{_share(queue, ttft)} waiting {where}{after}."
    if longest == restore:
        return f"{_share(restore, ttft)} reading {turn.restored_warm_tokens:,} tokens from disk."
    if longest == others:
        return f"{_share(others, ttft)} between its own steps: other requests ran, or the machine was busy."
    return f"{_share(prefill, ttft)} computing {turn.computed_tokens:,} tokens{_why(turn.miss)}."


def _time(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def _share(part: float, whole: float) -> str:
    if whole < 1000:
        return f"{part:.0f} of {whole:.0f} ms"
    return f"{part / 1000:.1f} of {whole / 1000:.1f} s"


def _work(turn: TurnFacts) -> str:
    return f"; {turn.computed_tokens:,} tokens were computed" if turn.computed_tokens else ""


def _why(miss: CacheMiss | None) -> str:
    if miss is None:
        return " that were new"
    text = _CAUSES.get(miss.cause, miss.cause.replace("_", " ") or "the cause is not known")
    is_placed = miss.cause == "no_snapshot" or (miss.position and miss.cause != "first_request")
    at = f" at token {miss.position:,}" if is_placed else ""
    return f": {text}{at}"
