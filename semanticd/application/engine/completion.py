"""Completion: how sequences leave the engine, in whatever way they end; engine thread only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from semanticd.application.engine.block_commit import BlockCommit
from semanticd.application.engine.metrics import SequenceMetrics
from semanticd.application.engine.running_sequence import (
    RunningSequence,
    SequenceEnded,
    SequenceFailed,
    Submission,
)
from semanticd.application.engine.trace import SequenceTrace
from semanticd.application.ports.telemetry import Clock, Log
from semanticd.domain.errors import CancelledByCallerError, EngineError, SemanticError
from semanticd.domain.generation import FinishReason
from semanticd.domain.ids import RequestId, SequenceId
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.sequence import SequenceEvent, SequenceState

Running: TypeAlias = dict[SequenceId, RunningSequence]
"""The sequences in the engine, in order of arrival."""

RUNNING = (SequenceState.PREFILLING, SequenceState.DECODING)


class Completion:
    """Ends sequences: settles what they computed, frees what they hold, has the last word."""

    def __init__(
        self,
        *,
        roster: Running,
        scheduler: Scheduler,
        settlement: BlockCommit,
        leave: Callable[[Submission], None],
        clock: Clock,
        metrics: SequenceMetrics,
        trace: SequenceTrace,
        log: Log,
    ) -> None:
        """Take sequences off this roster; `leave` gives a submission's place in the queue back."""
        self._roster = roster
        self._scheduler = scheduler
        self._settlement = settlement
        self._leave = leave
        self._clock = clock
        self._metrics = metrics
        self._trace = trace
        self._log = log

    def end(self, live: RunningSequence, reason: FinishReason) -> None:
        """An answer is complete."""
        live.sequence.finish_reason = reason
        settled_from = self._clock.monotonic()
        # Settling and leaving come first: whoever was told that a turn ended may ask for the next one at once.
        self._settlement.finish(live, reason=reason)
        usage = live.usage(self._clock.monotonic())
        self._retire(live)
        self.tell(live.submission, SequenceEnded(reason, usage, live.stop_sequence))
        self._metrics.answered(usage)
        self._trace.ended(live, settled_from=settled_from)

    def cancel(self, request_id: RequestId) -> None:
        """The client left; what was computed is kept."""
        for live in [one for one in self._roster.values() if one.submission.request_id == request_id]:
            self.keep(live)
            live.sequence.finish_reason = FinishReason.CANCELLED
            self._retire(live)
            cancelled = CancelledByCallerError(f"request {request_id} was cancelled")
            self.tell(live.submission, SequenceFailed(cancelled))
            self._trace.ended(live, settled_from=None)

    def fail(self, live: RunningSequence, error: Exception) -> None:
        """One sequence broke; harmless when it is gone already."""
        if live.sequence.sequence_id not in self._roster:
            return
        if not isinstance(error, SemanticError):
            self._log.error("sequence_failed", request_id=live.submission.request_id, error=repr(error))
            error = EngineError(f"computing request {live.submission.request_id} failed: {error}")
        live.sequence.finish_reason = FinishReason.ERROR
        self._retire(live)
        self.tell(live.submission, SequenceFailed(error))
        self._trace.ended(live, settled_from=None)

    def fail_all(self, error: SemanticError) -> None:
        """The engine broke, or ends."""
        for live in list(self._roster.values()):
            self.fail(live, error)

    def keep(self, live: RunningSequence) -> None:
        """Publish what a sequence computed that ends early."""
        try:
            if live.sequence.state in RUNNING:
                self._settlement.leave(live)
        except Exception as error:
            self._log.warning(
                "cancelled_blocks_lost", request_id=live.submission.request_id, error=repr(error)
            )

    def tell(self, submission: Submission, update: SequenceEnded | SequenceFailed) -> None:
        """Hand over the last word; a listener that breaks harms nobody else."""
        try:
            submission.sink(update)
        except Exception as error:
            self._log.error("listener_failed", request_id=submission.request_id, error=repr(error))

    def _retire(self, live: RunningSequence) -> None:
        sequence = live.sequence
        try:
            live.model.runner.close(sequence.sequence_id)
        except Exception as error:
            self._log.error("running_cache_not_closed", sequence=sequence.sequence_id, error=repr(error))
        sequence.apply(SequenceEvent.ENDED)
        self._scheduler.remove(sequence.sequence_id)
        del self._roster[sequence.sequence_id]
        self._leave(live.submission)
        self._metrics.retired(sequence)
