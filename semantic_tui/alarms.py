"""What needs attention, most urgent first: failing requests, refusals, thrashing, disk and memory. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from semantic_tui.plain import size
from semantic_tui.state import WatchState

FAILING_AFTER = 3
"""Failures in a row, without an answer between them, after which the engine counts as failing."""
_FULL_DISK = 0.95
_FULL_RAM = 0.98
_LOW_MEMORY_BYTES = 512 * 1024 * 1024

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing: a few words for the strip, and a sentence with what to do for the list."""

    level: Level
    short: str
    detail: str


def is_failing(state: WatchState) -> bool:
    """Whether the engine fails every request."""
    return int(_outcomes(state).get("num_failed_in_a_row") or 0) >= FAILING_AFTER


def alarms(state: WatchState) -> list[Alarm]:
    """Return the present alarms, errors first; none while the daemon is not there (another line says so)."""
    if not state.connected:
        return []
    found = [*_requests(state), *_thrash(state), *_disk(state), *_memory(state)]
    return sorted(found, key=lambda alarm: alarm.level != "error")


def _outcomes(state: WatchState) -> dict[str, Any]:
    return state.status.get("outcomes") or {}


def _requests(state: WatchState) -> list[Alarm]:
    outcomes, found = _outcomes(state), []
    in_a_row = outcomes.get("num_failed_in_a_row") or 0
    failed, refused = (outcomes.get(f"num_{kind}_last_minute") or 0 for kind in ("failed", "refused"))
    if in_a_row >= FAILING_AFTER:
        code, reason = _newest(state, "failed")
        found.append(
            Alarm(
                "error",
                f"engine failing: {in_a_row:,} in a row{code}",
                f"The last {in_a_row:,} requests failed.{reason} See the log (5); restart the daemon if it goes on.",
            )
        )
    elif failed:
        code, reason = _newest(state, "failed")
        found.append(
            Alarm(
                "error",
                f"{failed:,} failed/min{code}",
                f"{failed:,} requests failed within a minute.{reason} Requests (4) lists them.",
            )
        )
    if refused:
        code, reason = _newest(state, "refused")
        found.append(
            Alarm(
                "warning",
                f"{refused:,} refused/min{code}",
                f"{refused:,} requests were refused within a minute.{reason} Requests (4) lists them.",
            )
        )
    return found


def _newest(state: WatchState, kind: str) -> tuple[str, str]:
    """Return the agent and the error of the newest request that ended so, in brackets and as a sentence."""
    last = _outcomes(state).get("last") or {}
    rows = [last, *state.failures] if last else state.failures
    row = next((row for row in rows if row.get("kind") == kind), None)
    if row is None:
        return "", ""
    agent, code = row.get("agent") or "anonymous", row.get("code") or "?"
    message = str(row.get("message") or code).rstrip(".")
    return f" ({agent}: {code})", f" Newest, of {agent}: {message}."


def _thrash(state: WatchState) -> list[Alarm]:
    recomputed = state.history.total("recomputed_tokens", 60)
    if not recomputed:
        return []
    return [
        Alarm(
            "warning",
            f"thrash {recomputed:,.0f} tokens/min",
            f"{recomputed:,.0f} tokens were computed again within a minute because their blocks had been evicted. "
            "Raise SEMANTIC_MLX_CACHE_BUDGET_MB, or the disk's cap, or run fewer agents at a time.",
        )
    ]


def _disk(state: WatchState) -> list[Alarm]:
    cache = state.cache
    warm, cap = float(cache.get("warm_bytes") or 0), float(cache.get("warm_cap_bytes") or 0)
    if not cap or warm < _FULL_DISK * cap:
        return []
    return [
        Alarm(
            "warning",
            f"disk {100 * warm / cap:.0f} % of cap",
            f"The blocks on disk take {size(warm)} of {size(cap)}; the least recently used ones are removed. "
            "Raise SEMANTIC_AGENT_CACHE_MAX_GB to keep more.",
        )
    ]


def _memory(state: WatchState) -> list[Alarm]:
    cache, found = state.cache, []
    budget = float(cache.get("budget_bytes") or 0)
    kept = sum(float(cache.get(key) or 0) for key in ("running_bytes", "pinned_bytes", "in_flight_bytes"))
    if budget and kept >= _FULL_RAM * budget:
        found.append(
            Alarm(
                "warning",
                "RAM full",
                f"Running, pinned and unwritten blocks take {size(kept)} of the budget of {size(budget)}"
                ": nothing can be evicted, and new requests wait. Unpin agents or raise SEMANTIC_MLX_CACHE_BUDGET_MB.",
            )
        )
    free = state.status.get("free_memory_bytes")
    if isinstance(free, int | float) and free < _LOW_MEMORY_BYTES:
        found.append(
            Alarm(
                "warning",
                f"memory {size(free)} free",
                f"The machine has {size(free)} of memory left; it may begin to swap.",
            )
        )
    return found
