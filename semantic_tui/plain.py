"""The dashboard as plain text, for scripts and for terminals that want no screen of their own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from semantic_tui.live import LiveAgent, agent_state, live_agents, request_state, waits_text
from semanticd.control.results import AgentRow, RankFacts, RequestRow, StatusResult, drafts_text, step_text

_MIN_NAME = 12
"""Characters that a name keeps, however narrow the terminal is."""
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


def count(number: int) -> str:
    """Return a count in at most seven characters: a truncated figure would be another number."""
    if number < 1_000_000:
        return f"{number:,}"
    return f"{number / 1e6:.1f}M" if number < 1e9 else f"{number / 1e9:.1f}G"


def duration(ms: float | None) -> str:
    """Return milliseconds as such below a second, else as seconds; a dash where there are none."""
    if ms is None:
        return "-"
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def span(seconds: float) -> str:
    """Return a duration in its two largest units."""
    whole = int(seconds)
    for unit, length, less in (("d", 86400, "h"), ("h", 3600, "m"), ("m", 60, "s")):
        if whole >= length:
            part = {"h": 3600, "m": 60, "s": 1}[less]
            return f"{whole // length} {unit} {whole % length // part} {less}"
    return f"{whole} s"


def time_of_day(at: float) -> str:
    """Return the local time of seconds since 1970; a dash for 0."""
    if not at:
        return "-"
    return datetime.fromtimestamp(at, tz=timezone.utc).astimezone().strftime("%H:%M:%S")


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


def short_class(priority: str) -> str:
    """Return a class of requests in at most three characters."""
    return {"interactive": "int", "background": "bg"}.get(priority, priority or "-")


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


def agent_row(agent: LiveAgent) -> tuple[str, ...]:
    """Return an agent's cells, in the order of `AGENT_COLUMNS`; its requests give its state."""
    row = agent.row
    return (
        row.id,
        agent_state(row, agent.requests)[0],
        str(row.num_tokens),
        size(row.hot_bytes),
        size(row.warm_bytes),
        number(None if row.last_reuse_ratio is None else 100 * row.last_reuse_ratio, " %"),
        duration(row.last_ttft_ms),
        number(row.last_tokens_per_s, digits=1),
        row.priority,
        "yes" if row.pinned else "",
        number(row.num_errors),
        "-" if row.saved_s is None else short_duration(row.saved_s),
    )


def output_text(request: RequestRow) -> str:
    """Return how many tokens an answer has, and how many it may have; a dash while that is not known."""
    return f"{request.completion_tokens}/{request.max_new_tokens}" if request.max_new_tokens else "-"


REQUEST_COLUMNS = ("request", "agent", "state", "prefill", "output", "age")


def request_row(request: RequestRow) -> tuple[str, ...]:
    """Return a request's cells, in the order of `REQUEST_COLUMNS`."""
    return (
        request.id,
        request.agent,
        request_state(request)[0],
        f"{bar(request.prefill_progress, 10)} {request.prompt_tokens}",
        output_text(request),
        number(request.age_s, " s", digits=1),
    )


def header(status: StatusResult, requests: Sequence[RequestRow] = ()) -> list[str]:
    """Return the daemon's state in a few lines; `requests` give the reasons of waiting ones."""
    engine, cache = status.engine, status.cache
    cap, waits = cache.warm_cap_bytes, waits_text(requests)
    return [
        f"semanticd {status.version or '?'}  {(status.state or '?').replace('_', ' ')}  up {span(status.uptime_s)}  "
        f"{status.address}  model {status.model or '-'}",
        *([f"model   away: {status.model_away}"] if status.model_away is not None else []),
        f"engine  {engine.num_running} running, {engine.num_waiting} waiting{f' ({waits})' if waits else ''}, "
        f"prefill {engine.prefill_tokens_per_s:.0f} tok/s, decode {engine.decode_tokens_per_s:.1f} tok/s"
        + (f", {per_step}" if engine.batch_size and (per_step := step_text(engine.tokens_per_step)) else ""),
        f"budget  {bar(cache.used_bytes / (cache.budget_bytes or 1), 30)} {size(cache.used_bytes)} of "
        f"{size(cache.budget_bytes)}: hot {size(cache.hot_bytes)}, running {size(cache.running_bytes)}, "
        f"in flight {size(cache.in_flight_bytes)}, pinned {size(cache.pinned_bytes)}",
        f"blocks  {cache.num_hot_blocks} hot ({cache.num_shared_blocks} shared), "
        f"{cache.num_warm_blocks} on disk, {size(cache.warm_bytes)}"
        + (f" of {size(cap)}" if cap else "")
        + f"; evictions {cache.num_evictions}",
        f"tokens  {cache.hot_hit_tokens} reused hot, {cache.warm_hit_tokens} restored warm, "
        f"{cache.computed_tokens} computed",
        *_peers(status),
        *_ranks(status),
        *_ends(status),
    ]


def _peers(status: StatusResult) -> list[str]:
    """Return a line for each peer."""
    return [
        f"peer    {peer.address}: {peer.state or '-'}, {peer.num_blocks} blocks ({size(peer.num_bytes)}) read"
        + (f" at {size(peer.bytes_per_s)}/s" if peer.bytes_per_s is not None else "")
        + (f"; {peer.num_failures} failures, the last: {peer.last_failure}" if peer.num_failures else "")
        for peer in status.peers
    ]


def _ranks(status: StatusResult) -> list[str]:
    """Return a line for each machine that computes with the others."""
    return [_rank(rank) for rank in status.ranks]


def _rank(rank: RankFacts) -> str:
    text = f"rank {rank.rank}  {rank.address}: {rank.state or '-'}"
    if rank.state == "ready":
        text += f", {size(rank.memory_bytes)}, "
        text += f"last step {rank.step_ms:.1f} ms" if rank.step_ms else "no step yet"
        text += f", {size(rank.sent_bytes + rank.received_bytes)} exchanged"
    return text + (f"; {rank.last_failure}" if rank.last_failure else "")


def _ends(status: StatusResult) -> list[str]:
    """Return the outcomes of requests and the savings of the cache, as far as the daemon reports them."""
    lines = []
    if (outcomes := status.outcomes) is not None:
        lines.append(
            f"ended   {outcomes.num_answered} answered, {outcomes.num_failed} failed, "
            f"{outcomes.num_refused} refused"
        )
    if drafts := drafts_text(status.engine):
        lines.append(f"guessed {drafts}")
    if (savings := status.savings) is not None:
        lines.append(
            f"saved   {short_duration(savings.saved_s)} of prefill by {savings.reused_tokens} "
            f"tokens, {short_duration(savings.today.saved_s)} of it today; "
            f"{savings.recomputed_tokens} recomputed after an eviction"
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


def _table_within(columns: Sequence[str], rows: Sequence[tuple[str, ...]], width: int | None) -> list[str]:
    """Return a table whose agents' names take no more than the other columns leave of `width`."""
    lines = table(columns, rows)
    over = 0 if width is None else max(map(len, lines)) - width
    at = columns.index("agent")
    longest = max((len(row[at]) for row in rows), default=0)
    if over <= 0 or longest <= _MIN_NAME:
        return lines
    room = max(_MIN_NAME, longest - over)
    return table(columns, [(*row[:at], shortened(row[at], room), *row[at + 1 :]) for row in rows])


def dashboard(
    status: StatusResult,
    agents: Sequence[AgentRow],
    requests: Sequence[RequestRow],
    *,
    width: int | None = None,
) -> str:
    """Return the whole dashboard; on a terminal of `width` columns long names are cut so that tables stay tables."""
    rows = [agent_row(agent) for agent in live_agents(agents, requests)]
    lines = [*header(status, requests), "", *_table_within(AGENT_COLUMNS, rows, width)]
    if requests:
        lines += ["", *_table_within(REQUEST_COLUMNS, [request_row(request) for request in requests], width)]
    return "\n".join(lines)
