"""Which agents are listed and in which order: a filter over id, state, class and model, and a sort key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SORT_KEYS = {
    "last_used_at": "last used", "id": "name", "model": "model", "state": "state", "tier": "tier",
    "num_turns": "turns", "num_tokens": "tokens", "own_hot_bytes": "own bytes in RAM",
    "shared_hot_bytes": "shared bytes in RAM", "num_hot_blocks": "blocks in RAM", "warm_bytes": "bytes on disk",
    "last_reuse_ratio": "reuse", "last_ttft_ms": "TTFT", "last_tokens_per_s": "tokens/s", "saved_s": "time saved",
    "num_errors": "errors", "class": "class", "pinned": "pinned",
}  # fmt: skip
"""Keys of an agent's row that it can be sorted by, with what the screen calls them."""
_ASCENDING = frozenset({"id", "model", "state", "tier", "class"})


def next_key(sort: str) -> str:
    """Return the sort key after this one, in the order of the columns."""
    keys = list(SORT_KEYS)
    return keys[(keys.index(sort) + 1) % len(keys)]


def order_text(sort: str, reverse: bool) -> str:
    """Return the order in words."""
    return f"by {SORT_KEYS[sort]} {'▲' if (sort in _ASCENDING) ^ reverse else '▼'}"


def matches(row: Mapping[str, Any], words: str) -> bool:
    """Whether every word is part of the agent's id, state, tier, class or model."""
    text = " ".join(str(row.get(key, "")) for key in ("id", "state", "tier", "class", "model")).lower()
    if row.get("pinned"):
        text += " pinned"
    return all(word in text for word in words.lower().split())


def listed(
    rows: Sequence[Mapping[str, Any]], *, words: str = "", sort: str = "last_used_at", reverse: bool = False
) -> list[Mapping[str, Any]]:
    """Return the rows that match, largest first (names in alphabetical order); unknown values come last.

    An agent in its first turn has no values yet; it is the newest, and stays on top while the last used are.
    """
    found = [row for row in rows if matches(row, words)]
    if sort == "last_used_at" and not reverse:
        new = [row for row in found if row.get("first_turn")]
        return [*new, *_ordered([row for row in found if not row.get("first_turn")], sort, reverse)]
    return _ordered(found, sort, reverse)


def _ordered(found: Sequence[Mapping[str, Any]], sort: str, reverse: bool) -> list[Mapping[str, Any]]:
    known = [row for row in found if row.get(sort) is not None]
    unknown = [row for row in found if row.get(sort) is None]
    known.sort(key=lambda row: str(row.get("id", "")))
    return [*sorted(known, key=lambda row: row[sort], reverse=(sort not in _ASCENDING) ^ reverse), *unknown]
