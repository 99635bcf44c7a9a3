"""The columns of the agents table: what each says, how it is sorted, and which fit a width."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from semantic_tui.live import agent_state
from semantic_tui.plain import duration, number, short_duration, short_size, size
from semantic_tui.widgets.rows_table import CELL_PADDING, Cell, Column

Row = Mapping[str, Any]
_BORDER = 2 + 1  # and the scrollbar
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class AgentColumn:
    """One column; without a width it takes what the others leave."""

    title: str
    sort_key: str
    cell: Callable[[Row], Cell]
    width: int = 0
    right: bool = True


def _percent(row: Row) -> str:
    ratio = row.get("last_reuse_ratio")
    return number(None if ratio is None else 100 * ratio, " %")


def _in_ram(row: Row) -> str:
    num_blocks = row.get("num_blocks") or 0
    return number(100 * (row.get("num_hot_blocks") or 0) / num_blocks if num_blocks else None, " %")


def _tokens(row: Row) -> str:
    return f"{row.get('num_tokens') or 0:,}"


def _turns(row: Row) -> str:
    return str(row.get("num_turns") or 0)


def _ttft(row: Row) -> str:
    return duration(row.get("last_ttft_ms"))


def _class(row: Row) -> str:
    return {"interactive": "int", "background": "bg"}.get(str(row.get("class")), str(row.get("class") or "-"))


def _errors(row: Row) -> Cell:
    errors = row.get("num_errors") or 0
    return (str(errors), "bold $error") if errors else "-"


def _saved(row: Row) -> str:
    saved = row.get("saved_s")
    return short_duration(saved) if saved else "-"


def _own(row: Row) -> float:
    # A daemon that does not say how much is shared says how much is hot.
    return row.get("own_hot_bytes", row.get("hot_bytes")) or 0


def _state(row: Row) -> Cell:
    return agent_state(row, row.get("requests") or [])


def _model(row: Row) -> str:
    return str(row.get("model") or "-")


def _name(row: Row) -> Cell:
    mark = "▸ " if row.get("watched") else "* " if row.get("pinned") else "  "
    return f"{mark}{row.get('id', '')}"


_NAME = AgentColumn("  agent", "id", _name, right=False)
_REUSE = AgentColumn("reuse", "last_reuse_ratio", _percent, 5)
_TTFT = AgentColumn("TTFT", "last_ttft_ms", _ttft, 6)
_ERRORS = AgentColumn("err", "num_errors", _errors, 3)
_IN_RAM = AgentColumn("in RAM", "num_hot_blocks", _in_ram, 6)
_WARM = AgentColumn("disk", "warm_bytes", lambda row: short_size(row.get("warm_bytes")), 5)
NARROW = (
    _NAME,
    AgentColumn("state", "state", _state, 18, right=False),
    AgentColumn("tokens", "num_tokens", _tokens, 7),
    AgentColumn("RAM", "own_hot_bytes", lambda row: short_size(_own(row)), 5),
    _REUSE,
    _TTFT,
    _ERRORS,
)
USUAL = (
    _NAME,
    AgentColumn("model", "model", _model, 14, right=False),
    AgentColumn("state", "state", _state, 20, right=False),
    AgentColumn("tokens", "num_tokens", _tokens, 7),
    AgentColumn("own", "own_hot_bytes", lambda row: short_size(_own(row)), 5),
    AgentColumn("shared", "shared_hot_bytes", lambda row: short_size(row.get("shared_hot_bytes")), 6),
    _IN_RAM,
    _WARM,
    _REUSE,
    _TTFT,
    _ERRORS,
)
WIDE = (
    _NAME,
    AgentColumn("model", "model", _model, 24, right=False),
    AgentColumn("state", "state", _state, 22, right=False),
    AgentColumn("tier", "tier", lambda row: str(row.get("tier") or "-"), 4, right=False),
    AgentColumn("turns", "num_turns", _turns, 5),
    AgentColumn("tokens", "num_tokens", _tokens, 9),
    AgentColumn("own", "own_hot_bytes", lambda row: size(_own(row)), 10),
    AgentColumn("shared", "shared_hot_bytes", lambda row: size(row.get("shared_hot_bytes")), 10),
    _IN_RAM,
    AgentColumn("disk", "warm_bytes", lambda row: size(row.get("warm_bytes")), 10),
    _REUSE,
    _TTFT,
    AgentColumn("saved", "saved_s", _saved, 6),
    AgentColumn("class", "class", _class, 5, right=False),
    _ERRORS,
)


def columns_for(width: int) -> tuple[AgentColumn, ...]:
    """Return the columns that fit a terminal of `width` characters."""
    return WIDE if width >= 170 else USUAL if width >= 112 else NARROW


def titles(columns: tuple[AgentColumn, ...], width: int) -> tuple[Column, ...]:
    """Return the columns as a table names them; the agent's name gets what the others leave."""
    taken = sum(column.width for column in columns) + 2 * CELL_PADDING * len(columns) + _BORDER
    name = max(8, min(_MAX_NAME, width - taken))
    return tuple(Column(column.title, column.width or name, column.right) for column in columns)
