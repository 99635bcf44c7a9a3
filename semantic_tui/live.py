"""The present activity of a request as text: decode 27/s, prefill 43 %, restore 61 %, wait 3.9 s (RAM). Pure.

`decode 74/s ×2.3`: a decode step brings 2.3 tokens on average, for guessed ones were right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from semanticd.control.request_text import WAIT_REASONS, wait_text
from semanticd.control.results import SHOWN_TOKENS_PER_STEP, AgentRow, RequestRow

Cell = tuple[str, str]
"""A text and its style."""

_RANK = {"decoding": 0, "prefilling": 1, "waiting": 2}
STATE_STYLES = {"hot": "$success", "warm": "$primary", "cold": "$muted"}


@dataclass(frozen=True, slots=True)
class LiveAgent:
    """An agent's row, and its requests in the engine."""

    row: AgentRow
    requests: tuple[RequestRow, ...] = ()
    first_turn: bool = False
    """Whether the daemon does not list it yet, because its first turn has not ended."""
    watched: bool = False
    """Whether it is shown in a tile."""


def live_agents(
    agents: Sequence[AgentRow], requests: Sequence[RequestRow], watched: Collection[str] = ()
) -> list[LiveAgent]:
    """Return the agents, each with its requests; first those in their first turn, which are not listed yet."""
    running: dict[str, list[RequestRow]] = {}
    for request in requests:
        running.setdefault(request.agent, []).append(request)
    listed = [LiveAgent(row, tuple(running.pop(row.id, ())), watched=row.id in watched) for row in agents]
    new = [
        LiveAgent(first_turn_row(own), tuple(own), first_turn=True, watched=name in watched)
        for name, own in running.items()
    ]
    return [*new, *listed]


def first_turn_row(requests: Sequence[RequestRow]) -> AgentRow:
    """Return a row for an agent that the daemon does not list yet: its first turn has not ended."""
    newest = requests[-1]
    return AgentRow(
        id=newest.agent,
        state="active",
        model=newest.model,
        priority=newest.priority,
        num_tokens=max(row.prefilled_tokens + row.completion_tokens for row in requests),
    )


def request_state(row: RequestRow, *, room: int | None = None) -> Cell:
    """Return the activity of a request, in at most `room` characters if a short form fits."""
    if row.state == "decoding":
        rate = row.tokens_per_s
        done = f"{rate:.0f}/s" if rate is not None else f"{row.completion_tokens} tokens"
        per_step = row.tokens_per_step or 1.0
        guessed = f" ×{per_step:.1f}" if per_step >= SHOWN_TOKENS_PER_STEP else ""
        return f"decode {done}{guessed}", "bold $success"
    if row.state == "prefilling":
        return f"prefill {100 * row.prefill_progress:.0f} %", "bold $warning"
    if row.state != "waiting":
        return row.state or "-", "$muted"
    if row.restore_progress is not None:
        return f"restore {100 * row.restore_progress:.0f} %", "bold $primary"
    return wait_text(row, room=room), "$warning"


def agent_state(row: AgentRow | None, requests: Sequence[RequestRow], *, room: int | None = None) -> Cell:
    """Return the activity of an agent's furthest request, and the number of others; without requests, its tier."""
    if not requests:
        state = (row.state if row is not None else "") or "-"
        return state, STATE_STYLES.get(state, "$success")
    furthest = min(requests, key=lambda request: _RANK.get(request.state, 3))
    more = f" +{len(requests) - 1}" if len(requests) > 1 else ""
    text, style = request_state(furthest, room=None if room is None else room - len(more))
    return text + more, style


def waits_text(requests: Sequence[RequestRow]) -> str:
    """Return why requests wait and how many for each reason, as in `RAM 2, disk 1`; empty where none is known."""
    reasons = Counter(
        WAIT_REASONS[row.wait_reason]
        for row in requests
        if row.state == "waiting" and row.wait_reason in WAIT_REASONS
    )
    return ", ".join(f"{reason} {number}" for reason, number in reasons.most_common())
