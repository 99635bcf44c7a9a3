"""What a request does now, in words: decode 27/s, prefill 43 %, restore 61 %, wait 3.9 s (RAM). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Cell = tuple[str, str]
"""A text and its style."""

_RANK = {"decoding": 0, "prefilling": 1, "waiting": 2}
_REASONS = {"memory": "RAM", "place": "batch full", "leader": "prefix", "restore": "disk", "turn": "turn"}
STATE_STYLES = {"hot": "$success", "warm": "$primary", "cold": "$muted"}


def request_state(row: Row) -> Cell:
    """Return what a request does."""
    state = str(row.get("state") or "-")
    if state == "decoding":
        rate = row.get("tokens_per_s")
        done = f"{rate:.0f}/s" if rate is not None else f"{row.get('completion_tokens') or 0} tokens"
        return f"decode {done}", "bold $success"
    if state == "prefilling":
        return f"prefill {_percent(row.get('prefill_progress'))}", "bold $warning"
    if state != "waiting":
        return state, "$muted"
    if row.get("restore_progress") is not None:
        return f"restore {_percent(row['restore_progress'])}", "bold $primary"
    word = "preempted" if row.get("num_preemptions") else "wait"
    reason = _REASONS.get(str(row.get("wait_reason")), "")
    return f"{word} {float(row.get('age_s') or 0):.1f} s" + (f" ({reason})" if reason else ""), "$warning"


def agent_state(row: Row, requests: Sequence[Row]) -> Cell:
    """Return what an agent's furthest request does, and how many more it has; without requests, its tier."""
    if not requests:
        state = str(row.get("state") or "-")
        return state, STATE_STYLES.get(state, "$success")
    furthest = min(requests, key=lambda request: _RANK.get(str(request.get("state")), 3))
    text, style = request_state(furthest)
    return (f"{text} +{len(requests) - 1}" if len(requests) > 1 else text), style


def first_turn_row(requests: Sequence[Row]) -> dict[str, Any]:
    """Return a row for an agent that the daemon does not list yet: its first turn has not ended."""
    newest = requests[-1]
    return {
        "id": newest.get("agent"),
        "state": "active",
        "tier": "cold",
        "model": newest.get("model"),
        "class": newest.get("class"),
        "num_turns": 0,
        "num_tokens": (newest.get("prefilled_tokens") or 0) + (newest.get("completion_tokens") or 0),
        "first_turn": True,
    }


def _percent(share: Any) -> str:
    return f"{100 * float(share or 0):.0f} %"
