"""Figures drawn with characters: sparkline, budget bar, block map. Pure functions of numbers and a width."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from textual.content import Content

from semantic_tui.history import resampled
from semantic_tui.plain import short_size, size
from semanticd.control.results import CacheStats

_BOUNDS_CHARS = 18
_UNIT = re.compile(r"^[\d.,]+")
_TICKS = "▁▂▃▄▅▆▇█"

BUDGET_PARTS = (
    ("running_bytes", "running", "$warning", "█"),
    ("hot_bytes", "hot", "$success", "▓"),
    ("pinned_bytes", "pinned", "$secondary", "▚"),
    ("in_flight_bytes", "in flight", "$accent", "▒"),
)
"""Key, name, colour, and a character of its own: without colours the parts must differ too."""
_FREE = "·"
WARM_STYLE = "$primary"
BLOCK_STYLES = {"pinned": "$secondary", "hot": "$success", "dirty": "$success", "warm": WARM_STYLE}
"""Colours by tier; a dirty block is hot and not yet on disk."""
Block = tuple[str, int]
Axis = tuple[str, str, str]
"""Labels below a graph: left, middle, right."""


def sparkline(values: Sequence[float | None], width: int, *, top: float | None = None) -> str:
    """Return the last `width` values as bars, a gap for None; `top` (default: the largest) is a full bar."""
    shown = list(values)[-width:]
    highest = top if top is not None else max((value for value in shown if value is not None), default=0.0)
    return "".join(_tick(value, highest) for value in shown).rjust(width)


def _tick(value: float | None, highest: float) -> str:
    if value is None:
        return " "
    share = max(0.0, min(value / highest, 1.0)) if highest > 0 else 0.0
    return _TICKS[round(share * (len(_TICKS) - 1))]


def graph(
    values: Sequence[float | None],
    width: int,
    height: int,
    *,
    wanted: int,
    axis: Axis,
    show: Callable[[float], str],
) -> Content:
    """Return a graph with its axes: the largest and smallest value at the left, the time below, gaps where none was.

    Its right end is the newest of `wanted` samples; it begins at zero; `show` writes a value.
    """
    known = [value for value in values if value is not None]
    highest = max(known, default=0.0) or 1.0
    labels = (show(highest), show(highest / 2), show(0.0)) if any(known) else ("", "", show(0.0))
    margin = max(len(label) for label in labels) + 1
    columns, rows = max(8, width - margin - 1), max(2, height - 2)
    points = resampled(values, columns, max(wanted, 1))
    lines: list[Content] = []
    for row in range(rows):
        floor, ceiling = (rows - row - 1) / rows, (rows - row) / rows
        label = labels[0] if row == 0 else labels[1] if row == rows // 2 and rows > 3 else ""
        cells = "".join(_column(point, highest, floor, ceiling) for point in points)
        lines.append(
            Content.assemble(
                (f"{label:>{margin}}", "$muted"), ("┤" if label else "│", "$faint"), (cells, "$accent")
            )
        )
    lines.append(Content.assemble((f"{labels[2]:>{margin}}", "$muted"), ("└" + "─" * columns, "$faint")))
    left, middle, right = axis
    middle = middle if columns > 40 else ""
    gap = columns - len(left) - len(right) - len(middle)
    below = f"{left}{' ' * (gap // 2)}{middle}{' ' * (gap - gap // 2)}{right}"
    lines.append(Content.styled(" " * (margin + 1) + below, "$muted"))
    return Content("\n").join(lines)


def _column(point: float | None, highest: float, floor: float, ceiling: float) -> str:
    if point is None:
        return " "
    share = point / highest
    if share >= ceiling:
        return "█"
    if share <= floor:
        # A measured zero is a line on the axis, no gap.
        return "▁" if floor == 0 else " "
    return _TICKS[
        max(0, min(len(_TICKS) - 1, round((share - floor) / (ceiling - floor) * (len(_TICKS) - 1))))
    ]


def time_axis(span_s: int) -> Axis:
    """Return the labels of a graph over the last seconds."""
    return f"-{_span(span_s)}", f"-{_span(span_s // 2)}", "now"


def _span(seconds: int) -> str:
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"


def waterfall(parts: Sequence[tuple[float, str, str]], width: int) -> list[tuple[str, str]]:
    """Return a bar of `width` characters cut by the parts' amounts, each with its character and style."""
    whole = sum(amount for amount, _, _ in parts)
    if whole <= 0:
        return [(" " * width, "")]
    cells: list[tuple[str, str]] = []
    drawn, passed = 0, 0.0
    for amount, character, style in parts:
        passed += amount
        end = round(passed / whole * width)
        cells.append((character * (end - drawn), style))
        drawn = end
    return cells


def share_bar(share: float, width: int, style: str) -> Content:
    """Return a bar filled to a share in [0, 1]."""
    filled = round(max(0.0, min(share, 1.0)) * width)
    if share > 0 and not filled:
        filled = 1
    return Content.assemble(("━" * filled, style), ("─" * (width - filled), "$faint"))


def budget_bar(cache: CacheStats, width: int) -> Content:
    """Return a bar split into running, hot, pinned and in flight; the rest is free."""
    budget = cache.budget_bytes
    amounts: dict[str, int] = {key: getattr(cache, key) for key, _, _, _ in BUDGET_PARTS}
    # The ledger counts pinned blocks as hot ones too; in the bar each byte has one colour.
    amounts["hot_bytes"] = max(0, amounts["hot_bytes"] - amounts["pinned_bytes"])
    parts: list[tuple[str, str]] = []
    left = width
    for key, _, style, character in BUDGET_PARTS:
        cells = min(left, round(amounts[key] / budget * width) if budget else 0)
        if amounts[key] and budget and not cells and left:
            cells = 1
        left -= cells
        parts.append((character * cells, style))
    return Content.assemble(*parts, (_FREE * left, "$faint"))


def budget_legend(cache: CacheStats, width: int) -> list[Content]:
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


def _amounts(cache: CacheStats, as_text: Callable[[float | None], str]) -> list[Content]:
    return [
        Content.assemble((character, style), f" {name} {as_text(getattr(cache, key))}")
        for key, name, style, character in BUDGET_PARTS
    ]


def known_blocks(cache: CacheStats, one_by_one: Sequence[Block] | None) -> list[Block]:
    """Return each block's tier and sharing: first pinned, then shared ones, at last those that are only on disk.

    Without per-block facts there are as many of each kind as are counted.
    """
    num_warm = cache.num_warm_blocks
    if one_by_one is not None:
        order = {"pinned": 0, "hot": 1, "dirty": 1}
        blocks = sorted(one_by_one, key=lambda block: (order.get(block[0], 2), -block[1]))
        num_hot_on_disk = sum(1 for state, _ in one_by_one if state != "dirty")
        return blocks + [("warm", 1)] * max(0, num_warm - num_hot_on_disk)
    hot, shared = cache.num_hot_blocks, cache.num_shared_blocks
    warm_only = max(0, num_warm - hot)
    return [("hot", 2)] * min(shared, hot) + [("hot", 1)] * max(0, hot - shared) + [("warm", 1)] * warm_only


def block_map(blocks: Sequence[Block], width: int, height: int) -> Content:
    """Return one cell per block, or per several blocks where they do not fit; shared ones are filled diamonds."""
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
    """Return the legend of the map's cells."""
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
        entries.append(Content.styled(f"{per_cell} per cell", "$muted"))
    gap = 2 if sum(len(entry.plain) + 2 for entry in entries) <= width + 2 else 1
    return Content(" " * gap).join(entries)


def bounds(least: str, most: str) -> str:
    """Return two values of one series as `least to most`, a unit that both have once; nothing where it has no room.

    A number that is cut says another number.
    """
    unit = _UNIT.sub("", most)
    same = unit and unit == _UNIT.sub("", least)
    text = f"{least.removesuffix(unit) if same else least} to {most}"
    return text if len(text) <= _BOUNDS_CHARS else ""


def series_line(
    name: str,
    values: Sequence[float | None],
    newest: str,
    width: int,
    *,
    wanted: int,
    top: float | None = None,
    show: Callable[[float], str] | None = None,
) -> Content:
    """Return a named sparkline of the last `wanted` samples, its newest value, and where there is room its bounds."""
    known = [value for value in values if value is not None]
    around = bounds(show(min(known)), show(max(known))) if show and known else ""
    room = width - 10 - 12 - (20 if width >= 70 else 0)
    points = resampled(values, max(1, room), wanted)
    drawn = sparkline(points, max(1, room), top=top)
    line = Content.assemble((f"{name:<9} ", "$muted"), (drawn, "$accent"), f" {newest:>11}")
    return line + Content.styled(f"  {around:<{_BOUNDS_CHARS}}", "$muted") if width >= 70 else line
