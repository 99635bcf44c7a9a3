"""Reasons why requests wait (model, RAM, place in the batch, another's prefix, disk, turn), and whom they wait for.

The engine keeps no record of it, so it is seen from outside: each look notes the present reason of every waiting
request, and the time since the look before is counted under it. The reason it waited for longest becomes part of its
turn's record; behind whom is kept for the last requests only, for that agent may be deleted.

Rule: work grows with the requests in and before the engine only; the event loop's thread only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.services.arrivals import Arrivals
from semanticd.domain.generation import WaitReason
from semanticd.domain.packed_lines import PackedLines
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.sequence import SequenceState

MAX_REQUESTS_KEPT = 1024
_RUNNING = (SequenceState.PREFILLING, SequenceState.DECODING)


@dataclass(frozen=True, slots=True)
class Wait:
    """The reason for which a request waits, or waited longest, and the agent ahead of it (None: no single one)."""

    reason: WaitReason
    behind: str | None = None


@dataclass(slots=True)
class _Record:
    seen_at: float
    seconds: dict[Wait, float] = field(default_factory=dict)

    @property
    def longest(self) -> Wait:
        return max(self.seconds, key=lambda wait: self.seconds[wait])


class Waits:
    """Follows the waiting requests of one engine, and those on their way to it."""

    def __init__(self, scheduler: Scheduler, arrivals: Arrivals) -> None:
        """Ask this scheduler's limits and which sequences do not fit."""
        self._scheduler = scheduler
        self._arrivals = arrivals
        self._records: dict[str, _Record] = {}
        self._ended = PackedLines(MAX_REQUESTS_KEPT)

    def look(self, lives: Sequence[RunningSequence], now: float) -> dict[str, Wait]:
        """Return the present reason of every waiting request by its id, and count the time since the last look."""
        reasons: dict[str, Wait] = {}
        active = [one for one in lives if one.sequence.state in _RUNNING or one.pending_reads]
        memory_waits = any(self._scheduler.is_blocked(one.sequence.sequence_id) for one in lives)
        for live in lives:
            if live.sequence.state is SequenceState.WAITING:
                request_id = str(live.submission.request_id)
                wait = reasons[request_id] = self._reason(live, active, memory_waits=memory_waits)
                self._count(request_id, wait, since=live.submitted_at, now=now)
        outside = self._arrivals.outside(lives)
        for arrival in outside:
            reason = self._arrivals.reason(arrival)
            wait = self._turn(active, memory_waits=memory_waits) if reason == "turn" else Wait(reason)
            reasons[str(arrival.request_id)] = wait
            self._count(str(arrival.request_id), wait, since=arrival.arrived_at, now=now)
            arrival.waited.reason = self._records[str(arrival.request_id)].longest.reason
        for live in lives:
            known = self._records.get(str(live.submission.request_id))
            if known is not None:
                live.submission.waited.reason = known.longest.reason
                known.seen_at = now
        self._end_all_but(
            {str(live.submission.request_id) for live in lives} | {str(one.request_id) for one in outside}
        )
        return reasons

    def _count(self, request_id: str, wait: Wait, *, since: float, now: float) -> None:
        record = self._records.setdefault(request_id, _Record(since))
        record.seconds[wait] = record.seconds.get(wait, 0.0) + max(0.0, now - record.seen_at)
        record.seen_at = now

    def _end_all_but(self, living: set[str]) -> None:
        for request_id in [one for one in self._records if one not in living]:
            wait = self._records.pop(request_id).longest
            self._ended.add(_beginning(request_id) + json.dumps([wait.reason, wait.behind]).encode())

    def longest(self, request_id: str) -> Wait | None:
        """Return the reason of a request's longest wait; None where it was never seen waiting."""
        record = self._records.get(request_id)
        if record is not None:
            return record.longest
        beginning = _beginning(request_id)
        line = self._ended.find(beginning)
        return None if line is None else Wait(*json.loads(line.removeprefix(beginning)))

    def _reason(self, live: RunningSequence, active: list[RunningSequence], *, memory_waits: bool) -> Wait:
        if live.pending_reads:
            return Wait("restore")
        others = [one for one in active if one is not live]
        computing = (
            one for one in others if one.sequence.state is SequenceState.PREFILLING or one.pending_reads
        )
        computes = self._scheduler.computes_prefix_of
        leader = next((one for one in computing if computes(one.sequence, live.sequence)), None)
        if leader is not None:
            return Wait("leader", str(leader.sequence.agent_id))
        return self._turn(others, memory_waits=memory_waits)

    def _turn(self, others: list[RunningSequence], *, memory_waits: bool) -> Wait:
        """Return what keeps the next request from its turn while these run."""
        if len(others) >= self._scheduler.limits.max_batch_size:
            return Wait("place", _oldest(others))
        if memory_waits:
            return Wait("memory", _largest(others))
        if self._arrivals.model_loads:
            return Wait("model")
        return Wait("turn", _oldest(others))


def _beginning(request_id: str) -> bytes:
    return json.dumps(request_id).encode() + b" "


def _oldest(running: Sequence[RunningSequence]) -> str | None:
    oldest = min(running, key=lambda one: one.submitted_at, default=None)
    return None if oldest is None else str(oldest.sequence.agent_id)


def _largest(running: Sequence[RunningSequence]) -> str | None:
    largest = max(running, key=lambda one: one.sequence.num_tokens, default=None)
    return None if largest is None else str(largest.sequence.agent_id)
