"""What is known about one agent, as cells and text: its turns with their misses, its words, its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textual.content import Content
from textual.markup import escape

from semantic_tui.plain import bar, duration, shortened, size
from semantic_tui.state import WatchState
from semantic_tui.widgets.rows_table import Row

TURN_COLUMNS = (
    ("turn", 4), ("prompt", 6), ("answer", 6), ("hot", 6), ("warm", 6), ("computed", 8), ("tier", 0), ("TTFT", 7),
    ("queue", 7), ("finish", 0), ("why it missed", 0),
)  # fmt: skip
_CAUSES = {
    "first_request": "first request",
    "evicted": "blocks were evicted",
    "system_changed": "system text changed",
    "tools_changed": "tools changed",
    "date_changed": "a date or time changed",
    "history_changed": "history changed",
}
_CONTEXT_CHARS = 160


def _cause(miss: Mapping[str, Any]) -> str:
    cause = str(miss.get("cause") or "unknown cause")
    return _CAUSES.get(cause, cause.replace("_", " "))


def turn_row(number: int, turn: Mapping[str, Any]) -> Row:
    """Return a turn's cells."""
    miss = turn.get("miss")
    cells = (
        str(number),
        *(str(turn.get(key, "-")) for key in ("prompt_tokens", "completion_tokens", "reused_hot_tokens")),
        *(str(turn.get(key, "-")) for key in ("restored_warm_tokens", "computed_tokens", "tier")),
        duration(turn.get("ttft_ms")),
        duration(turn.get("queue_ms")),
        str(turn.get("finish_reason") or "-"),
        f"{_cause(miss)} at {miss.get('position', '?')}" if isinstance(miss, Mapping) else "",
    )
    return str(turn.get("request_id") or number), tuple(escape(cell) for cell in cells)


def miss_text(miss: Any) -> Content:
    """Return why a turn computed more than its new tokens: where it left the cache, what was kept and what came."""
    if not isinstance(miss, Mapping):
        return Content.styled("No miss: only what was new was computed.", "$success")
    parts: list[tuple[str, str] | str] = [
        (f"Missed from token {miss.get('position', '?')} on: {_cause(miss)}.", "$warning")
    ]
    for name, key in (("cached", "expected"), ("asked", "found")):
        if miss.get(key):
            text = " ".join(str(miss[key]).split())
            parts += [f"\n{name:<7} ", (f"…{shortened(text, _CONTEXT_CHARS)}…", "$foreground")]
    return Content.assemble(*parts)


def blocks_text(row: Mapping[str, Any], width: int) -> Content:
    """Return where an agent's blocks are and with whom it shares them."""
    num_blocks, num_hot = int(row.get("num_blocks") or 0), int(row.get("num_hot_blocks") or 0)
    facts = {
        "blocks": f"{num_blocks}, of which {num_hot} in RAM",
        "hot": size(row.get("hot_bytes")),
        "on disk": size(row.get("warm_bytes")),
        "model": f"{row.get('model') or '-'}, {row.get('num_tokens') or 0} tokens",
        "class": f"{row.get('class') or '-'}, {'pinned' if row.get('pinned') else 'not pinned'}",
    }
    parts: list[tuple[str, str] | str] = []
    for name, fact in facts.items():
        parts += [(f"{name:<12}", "$muted"), f"{fact}\n"]
    sharing = row.get("sharing") or []
    parts.append(
        (f"\nShared with {'no other agent' if not sharing and not row.get('shared_with') else ''}", "$muted")
    )
    room = max(4, min(40, width - 50))
    for other in sharing:
        share = int(other.get("num_blocks") or 0) / max(1, num_hot)
        name = shortened(str(other.get("agent")), 24)
        parts += [f"\n  {name:<24} ", (bar(share, room), "$success"),
                  f" {other.get('num_blocks')} blocks, {size(other.get('bytes'))}"]  # fmt: skip
    if not sharing:
        parts += [f"\n  {other}" for other in row.get("shared_with") or []]
    return Content.assemble(*parts)


def _words(content: Any) -> str:
    """Return a message's text; a part that is no text is named."""
    if not isinstance(content, list):
        return str(content)
    texts = []
    for part in content:
        if part.get("type") == "tool_call":
            texts.append(f"[calls {part.get('name')}({part.get('arguments')})]")
        elif part.get("type") == "tool_result":
            texts.append(f"[result: {part.get('content')}]")
        else:
            texts.append(str(part.get("text") or part.get("thinking") or ""))
    return "".join(texts)


def transcript(details: Mapping[str, Any], state: WatchState, agent: str) -> Content:
    """Return the conversation as the daemon keeps it, then what the agent is saying now."""
    parts: list[tuple[str, str] | str] = []
    messages = details.get("messages") or []
    if details.get("system") and not any(message.get("role") == "system" for message in messages):
        messages = [{"role": "system", "content": details["system"]}, *messages]
    for message in messages:
        parts += [(f"{message.get('role', '?')}\n", "bold $primary"), _words(message.get("content")), "\n\n"]
    stream = state.streams.get(agent)
    running = {str(row.get("id")) for row in state.requests_of(agent)}
    if stream is not None and (stream.request in running or not messages):
        parts += [(f"assistant, now (request {stream.request})\n", "bold $success"), stream.text]
    return Content.assemble(*parts) if parts else Content("No transcript yet.")
