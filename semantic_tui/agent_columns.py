"""The columns of the agents table: what each says, how it is sorted, and which fit a width."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from semantic_tui.plain import duration, number, short_size, shortened, size

WIDE_FROM = 112
"""Columns of the terminal from which sizes have their units and every column is there."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AgentColumn:
    """One column; a `width` above 0 aligns its cells to the right of so many characters."""

    title: str
    sort_key: str
    cell: Callable[[Row], str]
    width: int = 0


def _percent(row: Row) -> str:
    ratio = row.get("last_reuse_ratio")
    return number(None if ratio is None else 100 * ratio, " %")


def _tokens(row: Row) -> str:
    return str(row.get("num_tokens") or 0)


def _ttft(row: Row) -> str:
    return duration(row.get("last_ttft_ms"))


def _class(row: Row) -> str:
    return {"interactive": "int", "background": "bg"}.get(str(row.get("class")), str(row.get("class") or "-"))


def _tokens_per_s(row: Row) -> str:
    return number(row.get("last_tokens_per_s"), digits=1)


def _pinned(row: Row) -> str:
    return "yes" if row.get("pinned") else ""


_STATE = AgentColumn("state", "state", lambda row: str(row.get("state") or "-"))
_REUSE = AgentColumn("reuse", "last_reuse_ratio", _percent, 5)
NARROW = (
    AgentColumn("agent", "id", lambda row: shortened(str(row.get("id", "")), 14)),
    _STATE,
    AgentColumn("tokens", "num_tokens", _tokens, 6),
    AgentColumn("hot", "hot_bytes", lambda row: short_size(row.get("hot_bytes")), 5),
    AgentColumn("warm", "warm_bytes", lambda row: short_size(row.get("warm_bytes")), 5),
    _REUSE,
    AgentColumn("TTFT", "last_ttft_ms", _ttft, 6),
    AgentColumn("tok/s", "last_tokens_per_s", _tokens_per_s, 5),
    AgentColumn("class", "class", _class),
    AgentColumn("pin", "pinned", _pinned),
)
WIDE = (
    AgentColumn("agent", "id", lambda row: shortened(str(row.get("id", "")), 40)),
    _STATE,
    AgentColumn("tier", "tier", lambda row: str(row.get("tier") or "-")),
    AgentColumn("tokens", "num_tokens", _tokens, 8),
    AgentColumn("hot", "hot_bytes", lambda row: size(row.get("hot_bytes")), 10),
    AgentColumn("warm", "warm_bytes", lambda row: size(row.get("warm_bytes")), 10),
    _REUSE,
    AgentColumn("TTFT", "last_ttft_ms", _ttft, 7),
    AgentColumn("tok/s", "last_tokens_per_s", _tokens_per_s, 6),
    AgentColumn("class", "class", lambda row: str(row.get("class") or "-")),
    AgentColumn("pinned", "pinned", _pinned),
)


def columns_for(width: int) -> tuple[AgentColumn, ...]:
    """Return the columns that fit a terminal of `width` characters."""
    return WIDE if width >= WIDE_FROM else NARROW
