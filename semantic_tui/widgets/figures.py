"""Figures drawn with characters: sparkline, budget bar, block map. Pure functions of numbers and a width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from textual.content import Content

from semantic_tui.plain import number, size

_TICKS = "▁▂▃▄▅▆▇█"

BUDGET_PARTS = (
    ("running_bytes", "running", "$warning"),
    ("hot_bytes", "hot", "$success"),
    ("pinned_bytes", "pinned", "$secondary"),
    ("in_flight_bytes", "in flight", "$accent"),
)
BLOCK_STYLES = {
    "running": "$warning",
    "pinned": "$secondary",
    "hot": "$success",
    "in_flight": "$accent",
    "warm": "$primary-darken-2",
}
Block = tuple[str, int]


def sparkline(values: Iterable[float], width: int, *, top: float | None = None) -> str:
    """Return the last `width` values as bars; `top` is the value of a full bar (default: the largest)."""
    shown = list(values)[-width:]
    highest = top if top is not None else max(shown, default=0.0)
    if not shown or highest <= 0:
        return (_TICKS[0] * len(shown)).rjust(width)
    steps = (round(max(0.0, min(value / highest, 1.0)) * (len(_TICKS) - 1)) for value in shown)
    return "".join(_TICKS[step] for step in steps).rjust(width)


def budget_bar(cache: Mapping[str, Any], width: int) -> Content:
    """Return a bar split into running, hot, pinned and in flight; what is left is free."""
    budget = float(cache.get("budget_bytes") or 0)
    amounts = {key: float(cache.get(key) or 0) for key, _, _ in BUDGET_PARTS}
    # The ledger counts pinned blocks as hot ones too; in the bar each byte has one colour.
    amounts["hot_bytes"] = max(0.0, amounts["hot_bytes"] - amounts["pinned_bytes"])
    parts: list[tuple[str, str]] = []
    left = width
    for key, _, style in BUDGET_PARTS:
        cells = min(left, round(amounts[key] / budget * width) if budget else 0)
        if amounts[key] and budget and not cells and left:
            cells = 1
        left -= cells
        parts.append(("█" * cells, style))
    return Content.assemble(*parts, ("░" * left, "$text-disabled"))


def budget_legend(cache: Mapping[str, Any]) -> Content:
    """Return the bar's colours with their bytes."""
    parts: list[tuple[str, str] | str] = []
    for key, name, style in BUDGET_PARTS:
        parts += [("■", style), f" {name} {size(cache.get(key))}  "]
    return Content.assemble(*parts)


def known_blocks(cache: Mapping[str, Any], told: Sequence[Block] | None) -> list[Block]:
    """Return each block's tier and sharing; without per-block facts, as many of each kind as are counted."""
    if told is not None:
        return list(told)
    hot, shared = int(cache.get("num_hot_blocks") or 0), int(cache.get("num_shared_blocks") or 0)
    warm_only = max(0, int(cache.get("num_warm_blocks") or 0) - hot)
    return [("hot", 2)] * min(shared, hot) + [("hot", 1)] * max(0, hot - shared) + [("warm", 1)] * warm_only


def block_map(blocks: Sequence[Block], width: int, height: int) -> Content:
    """Return one cell per block, or per so many blocks where they do not fit; shared ones are filled diamonds."""
    cells = max(1, width * height)
    per_cell = max(1, -(-len(blocks) // cells))
    parts: list[tuple[str, str] | str] = []
    shown = blocks[::per_cell]
    for at, (state, num_holders) in enumerate(shown):
        if at and at % width == 0:
            parts.append("\n")
        glyph = "□" if state == "warm" else ("◆" if num_holders > 1 else "■")
        parts.append((glyph, BLOCK_STYLES.get(state, "$foreground")))
    return Content.assemble(*parts)


def block_legend(blocks: Sequence[Block], width: int, height: int) -> Content:
    """Return what a cell of the map means."""
    per_cell = max(1, -(-len(blocks) // max(1, width * height)))
    return Content.assemble(
        ("■", "$success"), " hot  ", ("◆", "$success"), " shared  ", ("□", "$primary-darken-2"), " on disk",
        f"  ({len(blocks)} blocks" + (f", {per_cell} per cell)" if per_cell > 1 else ")"),
    )  # fmt: skip


def series_line(
    name: str, values: Iterable[float], width: int, *, unit: str, top: float | None = None
) -> Content:
    """Return a named sparkline with its newest value."""
    known = list(values)
    newest = known[-1] if known else None
    scale = 100.0 if unit == " %" else 1.0
    digits = 1 if newest is not None and 0 < newest * scale < 10 else 0
    told = number(None if newest is None else newest * scale, unit, digits=digits)
    return Content.assemble(f"{name:<10}", (sparkline(known, width, top=top), "$accent"), f" {told:>10}")
