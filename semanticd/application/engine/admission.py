"""Admission: from a waiting sequence to a running one, by way of the cache.

```
match ──> hot blocks: locked            ──┐
     └──> warm blocks: Restore          ──┴──> room? ──> running cache assembled ──> prefilling
                                                              └──> blocks beyond the budget: StreamingRestore
```
All that a sequence locks, reads or is promised belongs to its reservation.
"""

from __future__ import annotations

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.file_lookup import FileLookup
from semanticd.application.engine.peer_lookup import PeerLookup
from semanticd.application.engine.prefix_matching import PrefixMatching
from semanticd.application.engine.promotion import Promotion
from semanticd.application.engine.queue import EngineQueue
from semanticd.application.engine.restore import READ_DEADLINE_S, Restore
from semanticd.application.engine.room import Room, disk_does_not_respond
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.engine.streaming_restore import StreamingRestore
from semanticd.application.engine.telemetry import EngineTelemetry
from semanticd.domain.block import Block
from semanticd.domain.ids import SequenceId
from semanticd.domain.prefix_index import MatchedBlock
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.sequence import SequenceEvent
from semanticd.domain.snapshots import Snapshot


class Admission:
    """Starts sequences; engine thread only."""

    def __init__(
        self,
        *,
        store: AgentCacheStore,
        agents: AgentRegistry,
        scheduler: Scheduler,
        queue: EngineQueue,
        room: Room,
        promotion: Promotion,
        telemetry: EngineTelemetry,
    ) -> None:
        """Take blocks from this store and its peers; reads that end come back through `queue`."""
        self._room = room
        self._promotion = promotion
        self._store = store
        self._agents = agents
        self._scheduler = scheduler
        self._clock = telemetry.clock
        self._files = FileLookup(
            store=store, agents=agents, scheduler=scheduler, queue=queue, clock=telemetry.clock
        )
        self._lookup = PeerLookup(store=store, scheduler=scheduler, queue=queue, clock=telemetry.clock)
        self._matching = PrefixMatching(
            store=store, agents=agents, scheduler=scheduler, lookup=self._lookup, promotion=promotion
        )
        self._restore = Restore(
            store=store, scheduler=scheduler, queue=queue, matching=self._matching, telemetry=telemetry
        )
        self._streaming = StreamingRestore(
            store=store, scheduler=scheduler, queue=queue, clock=telemetry.clock
        )

    def take(self, running: RunningSequence) -> None:
        """Record the known facts of a sequence as soon as it is taken."""
        self._matching.note_fit(running)

    def try_start(self, running: RunningSequence) -> None:
        """Match, and either ask peers, begin to restore, start, or mark the sequence as not fitting now.

        Raises:
            RequestTooLargeError: It can never fit the budget.
            OverloadedError: It does not fit as long as the disk takes no blocks, or as the budget is lowered.
        """
        cold: list[Block] = []
        if not running.restored:
            running.reservation = self._store.reserve()
            if self._files.ask(running) or self._lookup.ask(running):
                return
            cold = self._matching.find(running)
            # Finding may itself have shown that the index is damaged.
            if self._files.ask(running):
                return
        elif not all(self._store.is_hot(block.block_hash) for block in running.match.all_blocks):
            running.match = self._matching.hot_part(running)
        running.reservation.use(running.reservation.promised_bytes)
        self._lock_match(running)
        copied = [b for b in running.match.all_blocks if self._promotion.has(b.block_hash)]
        cold = [block for block in cold if not self._promotion.has(block.block_hash)]
        needed = self._bytes_needed(running) + sum(block.num_bytes for block in (*cold, *copied))
        # Pins make way for what runs alone: it was seen to fit, and no other sequence makes room by ending.
        if not self._room.make(needed, over_pins=not self._scheduler.others_run(running.sequence_id)):
            # Others may need what it locked in order to end; it is matched again when there is room.
            self._restore.give_up(running)
            if self._store.disk_stalled and not self._scheduler.others_run(running.sequence_id):
                raise disk_does_not_respond()
            if not self._restore.give_up_ready():
                self._scheduler.block(running.sequence_id)
            return
        cold = self._brought(running, copied) + cold
        if cold:
            self._restore.begin(running, cold)
        else:
            self._start(running)

    def _lock_match(self, running: RunningSequence) -> None:
        """Lock what is hot of the match: room for the rest must not come from it."""
        locked = set(running.reservation.locked_blocks)
        names = [block.block_hash for block in running.match.all_blocks]
        running.reservation.lock_blocks(
            name for name in names if name not in locked and self._store.is_hot(name)
        )

    def _brought(self, running: RunningSequence, blocks: list[Block]) -> list[Block]:
        """Copy blocks out of running caches; returns those that are to be read all the same."""
        self._promotion.bring(blocks)
        running.reservation.lock_blocks(b.block_hash for b in blocks if self._store.is_hot(b.block_hash))
        return [block for block in blocks if not self._store.is_hot(block.block_hash)]

    def _bytes_needed(self, running: RunningSequence) -> int:
        """Bytes the running cache and the new blocks of this sequence will take.

        A sequence that runs alone may start without room for its blocks: they make room for one another. Padding is
        decided on when it joins a decode batch, see `decode_groups`.
        """
        own = running.bytes_alone
        if not self._scheduler.others_run(running.sequence_id):
            return own
        return own + running.spec.stored_bytes(running.sequence.num_tokens - running.match.num_tokens)

    def _start(self, running: RunningSequence) -> None:
        sequence, match = running.sequence, running.match
        running.runner.open(
            running.sequence_id,
            prefix=self._store.prefix_parts(match),
            state=self._store.payload(match.state.block_hash) if match.state else None,
            capacity_tokens=sequence.num_tokens + 1,
        )
        # The reused blocks are in its running cache now.
        running.reservation.end()
        running.reservation = self._store.reserve()
        self._restore.forget(running.sequence_id)
        running.admitted_at = running.admitted_at or self._clock.monotonic()
        sequence.num_cached = match.num_tokens
        if match.state is None:
            whole = [m for m in match.blocks if m.whole]
        else:
            whole = self._take_snapshot(running, match.state)
            # The agent that took it may give it up while this sequence, which will name it, runs.
            for one in sequence.snapshots.values():
                for name in one.names:
                    self._agents.note_block(sequence.agent_id, name)
        sequence.num_published = sum(m.num_tokens for m in whole)
        sequence.block_table = [m.block.block_hash for m in whole]
        sequence.apply(SequenceEvent.ADMITTED)
        beyond, running.beyond = running.beyond, ()
        if beyond and self._matching.is_worth_reading(running, [m.block for m in beyond]):
            running.restore_began_at = running.restore_began_at or self._clock.monotonic()
            self._streaming.begin(running, beyond)
        self._store.touch(sequence.full_table)

    @staticmethod
    def _take_snapshot(running: RunningSequence, state: Block) -> list[MatchedBlock]:
        """Note the snapshot that the sequence continues from; returns the full blocks before it.

        Tokens between block boundaries are published again when their block is full: other prompts match full blocks.
        """
        sequence, blocks, size = running.sequence, running.match.blocks, running.spec.block_tokens
        full = []
        for matched in blocks:
            if matched.num_tokens != size or not matched.whole:
                break
            full.append(matched)
        tail = blocks[len(full) :]
        if len(tail) <= 1:
            sequence.snapshots[sequence.num_cached] = Snapshot(
                sequence.num_cached,
                state.block_hash,
                tail[0].block.block_hash if tail else None,
                state.num_bytes + sum(m.block.num_bytes for m in tail),
                at_boundary=sequence.num_cached in running.submission.snapshot_points,
            )
        return full

    def give_way(self) -> bool:
        """Take back what sequences hold that have not started; False when there are none."""
        return self._restore.give_way()

    def check_deadlines(self) -> None:
        """Stop waiting for blocks and answers that do not come."""
        if not any(part.is_busy for part in (self._restore, self._streaming, self._files, self._lookup)):
            return
        now = self._clock.monotonic()
        self._files.check_deadlines(now)
        self._lookup.check_deadlines(now)
        self._restore.check_deadlines(now)
        self._streaming.check_deadlines(now, READ_DEADLINE_S)

    def forget(self, sequence_id: SequenceId) -> None:
        """Drop the records of an ended or preempted sequence; its reservation ends by itself."""
        self._restore.forget(sequence_id)
        self._streaming.forget(sequence_id)
        self._files.forget(sequence_id)
        self._lookup.forget(sequence_id)
