"""The alarms, most urgent first: failing requests, refusals, thrashing, disk and memory. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from semantic_tui.plain import size
from semantic_tui.state import WatchState

FAILING_AFTER = 3
"""Failures in a row, without an answer between them, after which the engine counts as failing."""
_FULL_DISK = 0.95
_FULL_RAM = 0.98
_LOW_MEMORY_BYTES = 512 * 1024 * 1024
_LOW_DISK_BYTES, _NO_DISK_BYTES = 2 * 1024**3, 512 * 1024**2
"""Free bytes of the volume below which it is said, and below which writes are about to fail."""

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm: a few words for the strip, and a sentence with the remedy for the list."""

    level: Level
    short: str
    detail: str


def is_failing(state: WatchState) -> bool:
    """Return whether the engine fails every request."""
    return state.outcomes.num_failed_in_a_row >= FAILING_AFTER


def alarms(state: WatchState) -> list[Alarm]:
    """Return the present alarms, errors first; none without a daemon (another line reports that)."""
    if not state.connected:
        return []
    found = [
        *_requests(state),
        *_thrash(state),
        *_disk(state),
        *_memory(state),
        *_peers(state),
        *_ranks(state),
    ]
    return sorted(found, key=lambda alarm: alarm.level != "error")


def _requests(state: WatchState) -> list[Alarm]:
    outcomes, found = state.outcomes, []
    in_a_row = outcomes.num_failed_in_a_row
    failed, refused = outcomes.num_failed_last_minute, outcomes.num_refused_last_minute
    if in_a_row >= FAILING_AFTER:
        code, reason = _newest(state, "failed")
        found.append(
            Alarm(
                "error",
                f"engine failing: {in_a_row:,} in a row{code}",
                f"The last {in_a_row:,} requests failed.{reason} See the log (5); restart the daemon if it continues.",
            )
        )
    elif failed:
        code, reason = _newest(state, "failed")
        found.append(
            Alarm(
                "error",
                f"{failed:,} failed/min{code}",
                f"{_requests_were(failed, 'failed')} in the last minute.{reason} Requests (4) lists them.",
            )
        )
    if refused:
        code, reason = _newest(state, "refused")
        found.append(
            Alarm(
                "warning",
                f"{refused:,} refused/min{code}",
                f"{_requests_were(refused, 'refused')} in the last minute.{reason} Requests (4) lists them.",
            )
        )
    return found


def _requests_were(number: int, what: str) -> str:
    passive = "" if what == "failed" else "was " if number == 1 else "were "
    return f"{number:,} request{'' if number == 1 else 's'} {passive}{what}"


def _newest(state: WatchState, kind: str) -> tuple[str, str]:
    """Return the agent and the error of the newest request that ended so, in brackets and as a sentence."""
    last = state.outcomes.last
    row = next((row for row in (*([last] if last else ()), *state.failures) if row.kind == kind), None)
    if row is None:
        return "", ""
    agent, code = row.agent or "anonymous", row.code or "?"
    message = (row.message or code).rstrip(".")
    return f" ({agent}: {code})", f" Newest, of {agent}: {message}."


def _thrash(state: WatchState) -> list[Alarm]:
    recomputed = state.history.total("recomputed_tokens", 60)
    if not recomputed:
        return []
    return [
        Alarm(
            "warning",
            f"thrash {recomputed:,.0f} tokens/min",
            f"{recomputed:,.0f} tokens were recomputed in the last minute because their blocks had been evicted. "
            "Raise SEMANTIC_MLX_CACHE_BUDGET_MB, or the disk's cap, or run fewer agents at a time.",
        )
    ]


def _disk(state: WatchState) -> list[Alarm]:
    cache, found = state.cache, []
    warm, cap, free = cache.warm_bytes, cache.warm_cap_bytes, cache.free_disk_bytes
    reserve = cache.disk_reserve_bytes
    if cache.folder_problem is not None:
        problem = cache.folder_problem
        found.append(
            Alarm(
                "error", "cache folder gone", f"{problem[:1].upper()}{problem[1:]}. New state is in RAM only."
            )
        )
    if free is not None and free < reserve:
        found.append(
            Alarm(
                "error" if free < _NO_DISK_BYTES else "warning",
                f"disk reserve ({size(free)} free)",
                f"The volume has {size(free)} free, less than the reserve of {size(reserve)}, so no block is written: "
                "new ones stay in RAM only and a restart loses them. Free disk space, or lower "
                "SEMANTIC_AGENT_DISK_RESERVE_GB.",
            )
        )
    elif free is not None and free < _LOW_DISK_BYTES:
        found.append(
            Alarm(
                "error" if free < _NO_DISK_BYTES else "warning",
                f"disk {size(free)} free",
                f"The cache's volume has {size(free)} free; once it is full, new blocks stay in RAM only and a restart "
                "loses them. Free disk space, or run `semanticd cache prune SIZE`.",
            )
        )
    if cap and warm >= _FULL_DISK * cap:
        found.append(
            Alarm(
                "warning",
                f"disk {100 * warm / cap:.0f} % of cap",
                f"The blocks on disk take {size(warm)} of {size(cap)}; the least recently used ones are removed. "
                "Raise SEMANTIC_AGENT_CACHE_MAX_GB to keep more.",
            )
        )
    return found


def _memory(state: WatchState) -> list[Alarm]:
    cache, found = state.cache, []
    budget = cache.budget_bytes
    kept = cache.running_bytes + cache.pinned_bytes + cache.in_flight_bytes
    if budget and kept >= _FULL_RAM * budget:
        found.append(
            Alarm(
                "warning",
                "RAM full",
                f"Running, pinned and unwritten blocks take {size(kept)} of the budget of {size(budget)}"
                ": nothing can be evicted, and new requests wait. Unpin agents or raise SEMANTIC_MLX_CACHE_BUDGET_MB.",
            )
        )
    if budget and cache.planned_bytes > budget:
        found.append(
            Alarm(
                "warning",
                f"memory short: KV {size(budget)}",
                f"Memory is short: the budget was lowered from {size(cache.planned_bytes)} to {size(budget)}, and "
                "blocks were evicted. It rises once memory is free; close other programs, or serve a smaller model.",
            )
        )
    free = state.status.free_memory_bytes
    if free is not None and free < _LOW_MEMORY_BYTES:
        found.append(
            Alarm(
                "warning",
                f"memory {size(free)} free",
                f"The machine has only {size(free)} of free memory; it may start to swap.",
            )
        )
    return found


def _peers(state: WatchState) -> list[Alarm]:
    resting = [peer for peer in state.status.peers if peer.state == "resting"]
    if not resting:
        return []
    first = resting[0]
    host = first.address.partition("://")[2] or first.address
    others = f" and {len(resting) - 1} more" if len(resting) > 1 else ""
    reason = first.last_failure or "unknown reason"
    return [
        Alarm(
            "warning",
            f"peer {host} failed{others}",
            f"{first.address}{others} failed and is not used for a while: {reason}. "
            "Its blocks are computed here instead. P shows all peers; the doctor (6) checks each of them.",
        )
    ]


def _ranks(state: WatchState) -> list[Alarm]:
    missing = [rank for rank in state.status.ranks if rank.state == "missing"]
    away = state.status.model_away
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        short = f"rank {missing[0].rank} is missing{others}"
        reason = f": {missing[0].last_failure}" if missing[0].last_failure else ""
        detail = f"The machine at {missing[0].address}{others} has not joined{reason}. "
        remedy = "No request is computed until all have joined; run `semanticd worker` there."
    elif away is not None:
        short, detail, remedy = "model away", "", "It is loaded as soon as that is over."
    else:
        return []
    if away is not None:
        detail = f"The model is away: {away}. "
        remedy += " `semanticd models unload default` gives it up."
    return [Alarm("warning", short, f"{detail}{remedy}")]
