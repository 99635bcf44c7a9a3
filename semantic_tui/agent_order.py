"""Which agents are listed and in which order: a filter over id, state, class and model, and a sort key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SORT_KEYS = (
    "last_used_at", "id", "state", "num_tokens", "hot_bytes", "warm_bytes", "last_reuse_ratio", "last_ttft_ms",
    "last_tokens_per_s",
)  # fmt: skip
_ASCENDING = frozenset({"id", "state"})


def matches(row: Mapping[str, Any], words: str) -> bool:
    """Whether every word is part of the agent's id, state, tier, class or model."""
    told = " ".join(str(row.get(key, "")) for key in ("id", "state", "tier", "class", "model")).lower()
    if row.get("pinned"):
        told += " pinned"
    return all(word in told for word in words.lower().split())


def listed(
    rows: Sequence[Mapping[str, Any]], *, words: str = "", sort: str = "last_used_at", reverse: bool = False
) -> list[Mapping[str, Any]]:
    """Return the rows that match, largest first (names in alphabetical order); unknown values come last."""
    found = [row for row in rows if matches(row, words)]
    known = [row for row in found if row.get(sort) is not None]
    unknown = [row for row in found if row.get(sort) is None]
    known.sort(key=lambda row: str(row.get("id", "")))
    return [*sorted(known, key=lambda row: row[sort], reverse=(sort not in _ASCENDING) ^ reverse), *unknown]
