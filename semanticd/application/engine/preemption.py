"""Preemption: the order in which blocks and sequences give way to running sequences; engine thread only.

First blocks that no sequence uses: those on disk, then, after a pause of at most `max_stall_s`, those that wait for it.
Then the youngest sequence, whose blocks are published before so that it resumes. For one that is alone pinned blocks
leave too, sequences whose blocks are being read release what they were promised, and a long text that is being
embedded begins again later: none of them costs an answer its end. One that outgrows the budget all the same has its
answer ended there: nothing else would ever make room.
"""

from __future__ import annotations

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.completion import RUNNING_STATES, Completion
from semanticd.application.engine.embedding import Embedding
from semanticd.application.engine.output_processor import OutputProcessor
from semanticd.application.engine.room import Room
from semanticd.application.engine.running_sequence import Running
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.sequence import Sequence, SequenceState


class Preemption:
    """Keeps the running sequences within the budget."""

    def __init__(
        self,
        *,
        running: Running,
        store: AgentCacheStore,
        scheduler: Scheduler,
        room: Room,
        completion: Completion,
        output: OutputProcessor,
        embedding: Embedding,
    ) -> None:
        """Look after the `running` sequences, which are read at every call."""
        self._running = running
        self._store = store
        self._scheduler = scheduler
        self._room = room
        self._completion = completion
        self._output = output
        self._embedding = embedding
        self.waits_for_disk = False
        """Whether running requests would outgrow the budget unless the disk writes blocks first."""

    def keep_within_budget(self) -> None:
        """Evict, preempt or cut short until what runs, and is about to grow, fits; or the disk will make it fit."""
        self._room.measure()
        self.waits_for_disk = self._must_wait_to_fit()
        if not self.waits_for_disk:
            self._room.end_pause()

    def _must_wait_to_fit(self) -> bool:
        while not self._room.make_due(over_pins=self._goes_over_pins()):
            over_pins = self._goes_over_pins()
            if self._store.could_free(over_pins=over_pins) >= self._room.due_bytes:
                overdrawn = self._room.due_bytes - self._store.free_bytes
                if overdrawn <= self._slack():
                    return False
                if self._room.may_pause():
                    return True
                if self._room.make_due(over_pins=over_pins):
                    return False
            running = [s for s in self._scheduler.sequences() if s.state in RUNNING_STATES]
            oldest = min(running, key=lambda s: s.arrived_at, default=None)
            if oldest is None:
                return False
            victim = self._scheduler.preemption_victim(sparing=oldest.sequence_id)
            if victim is None:
                if self._completion.take_back_waiting() or self._embedding.give_way():
                    continue
                if self._outgrew(oldest):
                    self._output.cut_short(self._running[oldest.sequence_id], self._store.ledger())
                    self._room.measure()
                # All blocks handed to the writer may be written by now: hand over more.
                return self._room.due_bytes > 0 and bool(self._store.num_writing or self._store.persist())
            self._completion.preempt(self._running[victim.sequence_id])
            self._room.measure()
        return False

    def _goes_over_pins(self) -> bool:
        """Return whether pinned blocks may be evicted: only if the sequence is alone and no other can make room."""
        return self._store.has_pins and self._scheduler.num_running == 1

    def _slack(self) -> int:
        """Bytes by which the budget may be overdrawn while the disk catches up: a block for each running sequence."""
        return sum(
            running.spec.stored_bytes(running.spec.block_tokens)
            for running in self._running.values()
            if running.sequence.state in RUNNING_STATES
        )

    def _outgrew(self, sequence: Sequence) -> bool:
        """Return whether the answer outgrows the budget, not counting blocks that pins keep hot."""
        if sequence.state is not SequenceState.DECODING:
            return False
        ledger = self._store.ledger()
        return ledger.running_bytes + self._room.due_bytes > ledger.budget_bytes
