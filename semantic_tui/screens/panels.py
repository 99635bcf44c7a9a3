"""The dashboard's two panels as lines: the block pool, and what the engine does. Pure functions of the watch state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textual.content import Content

from semantic_tui.plain import duration, number, shortened, size
from semantic_tui.state import WatchState
from semantic_tui.widgets import figures as f

_REQUEST_STYLES = {"decoding": "$success", "prefilling": "$warning"}


def pool_lines(state: WatchState, width: int, height: int) -> list[Content]:
    """Return the block pool: budget, block map, disk, hit rate and evictions; the map takes what rows are left."""
    cache = state.cache
    budget = float(cache.get("budget_bytes") or 0)
    used = sum(float(cache.get(key) or 0) for key in ("running_bytes", "hot_bytes", "in_flight_bytes"))
    above = [
        _text(
            "RAM", f"{size(used)} of {size(budget)}", f"{100 * used / budget:.0f} %" if budget else "-", width
        ),
        f.budget_bar(cache, width),
        *f.budget_legend(cache, width),
    ]
    hits, evictions = state.history["hit_rate"], state.history["evictions"]
    below = [
        _disk(cache, width),
        f.series_line("hit rate", hits, number(100 * hits[-1] if hits else None, " %"), width, top=1.0),
        f.series_line("evictions", evictions, f"{cache.get('num_evictions') or 0:,}", width),
    ]
    blocks = f.known_blocks(cache, state.blocks)
    rows = max(1, height - len(above) - len(below) - 1)
    drawn = [f.block_map(blocks, width, rows)] if blocks else []
    return [*above, *drawn, f.block_legend(blocks, width, rows), *below]


def _text(name: str, text: str, right: str, width: int) -> Content:
    if len(text) + len(right) + 11 > width:
        right = ""
    gap = " " * max(1, width - 10 - len(text) - len(right))
    return Content.assemble((f"{name:<10}", "$muted"), text, gap, right)


def _disk(cache: Mapping[str, Any], width: int) -> Content:
    warm, cap = float(cache.get("warm_bytes") or 0), float(cache.get("warm_cap_bytes") or 0)
    text = f"{size(warm)} of {size(cap)}" if cap else f"{size(warm)} (no cap)"
    room = width - 10 - len(text) - 1
    bar = f.share_bar(warm / cap, room, f.WARM_STYLE) if cap and room > 3 else Content("")
    return Content.assemble(("disk      ", "$muted"), bar, " " if cap else "", text)


def activity_lines(state: WatchState, width: int, height: int) -> list[Content]:
    """Return rates, sparklines, and as many requests as fit."""
    engine, history = state.engine, state.history
    running, waiting = engine.get("num_running") or 0, engine.get("num_waiting") or 0
    rate = f"prefill {float(engine.get('prefill_tokens_per_s') or 0):.0f} tok/s"
    newest = {name: points[-1] if points else None for name, points in history.items()}
    itl = newest["itl_ms"]
    lines = [
        _text("engine", f"{running} running, {waiting} waiting", rate, width),
        f.series_line("TTFT", history["ttft_ms"], duration(newest["ttft_ms"] or None), width),
        f.series_line("ITL", history["itl_ms"], number(itl or None, " ms", digits=1), width),
        f.series_line("tokens/s", history["tokens_per_s"], number(newest["tokens_per_s"], digits=1), width),
        f.series_line("queue", history["queue"], number(newest["queue"]), width),
    ]
    room = height - len(lines)
    shown = state.requests if len(state.requests) <= room else state.requests[: room - 1]
    lines += [request_line(row, width) for row in shown]
    if len(shown) < len(state.requests):
        more = f"and {len(state.requests) - len(shown)} more: press 4"
        lines.append(Content.styled(more, "$muted"))
    return lines


def request_line(row: Mapping[str, Any], width: int) -> Content:
    """Return a request: whose, its state, and how far it is."""
    state = str(row.get("state") or "-")
    name_width = max(8, min(20, width - 30))
    name = f"{shortened(str(row.get('agent') or '-'), name_width):<{name_width}} "
    room = max(1, width - name_width - 12)
    if state == "decoding":
        count, rate = row.get("completion_tokens") or 0, row.get("tokens_per_s")
        long = f"{f'{count} tokens':<12} {number(rate, ' tok/s', digits=1)}"
        text = Content(long if len(long) <= room else f"{count} at {number(rate, digits=1)}/s"[:room])
    elif state == "waiting":
        text = Content(f"for {number(row.get('age_s'), ' s', digits=1)}")
    else:
        share = float(row.get("prefill_progress") or 0)
        percent = f" {100 * share:3.0f} %"
        text = f.share_bar(share, max(1, min(30, room - len(percent))), "$warning") + Content(percent)
    return Content.assemble(name, (f"{state:<10} ", _REQUEST_STYLES.get(state, "$muted")), text)
