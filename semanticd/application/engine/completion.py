"""Completion: all ways in which sequences end; engine thread only.

A sequence ends once, step by step: what it computed is kept, what it holds is released, its client gets one last
update. A step that fails is logged and the next one is taken all the same.
"""

from __future__ import annotations

from collections.abc import Callable

from semanticd.application.engine.admission import Admission
from semanticd.application.engine.block_commit import BlockCommit
from semanticd.application.engine.promotion import Promotion
from semanticd.application.engine.queue import EngineQueue
from semanticd.application.engine.running_sequence import (
    Running,
    RunningSequence,
    SequenceEnded,
    SequenceFailed,
    Submission,
)
from semanticd.application.engine.telemetry import EngineTelemetry
from semanticd.domain.errors import CancelledByCallerError, EngineError, SemanticError
from semanticd.domain.generation import FinishReason
from semanticd.domain.ids import RequestId
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.sequence import SequenceEvent, SequenceState

RUNNING_STATES = (SequenceState.PREFILLING, SequenceState.DECODING)


class Completion:
    """Ends sequences."""

    def __init__(
        self,
        *,
        running: Running,
        queue: EngineQueue,
        scheduler: Scheduler,
        admission: Admission,
        commit: BlockCommit,
        promotion: Promotion,
        telemetry: EngineTelemetry,
    ) -> None:
        """Remove sequences from `running`, and give their places in the queue back."""
        self._running = running
        self._queue = queue
        self._scheduler = scheduler
        self._admission = admission
        self._commit = commit
        self._promotion = promotion
        self._clock = telemetry.clock
        self._metrics = telemetry.metrics
        self._trace = telemetry.trace
        self._log = telemetry.log

    def end(self, running: RunningSequence, reason: FinishReason) -> None:
        """Finish an answer that is complete."""
        if running.has_ended:
            return
        running.sequence.finish_reason = reason
        settled_from = self._clock.monotonic()
        # Committing comes first: a client that sees the end of a turn may ask for the next one at once.
        self._try(running, "unwritten_blocks_lost", lambda: self._promotion.keep_unwritten(running))
        self._try(running, "turn_not_kept", lambda: self._commit.finish(running, reason=reason))
        self._try(running, "blocks_not_brought_back", lambda: self._promotion.bring_back(running))
        usage = running.usage(self._clock.monotonic())
        self._retire(running)
        self._emit_last(running.submission, SequenceEnded(reason, usage, running.stop_sequence))
        self._metrics.answered(usage)
        self._trace.ended(running, settled_from=settled_from)

    def cancel(self, request_id: RequestId) -> None:
        """End the sequences of a request whose client disconnected; computed blocks are kept."""
        for running in [one for one in self._running.values() if one.submission.request_id == request_id]:
            running.sequence.finish_reason = FinishReason.CANCELLED
            cancelled = CancelledByCallerError(f"request {request_id} was cancelled")
            self._end_early(running, cancelled, keep=True)

    def fail(self, running: RunningSequence, error: Exception, *, keep: bool = False) -> None:
        """End a sequence with an error; with `keep`, its computed blocks stay cached. Harmless when it has ended."""
        if running.has_ended:
            return
        running.sequence.finish_reason = FinishReason.ERROR
        self._end_early(running, self._translate(running.submission, error), keep=keep)

    def fail_all(self, error: SemanticError, *, keep: bool = False) -> None:
        """End every sequence with this error."""
        for running in list(self._running.values()):
            self.fail(running, error, keep=keep)

    def preempt(self, running: RunningSequence, *, keep: bool = True) -> None:
        """Set a running sequence back to waiting; its computed blocks stay in the pool.

        Without `keep` only what was published before does: its running cache cannot be read.
        """
        sequence = running.sequence
        if keep:
            self._try(running, "unwritten_blocks_lost", lambda: self._promotion.keep_unwritten(running))
            self._try(running, "preempted_blocks_lost", lambda: self._commit.keep_unfinished(running))
        self._try(running, "copies_not_forgotten", lambda: self._promotion.leave(running.sequence_id))
        self._try(running, "running_cache_not_closed", lambda: running.runner.close(sequence.sequence_id))
        running.reservation.end()
        running.restored = frozenset()
        self._admission.forget(sequence.sequence_id)
        self._scheduler.release(sequence.sequence_id)
        running.is_torn = False
        sequence.apply(SequenceEvent.PREEMPTED)
        sequence.num_preemptions += 1
        sequence.num_cached = sequence.num_published = 0
        sequence.block_table = []
        sequence.snapshots = {}
        self._scheduler.block(sequence.sequence_id)
        self._metrics.preempted()

    def take_back_waiting(self) -> bool:
        """Take back what sequences hold that have not started; False when there are none."""
        return self._admission.give_way()

    def refuse(self, submission: Submission, error: Exception) -> None:
        """Answer a submission that never became a sequence."""
        self._queue.release_place(submission)
        self._emit_last(submission, SequenceFailed(self._translate(submission, error)))

    def _end_early(self, running: RunningSequence, error: SemanticError, *, keep: bool) -> None:
        if keep and running.sequence.state in RUNNING_STATES:
            self._try(running, "unwritten_blocks_lost", lambda: self._promotion.keep_unwritten(running))
            self._try(running, "cancelled_blocks_lost", lambda: self._commit.keep_unfinished(running))
            self._try(running, "blocks_not_brought_back", lambda: self._promotion.bring_back(running))
        if keep:
            self._try(running, "answer_not_remembered", lambda: self._commit.remember(running))
        self._metrics.ended_early(running)
        self._retire(running)
        self._emit_last(running.submission, SequenceFailed(error))
        self._trace.ended(running, settled_from=None)

    def _translate(self, submission: Submission, error: Exception) -> SemanticError:
        if isinstance(error, SemanticError):
            return error
        self._log.error("sequence_failed", request_id=submission.request_id, error=repr(error))
        return EngineError(f"computing request {submission.request_id} failed: {error}")

    def _emit_last(self, submission: Submission, update: SequenceEnded | SequenceFailed) -> None:
        try:
            submission.sink(update)
        except Exception as error:
            self._log.error("listener_failed", request_id=submission.request_id, error=repr(error))

    def _retire(self, running: RunningSequence) -> None:
        """Release everything that a sequence holds, each part even if releasing another failed."""
        sequence = running.sequence
        running.has_ended = True
        self._running.pop(running.sequence_id, None)
        self._try(running, "copies_not_forgotten", lambda: self._promotion.leave(running.sequence_id))
        self._try(running, "running_cache_not_closed", lambda: running.runner.close(running.sequence_id))
        self._try(running, "reservation_not_ended", running.reservation.end)
        self._admission.forget(running.sequence_id)
        self._try(running, "state_not_changed", lambda: sequence.apply(SequenceEvent.ENDED))
        self._try(running, "not_unscheduled", lambda: self._scheduler.remove(running.sequence_id))
        self._queue.release_place(running.submission)
        self._metrics.retired(sequence)

    def _try(self, running: RunningSequence, failure: str, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:
            self._log.error(failure, request_id=running.submission.request_id, error=repr(error))
