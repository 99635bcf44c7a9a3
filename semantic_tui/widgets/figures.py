"""Figures drawn with characters: sparkline, budget bar, block map. Pure functions of numbers and a width."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from textual.content import Content

from semantic_tui.plain import short_size, size

_TICKS = "▁▂▃▄▅▆▇█"

BUDGET_PARTS = (
    ("running_bytes", "running", "$warning"),
    ("hot_bytes", "hot", "$success"),
    ("pinned_bytes", "pinned", "$secondary"),
    ("in_flight_bytes", "in flight", "$accent"),
)
WARM_STYLE = "$primary"
BLOCK_STYLES = {"pinned": "$secondary", "hot": "$success", "dirty": "$success", "warm": WARM_STYLE}
"""Colours by tier; a dirty block is hot and not yet on disk."""
Block = tuple[str, int]


def sparkline(values: Iterable[float], width: int, *, top: float | None = None) -> str:
    """Return the last `width` values as bars; `top` is the value of a full bar (default: the largest)."""
    shown = list(values)[-width:]
    highest = top if top is not None else max(shown, default=0.0)
    if not shown or highest <= 0:
        return (_TICKS[0] * len(shown)).rjust(width)
    steps = (round(max(0.0, min(value / highest, 1.0)) * (len(_TICKS) - 1)) for value in shown)
    return "".join(_TICKS[step] for step in steps).rjust(width)


def share_bar(share: float, width: int, style: str) -> Content:
    """Return a bar filled to a share in [0, 1]."""
    filled = round(max(0.0, min(share, 1.0)) * width)
    if share > 0 and not filled:
        filled = 1
    return Content.assemble(("━" * filled, style), ("─" * (width - filled), "$faint"))


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
    return Content.assemble(*parts, ("░" * left, "$faint"))


def budget_legend(cache: Mapping[str, Any], width: int) -> list[Content]:
    """Return the bar's colours with their bytes, in one line or two, as the width allows."""
    entries = _amounts(cache, size)
    if sum(len(entry.plain) + 2 for entry in entries) <= width + 2:
        return [Content("  ").join(entries)]
    column = max(len(entry.plain) for entry in entries[::2])
    if column + 2 + max(len(entry.plain) for entry in entries[1::2]) > width:
        entries = _amounts(cache, short_size)
        column = max(len(entry.plain) for entry in entries[::2])
    left = [entry + Content(" " * (column + 2 - len(entry.plain))) for entry in entries[::2]]
    return [left[0] + entries[1], left[1] + entries[3]]


def _amounts(cache: Mapping[str, Any], as_text: Callable[[float | None], str]) -> list[Content]:
    return [
        Content.assemble(("■", style), f" {name} {as_text(cache.get(key))}")
        for key, name, style in BUDGET_PARTS
    ]


def known_blocks(cache: Mapping[str, Any], one_by_one: Sequence[Block] | None) -> list[Block]:
    """Return each block's tier and sharing: first pinned, then shared ones, at last those that are only on disk.

    Without per-block facts there are as many of each kind as are counted.
    """
    num_warm = int(cache.get("num_warm_blocks") or 0)
    if one_by_one is not None:
        order = {"pinned": 0, "hot": 1, "dirty": 1}
        blocks = sorted(one_by_one, key=lambda block: (order.get(block[0], 2), -block[1]))
        num_hot_on_disk = sum(1 for state, _ in one_by_one if state != "dirty")
        return blocks + [("warm", 1)] * max(0, num_warm - num_hot_on_disk)
    hot, shared = int(cache.get("num_hot_blocks") or 0), int(cache.get("num_shared_blocks") or 0)
    warm_only = max(0, num_warm - hot)
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
    counts = {"■": 0, "◆": 0, "□": 0}
    for state, num_holders in blocks:
        counts["□" if state == "warm" else "◆" if num_holders > 1 else "■"] += 1
    entries = [
        Content.assemble(("■", "$success"), f" {counts['■']} own"),
        Content.assemble(("◆", "$success"), f" {counts['◆']} shared"),
        Content.assemble(("□", WARM_STYLE), f" {counts['□']} on disk"),
    ]
    if per_cell > 1 and width >= 50:
        entries.append(Content.styled(f"{per_cell} a cell", "$muted"))
    gap = 2 if sum(len(entry.plain) + 2 for entry in entries) <= width + 2 else 1
    return Content(" " * gap).join(entries)


def series_line(
    name: str, values: Iterable[float], text: str, width: int, *, top: float | None = None
) -> Content:
    """Return a named sparkline with its newest value, `width` characters in all."""
    drawn = sparkline(values, max(1, width - 22), top=top)
    return Content.assemble((f"{name:<9} ", "$muted"), (drawn, "$accent"), f" {text:>11}")
