"""What a trace says about a sequence: the phases it went through, told when it is over.

Nothing happens here for a request that nobody traces; the times were taken anyway, for its usage.
"""

from __future__ import annotations

from collections.abc import Iterator

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.ports.telemetry import Attribute, Clock, Phase, Tracer


class SequenceTrace:
    """Records the phases of sequences that leave the engine; engine thread only."""

    def __init__(self, tracer: Tracer | None, *, store: AgentCacheStore, clock: Clock) -> None:
        """`tracer` None: nobody traces."""
        self._tracer = tracer
        self._store = store
        self._clock = clock

    def ended(self, live: RunningSequence, *, settled_from: float | None) -> None:
        """A sequence left the engine now; what was kept of it was settled from this clock reading on (None: nothing).

        Its `persist` phase is told when the blocks it handed over are durable.
        """
        tracer, trace_parent = self._tracer, live.submission.trace_parent
        if tracer is None or trace_parent is None:
            return
        now = self._clock.monotonic()
        ended_at = now if settled_from is None else settled_from
        tracer.record(self._dated(phases(live, ended_at=ended_at)), trace_parent=trace_parent)
        if settled_from is None:
            return
        began_at = settled_from

        def persisted() -> None:
            attributes = {**_identity(live), "semanticd.tokens.stored": live.sequence.num_published}
            phase = Phase("persist", began_at, self._clock.monotonic(), attributes)
            tracer.record(self._dated([phase]), trace_parent=trace_parent)

        self._store.writes.when_durable(live.sequence.full_table, persisted)

    def _dated(self, found: list[Phase] | Iterator[Phase]) -> list[Phase]:
        """Return phases with dates (seconds since the epoch) in the place of clock readings."""
        offset = self._clock.wall() - self._clock.monotonic()
        return [
            Phase(phase.name, phase.began_at + offset, phase.ended_at + offset, phase.attributes)
            for phase in found
        ]


def phases(live: RunningSequence, *, ended_at: float) -> Iterator[Phase]:
    """Yield what a sequence went through until this clock reading, in order; what did not happen is not there."""
    sequence, cache, base = live.sequence, live.sequence.cache, _identity(live)
    restore_at, admitted_at, decode_at = live.restore_began_at, live.admitted_at, live.decode_began_at
    queued_until = restore_at if restore_at is not None else admitted_at
    yield Phase("queue", live.submitted_at, ended_at if queued_until is None else queued_until, base)
    if restore_at is not None:
        restored_at = admitted_at if admitted_at is not None else ended_at
        attributes: dict[str, Attribute] = {
            **base,
            "semanticd.tokens.restored_warm": cache.restored_warm_tokens,
        }
        yield Phase("restore", restore_at, restored_at, attributes)
    if admitted_at is not None and live.prefill_s:
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


def _identity(live: RunningSequence) -> dict[str, Attribute]:
    submission = live.submission
    return {
        "semanticd.request_id": submission.request_id,
        "semanticd.agent": submission.agent_id,
        "semanticd.model": submission.model_id,
        "semanticd.choice": submission.choice,
    }
