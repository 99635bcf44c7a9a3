"""Preemption: what gives way when running sequences outgrow the budget; engine thread only.

First blocks that nobody uses, then the youngest sequence, whose blocks are published before so that it resumes. One
that is alone and outgrows the budget all the same has its answer ended there: nothing else would ever make room.
"""

from __future__ import annotations

from collections.abc import Mapping

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.completion import RUNNING_STATES, Completion
from semanticd.application.engine.output_processor import OutputProcessor
from semanticd.application.engine.running_sequence import Running, RunningSequence
from semanticd.application.ports.inference import LoadedModel
from semanticd.application.ports.telemetry import Log
from semanticd.domain.ids import ModelId
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.sequence import Sequence, SequenceState


class Preemption:
    """Keeps the running sequences within the budget."""

    def __init__(
        self,
        *,
        running: Running,
        models: Mapping[ModelId, LoadedModel],
        store: AgentCacheStore,
        scheduler: Scheduler,
        completion: Completion,
        output: OutputProcessor,
        log: Log,
    ) -> None:
        """Look after the `running` sequences of the loaded `models`; both are read at every call."""
        self._running = running
        self._models = models
        self._store = store
        self._scheduler = scheduler
        self._completion = completion
        self._output = output
        self._log = log

    def measure(self) -> None:
        """Note in the ledger what the running caches take."""
        self._store.note_running(sum(model.runner.running_bytes() for model in self._models.values()))

    def keep_within_budget(self) -> None:
        """Evict, preempt or cut short until what runs fits, or the disk is about to make it fit."""
        self.measure()
        while self._store.overdrawn_bytes and not self._store.make_room(0):
            if self._store.could_free() >= 0 and self._store.overdrawn_bytes <= self._slack():
                return
            running = [s for s in self._scheduler.sequences() if s.state in RUNNING_STATES]
            oldest = min(running, key=lambda s: s.arrived_at, default=None)
            if oldest is None:
                return
            victim = self._scheduler.preemption_victim(sparing=oldest.sequence_id)
            if victim is not None:
                self._completion.preempt(self._running[victim.sequence_id])
                self.measure()
            else:
                if oldest.state is SequenceState.DECODING and self._outgrew(oldest):
                    self._cut_short(self._running[oldest.sequence_id])
                return

    def _slack(self) -> int:
        """Bytes by which the budget may be overdrawn while the disk catches up: a block for each running sequence."""
        return sum(
            running.spec.stored_bytes(running.spec.block_tokens)
            for running in self._running.values()
            if running.sequence.state in RUNNING_STATES
        )

    def _outgrew(self, sequence: Sequence) -> bool:
        """Whether its running cache alone is too large; blocks that its own pin keeps hot are no reason to end it."""
        ledger, own = self._store.ledger(), self._store.pinned_bytes_of(sequence.agent_id)
        return ledger.running_bytes + max(ledger.pinned_bytes - own, 0) > ledger.budget_bytes

    def _cut_short(self, running: RunningSequence) -> None:
        ledger = self._store.ledger()
        self._log.warning(
            "answer_cut_short",
            request_id=running.submission.request_id,
            num_tokens=running.sequence.num_tokens,
            running_bytes=ledger.running_bytes,
            pinned_bytes=ledger.pinned_bytes,
            budget_bytes=ledger.budget_bytes,
        )
        self._output.cut_short(running)
        self.measure()
