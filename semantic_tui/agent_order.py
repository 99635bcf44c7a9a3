"""Filter and order of the list of agents: a filter over id, state, class and model, and a sort key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from semantic_tui.live import LiveAgent

SORT_KEYS = {
    "last_used_at": "last used", "id": "name", "model": "model", "state": "state", "tier": "tier",
    "num_turns": "turns", "num_tokens": "tokens", "own_hot_bytes": "own bytes in RAM",
    "shared_hot_bytes": "shared bytes in RAM", "num_hot_blocks": "blocks in RAM", "warm_bytes": "bytes on disk",
    "last_reuse_ratio": "reuse", "last_ttft_ms": "TTFT", "last_tokens_per_s": "tokens/s", "saved_s": "time saved",
    "num_errors": "errors", "priority": "class", "pinned": "pinned",
}  # fmt: skip
"""Keys of an agent's row that it can be sorted by, with what the screen calls them."""
_ASCENDING = frozenset({"id", "model", "state", "tier", "priority"})


def next_key(sort: str) -> str:
    """Return the sort key after this one, in the order of the columns."""
    keys = list(SORT_KEYS)
    return keys[(keys.index(sort) + 1) % len(keys)]


def order_text(sort: str, reverse: bool) -> str:
    """Return the order in words."""
    return f"by {SORT_KEYS[sort]} {'▲' if (sort in _ASCENDING) ^ reverse else '▼'}"


def matches(agent: LiveAgent, words: str) -> bool:
    """Return whether every word is part of the agent's id, state, tier, class or model."""
    row = agent.row
    text = f"{row.id} {row.state} {row.tier} {row.priority} {row.model}".lower()
    if row.pinned:
        text += " pinned"
    return all(word in text for word in words.lower().split())


def listed(
    rows: Sequence[LiveAgent], *, words: str = "", sort: str = "last_used_at", reverse: bool = False
) -> list[LiveAgent]:
    """Return the rows that match, largest first (names in alphabetical order); unknown values come last.

    An agent in its first turn has no values yet; it is the newest, and stays on top while the last used are.
    """
    found = [row for row in rows if matches(row, words)]
    if sort == "last_used_at":
        new = [row for row in found if row.first_turn]
        used = _ordered([row for row in found if not row.first_turn], sort, reverse)
        return [*used, *new] if reverse else [*new, *used]
    return _ordered(found, sort, reverse)


def _ordered(found: Sequence[LiveAgent], sort: str, reverse: bool) -> list[LiveAgent]:
    known = [row for row in found if _value(row, sort) is not None]
    unknown = [row for row in found if _value(row, sort) is None]
    known.sort(key=lambda row: row.row.id)
    return [
        *sorted(known, key=lambda row: _value(row, sort), reverse=(sort not in _ASCENDING) ^ reverse),
        *unknown,
    ]


def _value(agent: LiveAgent, sort: str) -> Any:
    return getattr(agent.row, sort)
