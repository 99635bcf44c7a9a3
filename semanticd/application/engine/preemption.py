"""Preemption: what gives way when running sequences outgrow the budget; engine thread only.

First blocks that nobody uses, then the youngest sequence, whose blocks are published before so that it resumes. One
that is alone and outgrows the budget all the same has its answer ended there: nothing else would ever make room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.block_commit import BlockCommit
from semanticd.application.engine.completion import RUNNING, Running
from semanticd.application.engine.metrics import SequenceMetrics
from semanticd.application.engine.output_processor import OutputProcessor
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.ports.inference import ModelRunner
from semanticd.application.ports.telemetry import Log
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.sequence import Sequence, SequenceEvent, SequenceState


class Preemption:
    """Keeps the running sequences within the budget."""

    def __init__(
        self,
        *,
        roster: Running,
        store: AgentCacheStore,
        scheduler: Scheduler,
        settlement: BlockCommit,
        delivery: OutputProcessor,
        runners: Callable[[], Iterable[ModelRunner]],
        metrics: SequenceMetrics,
        log: Log,
    ) -> None:
        """Look after the sequences on this roster; `runners` returns those of all loaded models."""
        self._roster = roster
        self._store = store
        self._scheduler = scheduler
        self._settlement = settlement
        self._delivery = delivery
        self._runners = runners
        self._metrics = metrics
        self._log = log

    def measure(self) -> None:
        """Note in the ledger what the running caches take."""
        self._store.pool.running_bytes = sum(runner.running_bytes() for runner in self._runners())

    def keep_within_budget(self) -> None:
        """Evict, preempt or cut short until what runs fits, or the disk is about to make it fit."""
        self.measure()
        while self._store.pool.free_bytes < 0 and not self._store.make_room(0):
            if self._store.could_free() >= 0:
                return
            running = [s for s in self._scheduler.sequences() if s.state in RUNNING]
            oldest = min(running, key=lambda s: s.arrived_at, default=None)
            if oldest is None:
                return
            victim = self._scheduler.preemption_victim(sparing=oldest.sequence_id)
            if victim is not None:
                self.preempt(self._roster[victim.sequence_id])
            else:
                if oldest.state is SequenceState.DECODING and self._outgrew(oldest):
                    self._cut_short(self._roster[oldest.sequence_id])
                return

    def preempt(self, live: RunningSequence) -> None:
        """Set a running sequence back to waiting; what it computed stays in the pool."""
        sequence = live.sequence
        self._settlement.leave(live)
        live.model.runner.close(sequence.sequence_id)
        sequence.apply(SequenceEvent.PREEMPTED)
        sequence.num_preemptions += 1
        sequence.num_cached = sequence.num_published = 0
        sequence.block_table = []
        sequence.snapshots = {}
        self._scheduler.block(sequence.sequence_id)
        self._metrics.preempted()
        self.measure()

    def _outgrew(self, sequence: Sequence) -> bool:
        """Whether its running cache alone is too large; blocks that its own pin keeps hot are no reason to end it."""
        pool, ledger = self._store.pool, self._store.ledger()
        own = pool.agent_bytes(sequence.agent_id) if pool.is_pinned_agent(sequence.agent_id) else 0
        return ledger.running_bytes + max(ledger.pinned_bytes - own, 0) > ledger.budget_bytes

    def _cut_short(self, live: RunningSequence) -> None:
        ledger = self._store.ledger()
        self._log.warning(
            "answer_cut_short",
            request_id=live.submission.request_id,
            num_tokens=live.sequence.num_tokens,
            running_bytes=ledger.running_bytes,
            pinned_bytes=ledger.pinned_bytes,
            budget_bytes=ledger.budget_bytes,
        )
        self._delivery.cut_short(live)
        self.measure()
