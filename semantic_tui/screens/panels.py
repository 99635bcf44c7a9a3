"""The dashboard's two panels as lines: block pool and engine activity. Pure functions of the watch state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from textual.content import Content

from semantic_tui.history import wanted
from semantic_tui.live import request_state, waits_text
from semantic_tui.peer_facts import peers_line
from semantic_tui.plain import short_duration, shortened, size
from semantic_tui.series import BY_KEY
from semantic_tui.state import WatchState
from semantic_tui.widgets import figures as f
from semanticd.control.results import CacheStats, RequestRow

_RATES = ("ttft_ms", "itl_ms", "tokens_per_s", "prefill_tokens_per_s", "queue")
_MIN_GRAPH_ROWS = 7
_GOOD_GRAPH_ROWS = 9


_SERIES = (*("hit_rate", "evictions", "used_bytes"), *_RATES)


def facts_shown(state: WatchState, span_s: int) -> object:
    """Return the facts that the panels depend on: while these are equal, the panels need no update."""
    past = tuple(state.history.values(key, span_s) for key in _SERIES)
    cache = replace(state.cache, free_disk_bytes=None)
    return (
        span_s,
        past,
        cache,
        state.blocks,
        state.engine,
        state.status.savings,
        state.status.peers,
        state.status.ranks,
        state.requests,
    )


def pool_lines(state: WatchState, width: int, height: int, *, span_s: int) -> list[Content]:
    """Return the block pool: budget, block map, disk, savings, hit rate and evictions; the map takes the rows left."""
    cache = state.cache
    budget, used = cache.budget_bytes, cache.used_bytes
    above = [
        _text(
            "RAM", f"{size(used)} of {size(budget)}", f"{100 * used / budget:.0f} %" if budget else "-", width
        ),
        f.budget_bar(cache, width),
        *f.budget_legend(cache, width),
    ]
    below = [
        _disk(cache, width),
        *_peers(state, width),
        *_ranks(state, width),
        *_savings(state, width),
        series(state, "hit_rate", width, span_s),
        series(state, "evictions", width, span_s),
    ]
    below = below[: max(1, height - len(above) - 2)]
    blocks = f.known_blocks(cache, state.blocks)
    rows = max(1, height - len(above) - len(below) - 1)
    drawn = [f.block_map(blocks, width, rows)] if blocks else []
    lines = [*above, *drawn, f.block_legend(blocks, width, rows), *below]
    map_rows = -(-len(blocks) // width) if blocks else 0
    spare = height - len(above) - len(below) - 1 - max(1, min(map_rows, rows))
    return [*lines, *graphs(state, ("used_bytes", "hit_rate"), width, spare, span_s)]


def _text(name: str, text: str, right: str, width: int) -> Content:
    if len(text) + len(right) + 11 > width:
        # Text in brackets is displayed elsewhere too.
        right = right.split(" (")[0]
    if len(text) + len(right) + 11 > width:
        right = ""
    gap = " " * max(1, width - 10 - len(text) - len(right))
    return Content.assemble((f"{name:<10}", "$muted"), text, gap, right)


def _disk(cache: CacheStats, width: int) -> Content:
    warm, cap = cache.warm_bytes, cache.warm_cap_bytes
    text = f"{size(warm)} of {size(cap)}" if cap else f"{size(warm)} (no cap)"
    room = width - 10 - len(text) - 1
    bar = f.share_bar(warm / cap, room, f.WARM_STYLE) if cap and room > 3 else Content("")
    return Content.assemble(("disk      ", "$muted"), bar, " " if cap else "", text)


def _peers(state: WatchState, width: int) -> list[Content]:
    peers = state.status.peers
    return [_text("peers", *peers_line(peers), width)] if peers else []


def _ranks(state: WatchState, width: int) -> list[Content]:
    ranks = state.status.ranks
    if not ranks:
        return []
    ready = sum(rank.state == "ready" for rank in ranks)
    text = f"{ready} of {len(ranks)} ready, {size(sum(rank.memory_bytes for rank in ranks))}"
    slowest = max(rank.step_ms for rank in ranks)
    exchanged = size(sum(rank.sent_bytes + rank.received_bytes for rank in ranks))
    step = f"step {slowest:.1f} ms" if slowest else "no step yet"
    return [_text("ranks", text, f"{step}, {exchanged} exchanged", width)]


def _savings(state: WatchState, width: int) -> list[Content]:
    savings = state.status.savings
    if savings is None:
        return []
    saved = f"{short_duration(savings.saved_s)} of prefill"
    if width >= 60:
        saved += f" by {savings.reused_tokens:,} tokens"
    today, again = f"today {short_duration(savings.today.saved_s)}", savings.recomputed_tokens
    rights = (f"{today}, recomputed {again:,} tokens", f"recomputed {again:,} tokens") if again else (today,)
    return [_text("saved", saved, _fitting(rights, width - len(saved) - 11), width)]


def series(state: WatchState, key: str, width: int, span_s: int) -> Content:
    """Return one series of the history as a line; a dash while nothing is measured."""
    about = BY_KEY[key]
    values = state.history.values(key, span_s)
    newest = values[-1] if values else None
    if newest is None and about.holds:
        newest = next((value for value in reversed(values) if value is not None), None)
    if about.is_count:
        newest = sum(value for value in values if value is not None) if values else None
    text = "-" if newest is None else about.show(newest)
    return f.series_line(
        about.title, values, text, width, wanted=wanted(span_s), top=about.top, show=about.show
    )


def graphs(state: WatchState, keys: tuple[str, ...], width: int, spare: int, span_s: int) -> list[Content]:
    """Return graphs for the rows that are left over, as many of these as fit; none where fewer than a few are."""
    if spare < _MIN_GRAPH_ROWS:
        return []
    shown = keys[: max(1, spare // _GOOD_GRAPH_ROWS)]
    lines = []
    for key in shown:
        about, values = BY_KEY[key], state.history.values(key, span_s)
        caption = f"{about.title}: {about.meaning}"
        lines.append(Content.styled(caption if len(caption) <= width else about.title, "$muted"))
        rows = spare // len(shown) - 1
        lines.append(
            f.graph(values, width, rows, wanted=wanted(span_s), axis=f.time_axis(span_s), show=about.show)
        )
    return lines


def activity_lines(state: WatchState, width: int, height: int, *, span_s: int) -> list[Content]:
    """Return counts, series over the span, and as many requests as fit."""
    engine = state.engine
    running, places = engine.num_running, engine.max_batch_size
    text = f"{running} of {places} running" if places else f"{running} running"
    waits = waits_text(state.requests)
    waiting = f"{engine.num_waiting} waiting" + (f" ({waits})" if waits else "")
    lines = [
        _text("engine", text, waiting, width),
        *(series(state, key, width, span_s) for key in _RATES),
    ]
    room = height - len(lines)
    shown = state.requests if len(state.requests) <= room else state.requests[: max(0, room - 1)]
    lines += [request_line(row, width) for row in shown]
    if len(shown) < len(state.requests):
        more = f"and {len(state.requests) - len(shown)} more: press 4"
        lines.append(Content.styled(more, "$muted"))
    return [*lines, *graphs(state, ("ttft_ms", "tokens_per_s"), width, height - len(lines), span_s)]


def request_line(row: RequestRow, width: int) -> Content:
    """Return a request's agent, activity and progress, as far as there is room."""
    state_width = 20 if width >= 46 else 18
    name_width = max(8, min(20, width - state_width - 17))
    room = max(1, width - name_width - state_width - 2)
    name = f"{shortened(row.agent or '-', name_width):<{name_width}} "
    state, style = request_state(row, room=state_width)
    if row.state == "decoding":
        done, most = row.completion_tokens, row.max_new_tokens or "?"
        detail = Content(_fitting((f"{done} of {most} tokens", f"{done} of {most}", f"{done}/{most}"), room))
    elif row.state == "waiting" and row.restore_progress is None:
        behind = row.wait_behind or ""
        detail = Content(_fitting((f"behind {behind}", shortened(behind, room)), room) if behind else "")
    else:
        share = row.prefill_progress if row.restore_progress is None else row.restore_progress
        detail = f.share_bar(share, min(30, room), style.removeprefix("bold "))
    return Content.assemble(name, (f"{shortened(state, state_width):<{state_width}} ", style), detail)


def _fitting(texts: Sequence[str], room: int) -> str:
    """Return the first text that fits; empty where none does, because a truncated number would be wrong."""
    return next((text for text in texts if len(text) <= room), "")
