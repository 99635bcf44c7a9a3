"""The facts about one agent as cells and text: its turns with their times and misses, its blocks, its speed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from rich.cells import cell_len
from textual.content import Content

from semantic_tui.plain import bar, duration, short_duration, shortened, size
from semantic_tui.widgets.figures import graph, waterfall
from semantic_tui.widgets.rows_table import CELL_PADDING, Cell, Column, Row, fitted
from semanticd.control.results import AgentResult, AgentRow, MissRow, TurnRow, step_text

PHASES = (
    ("queue_ms", "queue", "░", "$muted"),
    ("restore_ms", "restore", "▒", "$primary"),
    ("prefill_ms", "prefill", "▓", "$warning"),
    ("decode_ms", "decode", "█", "$success"),
)
"""A turn's phases in order: key, name, character and colour."""
_CAUSES = {
    "first_request": "first request",
    "evicted": "blocks were evicted",
    "gone_before_start": "gone before the daemon started",
    "files_missing": "block files were missing",
    "files_damaged": "block files were damaged",
    "peer_failed": "a peer sent no blocks",
    "no_snapshot": "no closer snapshot",
    "system_changed": "system text changed",
    "tools_changed": "tools changed",
    "tools_reordered": "tools reordered",
    "date_changed": "a date or time changed",
    "history_changed": "history changed",
    "thinking_dropped": "thinking omitted",
    "model_changed": "model changed",
}
_SHORT_CAUSES = {
    "first_request": "first",
    "evicted": "evicted",
    "gone_before_start": "gone before",
    "files_missing": "no files",
    "files_damaged": "damaged",
    "peer_failed": "peer",
    "no_snapshot": "snapshot",
    "system_changed": "system",
    "tools_changed": "tools",
    "tools_reordered": "tool order",
    "date_changed": "date",
    "history_changed": "history",
    "thinking_dropped": "thinking",
    "model_changed": "model",
}
_CONTEXT_CHARS = 160
_LEAST_BAR = 4
"""Characters below which a bar says nothing."""
_MISS = "why it missed"
_WIDE_MISS = 26
_BAR = "queue│restore│prefill│decode"


def turn_columns(width: int) -> tuple[Column, ...]:
    """Return the columns of the turns for a terminal of `width` characters; the miss gets the remaining width."""
    wide = width >= 112
    columns = [
        Column("turn", 4), Column("prompt", 6), Column("answer", 6),
        *([Column("hot", 6), Column("warm", 6)] if wide else [Column("cached", 6)]),
        Column("new", 6), Column("TTFT", 6), Column(_BAR if wide else "time", 28 if wide else 10, right=False),
        *([Column("finish", 10, right=False)] if wide else []),
    ]  # fmt: skip
    taken = sum(column.width for column in columns) + 2 * CELL_PADDING * (len(columns) + 1) + 3
    return (*columns, Column(_MISS, max(10, width - taken), right=False))


def _cause(miss: MissRow) -> str:
    cause = miss.cause or "unknown cause"
    return _CAUSES.get(cause, cause.replace("_", " "))


def _known(number: int | None) -> str:
    return "-" if number is None else str(number)


def _position(miss: MissRow) -> str:
    return "?" if miss.position is None else str(miss.position)


def turn_row(number: int, turn: TurnRow, columns: tuple[Column, ...]) -> Row:
    """Return a turn's cells for these columns."""
    miss, hot, warm = turn.miss, turn.reused_hot_tokens, turn.restored_warm_tokens
    bar_width = next((column.width for column in columns if column.title in (_BAR, "time")), 10)
    missed = ""
    if miss is not None:
        words = _cause(miss) if columns[-1].width >= _WIDE_MISS else _SHORT_CAUSES.get(miss.cause, "miss")
        missed = f"{words} at {_position(miss)}"
    cells: dict[str, Cell] = {
        "turn": str(number),
        "prompt": _known(turn.prompt_tokens),
        "answer": _known(turn.completion_tokens),
        "hot": _known(hot),
        "warm": _known(warm),
        "cached": str((hot or 0) + (warm or 0)),
        "new": _known(turn.computed_tokens),
        "TTFT": duration(turn.ttft_ms),
        "finish": turn.finish_reason or "-",
        _MISS: (missed, "$warning"),
    }
    drawn = waterfall([(_phase(turn, key), char, style) for key, _, char, style in PHASES], bar_width)
    cells[_BAR] = cells["time"] = drawn
    return turn.request_id or str(number), tuple(cells[column.title] for column in columns)


def _phase(turn: TurnRow, key: str) -> float:
    """Return the milliseconds of a phase; between restore and first token everything counts as prefill."""
    if key == "prefill_ms":
        return max((turn.ttft_ms or 0.0) - turn.queue_ms - turn.restore_ms, 0.0)
    phase: float = getattr(turn, key)
    return phase


def turn_text(turn: TurnRow, *, short: bool = False) -> Content:
    """Return a turn's phases in figures, the verdict, and the cause of a miss; `short` takes three lines."""
    parts: list[tuple[str, str] | str] = []
    for key, name, character, style in PHASES:
        parts += [
            (f"{' │ ' if parts else ''}", "$faint"),
            (character, style),
            f" {name} {duration(_phase(turn, key))}",
        ]
    if per_step := step_text(turn.tokens_per_step):
        parts.append((f", {per_step}", "$muted"))
    if turn.verdict:
        parts += ["\n", (turn.verdict, "bold")]
    missed = miss_text(turn.miss)
    return Content.assemble(*parts, "\n") + (missed.split("\n")[0] if short else missed)


def miss_text(miss: MissRow | None) -> Content:
    """Return why a turn computed more than its new tokens: the position, the cached text and the requested text."""
    if miss is None:
        return Content.styled("No miss: only new tokens were computed.", "$muted")
    parts: list[tuple[str, str] | str] = [
        (f"Miss from token {_position(miss)} on: {_cause(miss)}.", "$warning")
    ]
    for name, text in (("cached", miss.expected), ("asked", miss.found)):
        if text:
            words = " ".join(text.split())
            parts += [f"\n{name:<7} ", (f"…{shortened(words, _CONTEXT_CHARS)}…", "$foreground")]
    return Content.assemble(*parts)


def difference(turn: TurnRow) -> Content:
    """Return a word-by-word diff of the cached text and a turn's prompt: removed words are struck, new ones marked."""
    parts: list[tuple[str, str] | str] = []
    if turn.verdict:
        parts += [(f"{turn.verdict}\n\n", "bold")]
    miss = turn.miss
    if miss is None:
        return Content.assemble(
            *parts, "The prompt continued the cached text; only new tokens were computed."
        )
    parts += [(f"From token {_position(miss)} on: {_cause(miss)}.\n\n", "$warning")]
    if not miss.found:
        # The prompt is unchanged: the cache had lost this part.
        return Content.assemble(*parts, miss.expected)
    old, new = miss.expected.split(" "), miss.found.split(" ")
    for kind, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(" ".join(old[i:j]) + " ")
            continue
        if i < j:
            parts += [(f"-{' '.join(old[i:j])}-", "$error strike"), " "]
        if k < m:
            parts += [(f"+{' '.join(new[k:m])}+", "bold $success"), " "]
    return Content.assemble(*parts, ("\n\n-cached- +requested+", "$muted"))


def speed_text(turns: Sequence[TurnRow], width: int, height: int) -> Content:
    """Return the agent's times to the first token and its decode speed, turn by turn."""
    if not turns:
        return Content.styled("No turn has finished yet.", "$muted")
    ttfts = [turn.ttft_ms for turn in turns]
    speeds = [
        1000.0 * (turn.completion_tokens or 0) / turn.decode_ms if turn.decode_ms else None for turn in turns
    ]
    rows = max(4, (height - 4) // 2)
    above = graph(ttfts, width, rows, wanted=len(turns), axis=_turn_axis(len(turns)), show=duration)
    below = graph(
        speeds,
        width,
        rows,
        wanted=len(turns),
        axis=_turn_axis(len(turns)),
        show=lambda value: f"{value:.1f}/s",
    )
    return Content.assemble(
        ("time to the first token, by turn\n", "$muted"),
        above,
        ("\ntokens per second, by turn\n", "$muted"),
        below,
    )


def _turn_axis(num_turns: int) -> tuple[str, str, str]:
    return "turn 1", "", f"turn {num_turns}" if num_turns > 1 else ""


def blocks_text(details: AgentResult, row: AgentRow, width: int) -> Content:
    """Return where an agent's blocks are, which agents share them, and the time they saved."""
    savings = details.savings
    facts = {
        "blocks": f"{row.num_blocks}, of which {row.num_hot_blocks} in RAM",
        "in RAM": f"{size(row.hot_bytes)}: own {size(row.own_hot_bytes)}, shared {size(row.shared_hot_bytes)}",
        "on disk": size(row.warm_bytes),
        "model": f"{row.model or '-'}, {row.num_tokens} tokens",
        "class": f"{row.priority or '-'}, {'pinned' if row.pinned else 'not pinned'}",
        "saved": f"{short_duration(savings.saved_s)} of prefill by {savings.reused_tokens:,} tokens; "
        f"{savings.recomputed_tokens:,} recomputed after an eviction",
    }
    parts: list[tuple[str, str] | str] = []
    for name, fact in facts.items():
        parts += [(f"{name:<12}", "$muted"), f"{fact}\n"]
    sharing = details.sharing
    alone = not sharing and not row.shared_with
    parts.append((f"\nShared with {'no other agent' if alone else ''}", "$muted"))
    parts += (
        _sharing_lines(details, row, width)
        if sharing
        else [f"\n  {fitted(other, width - 2)}" for other in row.shared_with]
    )
    if (num_more := row.num_shared_with - max(len(sharing), len(row.shared_with))) > 0:
        parts.append((f"\n  and {num_more} more", "$muted"))
    return Content.assemble(*parts)


def _sharing_lines(details: AgentResult, row: AgentRow, width: int) -> list[tuple[str, str] | str]:
    """Return one line per agent that shares blocks; a bar that does not fit is omitted, never wrapped."""
    amounts = [
        f"{other.num_blocks} block{'' if other.num_blocks == 1 else 's'}, {size(other.bytes)}"
        for other in details.sharing
    ]
    amount_width = max(map(len, amounts))
    name_width = max(8, min(24, width - amount_width - 4))
    room = min(40, width - name_width - amount_width - 4)
    parts: list[tuple[str, str] | str] = []
    for other, amount in zip(details.sharing, amounts, strict=True):
        name = fitted(other.agent, name_width)
        parts.append(f"\n  {name}{' ' * (name_width - cell_len(name))} ")
        if room >= _LEAST_BAR:
            share = other.num_blocks / max(1, row.num_hot_blocks)
            parts += [(bar(share, room), "$success"), " "]
        parts.append(amount)
    return parts
