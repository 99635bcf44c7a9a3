"""The columns of the agents table: what each says, how it is sorted, and which fit a width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from semantic_tui.live import LiveAgent, agent_state
from semantic_tui.plain import count, duration, number, short_class, short_duration, short_size, size
from semantic_tui.widgets.rows_table import CELL_PADDING, Cell, Column
from semanticd.control.results import AgentRow

_BORDER = 2 + 1  # and the scrollbar
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class AgentColumn:
    """One column; without a width it takes the remaining space."""

    title: str
    sort_key: str
    cell: Callable[[LiveAgent], Cell]
    width: int = 0
    right: bool = True


def _percent(agent: LiveAgent) -> str:
    ratio = agent.row.last_reuse_ratio
    return number(None if ratio is None else 100 * ratio, " %")


def _in_ram(agent: LiveAgent) -> str:
    row = agent.row
    return number(100 * row.num_hot_blocks / row.num_blocks if row.num_blocks else None, " %")


def _errors(agent: LiveAgent) -> Cell:
    errors = agent.row.num_errors
    return (str(errors), "bold $error") if errors else "-"


def _saved(agent: LiveAgent) -> str:
    saved = agent.row.saved_s
    return short_duration(saved) if saved else "-"


def _bytes(
    of: Callable[[AgentRow], int | None], shown: Callable[[float | None], str]
) -> Callable[[LiveAgent], str]:
    """Return a cell of bytes; of an agent in its first turn they are counted when that has ended."""
    return lambda agent: "-" if agent.first_turn else shown(of(agent.row))


def _own(row: AgentRow) -> int:
    # A daemon that does not say how much is shared says how much is hot.
    return row.hot_bytes if row.own_hot_bytes is None else row.own_hot_bytes


def _shared(row: AgentRow) -> int | None:
    return row.shared_hot_bytes


def _warm(row: AgentRow) -> int:
    return row.warm_bytes


def _state(room: int) -> AgentColumn:
    """Return the column of the states, `room` characters wide."""
    return AgentColumn(
        "state", "state", lambda agent: agent_state(agent.row, agent.requests, room=room), room, right=False
    )


def _model(agent: LiveAgent) -> str:
    return agent.row.model or "-"


def _tokens(agent: LiveAgent) -> str:
    return count(agent.row.num_tokens)


def _name(agent: LiveAgent) -> Cell:
    mark = "▸ " if agent.watched else "* " if agent.row.pinned else "  "
    return f"{mark}{agent.row.id}"


_NAME = AgentColumn("  agent", "id", _name, right=False)
_REUSE = AgentColumn("reuse", "last_reuse_ratio", _percent, 5)
_TTFT = AgentColumn("TTFT", "last_ttft_ms", lambda agent: duration(agent.row.last_ttft_ms), 6)
_ERRORS = AgentColumn("err", "num_errors", _errors, 3)
_IN_RAM = AgentColumn("in RAM", "num_hot_blocks", _in_ram, 6)
_WARM = AgentColumn("disk", "warm_bytes", _bytes(_warm, short_size), 5)
NARROW = (
    _NAME,
    _state(22),
    AgentColumn("tokens", "num_tokens", _tokens, 7),
    AgentColumn("RAM", "own_hot_bytes", _bytes(_own, short_size), 5),
    _REUSE,
    _TTFT,
    _ERRORS,
)
USUAL = (
    _NAME,
    AgentColumn("model", "model", _model, 14, right=False),
    _state(24),
    AgentColumn("tokens", "num_tokens", _tokens, 7),
    AgentColumn("own", "own_hot_bytes", _bytes(_own, short_size), 5),
    AgentColumn("shared", "shared_hot_bytes", _bytes(_shared, short_size), 6),
    _IN_RAM,
    _WARM,
    _REUSE,
    _TTFT,
    _ERRORS,
)
WIDE = (
    _NAME,
    AgentColumn("model", "model", _model, 24, right=False),
    _state(24),
    AgentColumn("tier", "tier", lambda agent: agent.row.tier or "-", 4, right=False),
    AgentColumn("turns", "num_turns", lambda agent: str(agent.row.num_turns), 5),
    AgentColumn("tokens", "num_tokens", _tokens, 9),
    AgentColumn("own", "own_hot_bytes", _bytes(_own, size), 10),
    AgentColumn("shared", "shared_hot_bytes", _bytes(_shared, size), 10),
    _IN_RAM,
    AgentColumn("disk", "warm_bytes", _bytes(_warm, size), 10),
    _REUSE,
    _TTFT,
    AgentColumn("saved", "saved_s", _saved, 6),
    AgentColumn("class", "priority", lambda agent: short_class(agent.row.priority), 5, right=False),
    _ERRORS,
)


def columns_for(width: int) -> tuple[AgentColumn, ...]:
    """Return the columns that fit a terminal of `width` characters."""
    return WIDE if width >= 170 else USUAL if width >= 112 else NARROW


def titles(columns: tuple[AgentColumn, ...], width: int) -> tuple[Column, ...]:
    """Return the columns with titles for a table; the agent's name gets the remaining width."""
    taken = sum(column.width for column in columns) + 2 * CELL_PADDING * len(columns) + _BORDER
    name = max(8, min(_MAX_NAME, width - taken))
    return tuple(Column(column.title, column.width or name, column.right) for column in columns)
