"""The dashboard as plain text, for scripts and for terminals that want no screen of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from semantic_tui.live import agent_state, first_turn_row, request_state

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(num_bytes: float | None) -> str:
    """Return bytes in the largest fitting unit."""
    value = float(num_bytes or 0)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def short_size(num_bytes: float | None) -> str:
    """Return bytes in at most five characters, for narrow tables."""
    value = float(num_bytes or 0)
    for unit in "BKMGT":
        if value < 1000 or unit == "T":
            return f"{value:.1f}{unit}" if unit != "B" and value < 99.95 else f"{value:.0f}{unit}"
        value /= 1024
    raise AssertionError("unreachable")


def duration(ms: float | None) -> str:
    """Return milliseconds as such below a second, else as seconds; a dash where there are none."""
    if ms is None:
        return "-"
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def short_duration(seconds: float) -> str:
    """Return seconds in at most six characters."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def shortened(text: str, width: int) -> str:
    """Return a text of at most `width` characters, its middle left out where it is longer."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2 + (width - 1) % 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def number(value: float | None, suffix: str = "", *, digits: int = 0) -> str:
    """Return a number, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}{suffix}"


def bar(share: float, width: int) -> str:
    """Return a bar of `width` characters, filled to a share in [0, 1]."""
    filled = round(max(0.0, min(share, 1.0)) * width)
    return "█" * filled + "░" * (width - filled)


AGENT_COLUMNS = (
    "agent",
    "state",
    "tokens",
    "hot",
    "warm",
    "reuse",
    "TTFT",
    "tok/s",
    "class",
    "pin",
    "err",
    "saved",
)


def agent_row(agent: Mapping[str, Any], requests: Sequence[Mapping[str, Any]] = ()) -> tuple[str, ...]:
    """Return an agent's cells, in the order of `AGENT_COLUMNS`; its requests say what it does."""
    reuse = agent.get("last_reuse_ratio")
    return (
        str(agent.get("id", "")),
        agent_state(agent, requests)[0],
        str(agent.get("num_tokens", 0)),
        size(agent.get("hot_bytes")),
        size(agent.get("warm_bytes")),
        number(None if reuse is None else 100 * reuse, " %"),
        number(agent.get("last_ttft_ms"), " ms"),
        number(agent.get("last_tokens_per_s"), digits=1),
        str(agent.get("class", "")),
        "yes" if agent.get("pinned") else "",
        number(agent.get("num_errors")),
        number(agent.get("saved_s"), " s", digits=1),
    )


REQUEST_COLUMNS = ("request", "agent", "state", "prefill", "output", "age")


def request_row(request: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a request's cells, in the order of `REQUEST_COLUMNS`."""
    return (
        str(request.get("id", "")),
        str(request.get("agent", "")),
        request_state(request)[0],
        f"{bar(float(request.get('prefill_progress') or 0), 10)} {request.get('prompt_tokens', 0)}",
        f"{request.get('completion_tokens', 0)}/{request.get('max_new_tokens', 0)}",
        number(request.get("age_s"), " s", digits=1),
    )


def header(status: Mapping[str, Any]) -> list[str]:
    """Return the daemon's state in a few lines."""
    engine, cache = status.get("engine", {}), status.get("cache", {})
    budget = float(cache.get("budget_bytes") or 1)
    used = sum(float(cache.get(key) or 0) for key in ("hot_bytes", "running_bytes", "in_flight_bytes"))
    cap = cache.get("warm_cap_bytes")
    return [
        f"semanticd {status.get('version', '?')}  {status.get('state', '?')}  up {status.get('uptime_s', 0):.0f} s  "
        f"{status.get('address', '')}  model {status.get('model') or '-'}",
        f"engine  {engine.get('num_running', 0)} running, {engine.get('num_waiting', 0)} waiting, "
        f"prefill {engine.get('prefill_tokens_per_s', 0):.0f} tok/s, "
        f"decode {engine.get('decode_tokens_per_s', 0):.1f} tok/s",
        f"budget  {bar(used / budget, 30)} {size(used)} of {size(budget)}: hot {size(cache.get('hot_bytes'))}, "
        f"running {size(cache.get('running_bytes'))}, in flight {size(cache.get('in_flight_bytes'))}, "
        f"pinned {size(cache.get('pinned_bytes'))}",
        f"blocks  {cache.get('num_hot_blocks', 0)} hot ({cache.get('num_shared_blocks', 0)} shared), "
        f"{cache.get('num_warm_blocks', 0)} on disk, {size(cache.get('warm_bytes'))}"
        + (f" of {size(cap)}" if cap else "")
        + f"; evictions {cache.get('num_evictions', 0)}",
        f"tokens  {cache.get('hot_hit_tokens', 0)} reused hot, {cache.get('warm_hit_tokens', 0)} restored warm, "
        f"{cache.get('computed_tokens', 0)} computed",
        *_ends(status),
    ]


def _ends(status: Mapping[str, Any]) -> list[str]:
    """Return how requests ended and what the cache saved, as far as the daemon says it."""
    lines = []
    if outcomes := status.get("outcomes"):
        lines.append(
            f"ended   {outcomes.get('num_answered', 0)} answered, {outcomes.get('num_failed', 0)} failed, "
            f"{outcomes.get('num_refused', 0)} refused"
        )
    if savings := status.get("savings"):
        lines.append(
            f"saved   {short_duration(savings.get('saved_s') or 0)} of prefill by {savings.get('reused_tokens', 0)} "
            f"tokens; {savings.get('recomputed_tokens', 0)} computed again after an eviction"
        )
    return lines


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows under their columns, padded."""
    widths = [
        max(len(column), *(len(row[i]) for row in rows)) if rows else len(column)
        for i, column in enumerate(columns)
    ]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(columns, widths, strict=True)).rstrip()]
    lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines


def dashboard(
    status: Mapping[str, Any], agents: Sequence[Mapping[str, Any]], requests: Sequence[Mapping[str, Any]]
) -> str:
    """Return the whole dashboard."""
    running: dict[str, list[Mapping[str, Any]]] = {}
    for request in requests:
        running.setdefault(str(request.get("agent")), []).append(request)
    rows = [agent_row(agent, running.pop(str(agent.get("id")), ())) for agent in agents]
    # An agent in its first turn is listed by its request; the daemon does not know it yet.
    rows = [*(agent_row(first_turn_row(new), new) for new in running.values()), *rows]
    lines = [*header(status), "", *table(AGENT_COLUMNS, rows)]
    if requests:
        lines += ["", *table(REQUEST_COLUMNS, [request_row(request) for request in requests])]
    return "\n".join(lines)
