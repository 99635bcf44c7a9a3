"""SequenceTrace: the phases of a sequence, recorded when it has ended.

A request that is not traced costs nothing here; the times are taken anyway, for its usage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.ports.telemetry import Attribute, Clock, Phase, Tracer
from semanticd.domain.ids import BlockHash

_PAIRS = 4
"""Readings of both clocks of which the quickest counts."""


@dataclass(slots=True)
class _Unwritten:
    """A traced sequence that has ended, and its blocks that are not durable yet."""

    running: RunningSequence
    began_at: float
    names: set[BlockHash]


class SequenceTrace:
    """Records the phases of sequences that leave the engine; engine thread only."""

    def __init__(self, tracer: Tracer | None, *, store: AgentCacheStore, clock: Clock) -> None:
        """`tracer` None: no request is traced."""
        self._tracer = tracer
        self._store = store
        self._clock = clock
        self._unwritten: list[_Unwritten] = []

    def ended(self, running: RunningSequence, *, settled_from: float | None) -> None:
        """Record a sequence that ended now; its blocks were committed from this clock reading on (None: not).

        Its `persist` phase is recorded when the blocks it handed over are durable, see `writes_ended`.
        """
        tracer, trace_parent = self._tracer, running.submission.trace_parent
        if tracer is None or trace_parent is None:
            return
        now = self._clock.monotonic()
        ended_at = now if settled_from is None else settled_from
        tracer.record(self._dated(phases(running, ended_at=ended_at)), trace_parent=trace_parent)
        if settled_from is None:
            return
        names = {name for name in running.sequence.full_table if self._store.is_writing(name)}
        self._unwritten.append(_Unwritten(running, settled_from, names))
        self.writes_ended()

    def writes_ended(self) -> None:
        """Record the `persist` phase of sequences whose blocks are all durable, or were refused."""
        waiting = []
        for one in self._unwritten:
            one.names = {name for name in one.names if self._store.is_writing(name)}
            if one.names:
                waiting.append(one)
                continue
            running, trace_parent = one.running, one.running.submission.trace_parent
            if self._tracer is None or trace_parent is None:
                continue
            attributes = {**_identity(running), "semanticd.tokens.stored": running.sequence.num_published}
            phase = Phase("persist", one.began_at, self._clock.monotonic(), attributes)
            self._tracer.record(self._dated([phase]), trace_parent=trace_parent)
        self._unwritten = waiting

    def _dated(self, found: list[Phase] | Iterator[Phase]) -> list[Phase]:
        """Return phases with dates (seconds since the epoch) in the place of clock readings."""
        offset = self._offset_s()
        return [
            Phase(phase.name, phase.began_at + offset, phase.ended_at + offset, phase.attributes)
            for phase in found
        ]

    def _offset_s(self) -> float:
        """Return the difference between dates and clock readings (seconds).

        The thread may be interrupted between the two, so the quickest of several pairs counts.
        """
        pairs: list[tuple[float, float]] = []
        for _ in range(_PAIRS):
            before, date = self._clock.monotonic(), self._clock.wall()
            pairs.append((self._clock.monotonic() - before, date - before))
        return min(pairs)[1]


def phases(running: RunningSequence, *, ended_at: float) -> Iterator[Phase]:
    """Yield what a sequence went through until this clock reading, in order; what did not happen is not there."""
    sequence, cache, base = running.sequence, running.sequence.cache, _identity(running)
    restore_at, admitted_at, decode_at = (
        running.restore_began_at,
        running.admitted_at,
        running.decode_began_at,
    )
    queued_until = restore_at if restore_at is not None else admitted_at
    yield Phase("queue", running.submitted_at, ended_at if queued_until is None else queued_until, base)
    if restore_at is not None:
        restored_at = admitted_at if admitted_at is not None else ended_at
        attributes: dict[str, Attribute] = {
            **base,
            "semanticd.tokens.restored_warm": cache.restored_warm_tokens,
        }
        yield Phase("restore", restore_at, restored_at, attributes)
    if admitted_at is not None and running.prefill_s:
        attributes = {
            **base,
            "semanticd.tokens.computed": cache.computed_tokens,
            "semanticd.tokens.reused_hot": cache.reused_hot_tokens,
            "semanticd.num_preemptions": sequence.num_preemptions,
        }
        yield Phase("prefill", admitted_at, ended_at if decode_at is None else decode_at, attributes)
    if decode_at is not None:
        attributes = {**base, "semanticd.tokens.output": len(sequence.output_ids)}
        if sequence.finish_reason is not None:
            attributes["semanticd.finish_reason"] = sequence.finish_reason.value
        yield Phase("decode", decode_at, ended_at, attributes)


def _identity(running: RunningSequence) -> dict[str, Attribute]:
    submission = running.submission
    return {
        "semanticd.request_id": submission.request_id,
        "semanticd.agent": submission.agent_id,
        "semanticd.model": submission.model_id,
        "semanticd.choice": submission.choice,
    }
