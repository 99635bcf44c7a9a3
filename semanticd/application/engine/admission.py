"""Admission: from a waiting sequence to a running one, by way of the cache.

```
match ──> hot blocks: locked            ──┐
     └──> warm blocks: read (I/O pool) ──> promoted ──> room? ──> running cache assembled ──> prefilling
                                                                        └──> blocks beyond the budget (StreamingRestore)
```
While blocks are read the sequence waits without a place in the batch, and the engine works for others. What cannot be
read, or is not read in time, is computed. All that a sequence locks, reads or is promised belongs to its reservation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.peer_lookup import PeerLookup
from semanticd.application.engine.queue import EngineQueue
from semanticd.application.engine.room import Room
from semanticd.application.engine.running_sequence import RunningSequence, SequenceStarted
from semanticd.application.engine.streaming_restore import StreamingRestore
from semanticd.application.engine.telemetry import EngineTelemetry
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.agent import Agent
from semanticd.domain.block import Block, LostFile
from semanticd.domain.decode_groups import GROWTH_TOKENS
from semanticd.domain.errors import OverloadedError, RequestTooLargeError
from semanticd.domain.generation import CacheReport
from semanticd.domain.ids import BlockHash, SequenceId
from semanticd.domain.miss import explain_miss
from semanticd.domain.prefix_index import MatchedBlock, PrefixMatch
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.sequence import SequenceEvent, SequenceState
from semanticd.domain.snapshots import Snapshot

READ_WINDOW = 8
"""Blocks of one sequence that are read at the same time."""
READ_DEADLINE_S = 10.0
"""How long a sequence waits for the next block before what is missing is computed."""
MAX_REMATCHES = 8
"""Damaged blocks after each of which an earlier snapshot is looked for on the disk."""
_MEMORY_RETRY_S = 60.0
_SLOW_DISK_DECAY = 0.8
"""Share of the slow-disk penalty that is left after each time it decided."""


@dataclass(slots=True)
class _Restoring:
    """Blocks on their way from the disk for one sequence."""

    running: RunningSequence
    to_read: deque[BlockHash]
    progress_at: float
    """When the last block arrived (clock reading)."""
    give_up_at: float
    """When computing what is missing would have been quicker (clock reading)."""
    reading: set[BlockHash] = field(default_factory=set)
    restored: list[BlockHash] = field(default_factory=list)
    """What has been brought into the pool so far."""
    records: dict[BlockHash, BlockRecord] = field(default_factory=dict)
    """What was read and waits for the blocks before it; let go once it was copied."""
    num_bytes: int = 0


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
        telemetry: EngineTelemetry,
    ) -> None:
        """Take blocks from this store and its peers; reads that end come back through `queue`."""
        self._room = room
        self._store = store
        self._agents = agents
        self._scheduler = scheduler
        self._queue = queue
        self._clock = telemetry.clock
        self._metrics = telemetry.metrics
        self._log = telemetry.log
        self._restoring: dict[SequenceId, _Restoring] = {}
        self._ready: dict[SequenceId, RunningSequence] = {}
        """Restored sequences that wait for a place in the batch."""
        self._streaming = StreamingRestore(
            store=store, scheduler=scheduler, queue=queue, clock=telemetry.clock
        )
        self._lookup = PeerLookup(store=store, scheduler=scheduler, queue=queue, clock=telemetry.clock)

    def try_start(self, running: RunningSequence) -> None:
        """Match, and either ask peers, begin to restore, start, or mark the sequence as not fitting now.

        Raises:
            RequestTooLargeError: It can never fit the budget.
            OverloadedError: It does not fit as long as the disk takes no blocks, or as the budget is lowered.
        """
        cold: list[Block] = []
        if not running.restored:
            running.reservation = self._store.reserve()
            if self._lookup.ask(running):
                return
            cold = self._find(running)
        elif not all(self._store.is_hot(block.block_hash) for block in _blocks(running.match)):
            running.match = self._hot_part(running)
        running.reservation.use(running.reservation.promised_bytes)
        if not running.restored:
            running.reservation.lock_blocks(
                b.block_hash for b in _blocks(running.match) if self._store.is_hot(b.block_hash)
            )
        needed = self._bytes_needed(running) + sum(block.num_bytes for block in cold)
        if not self._room.make(needed):
            # Others may need what it locked in order to end; it is matched anew when there is room.
            self._give_up_room(running)
            if self._store.disk_stalled and not self._others_run(running):
                raise OverloadedError(
                    "the cache's disk does not answer, and blocks that wait for it fill the memory; check the disk "
                    "(`semanticd doctor`)",
                    retry_after_s=10.0,
                )
            if not self._release_ready():
                self._scheduler.block(running.sequence_id)
        elif cold:
            self._restore(running, cold)
        else:
            self._start(running)

    def _find(self, running: RunningSequence) -> list[Block]:
        """Match the prompt; returns the blocks of the match that are to be read."""
        token_ids = running.sequence.token_ids
        limit = 0 if running.submission.score_prompt else len(token_ids) - 1
        running.match = self._store.match(
            running.spec,
            token_ids,
            limit=limit,
            root=running.submission.root,
            chain=running.sequence.chain,
            offered=running.offered,
        )
        running.from_peers = self._from_peers(running)
        running.beyond = ()
        self._refuse_what_never_fits(running)
        if not self._others_run(running):
            # No other sequence will make room by ending: what leaves none for the running cache is read into it later.
            running.match, running.beyond = self._fitting_part(running)
        if not self._lookup.is_worth(running, self._compute_s(running, running.from_peers.values())):
            running.offered = None
            return self._find(running)
        cold = [b for b in _blocks(running.match) if not self._store.is_hot(b.block_hash)]
        if cold and (running.disk_failed or not self._worth_restoring(running, cold)):
            running.match = self._hot_part(running)
            running.beyond = ()
            cold = []
        return cold

    @staticmethod
    def _from_peers(running: RunningSequence) -> dict[BlockHash, Block]:
        """Return the blocks of a match that were found at peers only: hot and warm ones are other objects."""
        offered = running.offered
        if not offered:
            return {}
        return {
            block.block_hash: block
            for block in _blocks(running.match)
            if offered.by_name.get(block.block_hash) is block
        }

    def _compute_s(self, running: RunningSequence, blocks: Iterable[Block]) -> float:
        """Return how long computing these blocks' tokens takes, by what was measured (seconds); inf: not known."""
        rate = self._scheduler.prefill_rate(running.sequence.model_id)
        return sum(block.num_tokens for block in blocks) / rate if rate else math.inf

    def _give_up_room(self, running: RunningSequence) -> None:
        running.reservation.end()
        running.restored = frozenset()
        running.sequence.num_published = 0
        self._ready.pop(running.sequence_id, None)

    def _release_ready(self) -> bool:
        """Take back what restored sequences hold that wait for a place in the batch; False when there are none."""
        ready = list(self._ready.values())
        for running in ready:
            self._give_up_room(running)
        return bool(ready)

    # Bytes.

    def _others_run(self, running: RunningSequence) -> bool:
        """Whether another sequence runs or is being restored."""
        return any(
            other is not running.sequence
            and (other.state is not SequenceState.WAITING or self._scheduler.is_held(other.sequence_id))
            for other in self._scheduler.sequences()
        )

    def _bytes_alone(self, running: RunningSequence) -> int:
        """Bytes of the running cache if no other sequence is in the batch."""
        spec = running.spec
        length = -(-(running.sequence.num_tokens + 1) // GROWTH_TOKENS) * GROWTH_TOKENS
        return length * spec.running_bytes_per_token + spec.state_bytes

    def _bytes_needed(self, running: RunningSequence) -> int:
        """Bytes the running cache and the new blocks of this sequence will take.

        A sequence that runs alone may start without room for its blocks: they make room for one another. Padding is
        decided on when it joins a decode batch, see `decode_groups`.
        """
        own = self._bytes_alone(running)
        if not self._others_run(running):
            return own
        return own + running.spec.stored_bytes(running.sequence.num_tokens - running.match.num_tokens)

    def _fitting_part(self, running: RunningSequence) -> tuple[PrefixMatch, tuple[MatchedBlock, ...]]:
        """Cut the match where its blocks leave no room for the running cache: what fits, and what follows."""
        match = running.match
        ledger = self._store.ledger()
        room = ledger.budget_bytes - ledger.pinned_bytes - self._bytes_alone(running)
        blocks = []
        for matched in match.blocks:
            # What is pinned and hot was taken off already; a pinned agent's block on disk needs room like any other.
            name = matched.block.block_hash
            if not self._store.is_pinned_block(name):
                room -= matched.block.num_bytes
            if room < 0:
                break
            blocks.append(matched)
        if len(blocks) == len(match.blocks) and (match.state is None or match.state.num_bytes <= room):
            return match, ()
        if match.state is not None:
            # A snapshot belongs to the whole match.
            return PrefixMatch((), None, match.diverged), ()
        return PrefixMatch(tuple(blocks), None, match.diverged), match.blocks[len(blocks) :]

    def _refuse_what_never_fits(self, running: RunningSequence) -> None:
        ledger = self._store.ledger()
        alone = self._bytes_alone(running)
        available = ledger.budget_bytes - ledger.pinned_bytes
        if alone > available and alone <= self._store.planned_bytes - ledger.pinned_bytes:
            raise OverloadedError(
                f"this prompt of {running.sequence.num_tokens} tokens needs {alone / 2**20:.0f} MiB of KV cache, and "
                f"memory is short: the budget was lowered to {ledger.budget_bytes / 2**20:.0f} MiB for now; close "
                "other programs or try again in a minute",
                retry_after_s=_MEMORY_RETRY_S,
            )
        if alone > available:
            raise RequestTooLargeError(
                f"this prompt of {running.sequence.num_tokens} tokens needs {alone / 2**20:.0f} MiB of KV cache, but "
                f"the budget leaves {available / 2**20:.0f} MiB of {ledger.budget_bytes / 2**20:.0f} MiB "
                f"({ledger.pinned_bytes / 2**20:.0f} MiB are pinned); raise SEMANTIC_MLX_CACHE_BUDGET_MB, unpin "
                "agents or shorten the prompt",
                param="messages",
            )

    def _worth_restoring(self, running: RunningSequence, cold: list[Block]) -> bool:
        """Whether reading these blocks beats computing their tokens, by what was measured so far."""
        counters = self._store.counters
        rate = self._scheduler.prefill_rate(running.sequence.model_id)
        cold = [block for block in cold if block.block_hash not in running.from_peers]
        if not rate or not counters.restored_bytes:
            return True
        restore_s = sum(block.num_bytes for block in cold) * counters.restore_s / counters.restored_bytes
        worth = restore_s <= sum(block.num_tokens for block in cold) / rate
        if not worth:
            # One slow moment of the disk must not be held against it for ever.
            counters.restore_s *= _SLOW_DISK_DECAY
        return worth

    # Restoring.

    def _restore(self, running: RunningSequence, cold: list[Block]) -> None:
        self._scheduler.hold(running.sequence_id)
        now = self._clock.monotonic()
        running.restore_began_at = now
        # Sequences that share more than this with it wait until it is computed, but none waits for the reading.
        running.sequence.num_published = running.match.num_tokens
        running.reservation.promise(sum(block.num_bytes for block in cold) + self._bytes_alone(running))
        rate = self._scheduler.prefill_rate(running.sequence.model_id)
        compute_s = sum(block.num_tokens for block in cold) / rate if rate else 0.0
        restoring = _Restoring(
            running,
            deque(block.block_hash for block in cold),
            progress_at=now,
            # Those that wait for what follows must not wait for a disk that is slower than computing.
            give_up_at=now + max(compute_s, READ_DEADLINE_S) if rate else math.inf,
        )
        self._restoring[running.sequence_id] = restoring
        running.pending_reads = len(cold)
        self._read_more(restoring)

    def _read_more(self, restoring: _Restoring) -> None:
        while restoring.to_read and len(restoring.reading) < READ_WINDOW:
            name = restoring.to_read.popleft()
            restoring.reading.add(name)
            read = self._store.read(name)
            restoring.running.reservation.add_read(read)
            read.add_done_callback(partial(self._read_ended, restoring, name))

    def _read_ended(self, restoring: _Restoring, name: BlockHash, done: Future[BlockRecord | None]) -> None:
        # On the reader's thread: the engine may be busy for a while, which says nothing about the disk.
        if done.cancelled():
            return
        now = self._clock.monotonic()
        self._queue.post(
            lambda: self._take_block(restoring, name, done.result(), now),
            sequence_id=restoring.running.sequence_id,
        )

    def _take_block(
        self, restoring: _Restoring, name: BlockHash, record: BlockRecord | None, read_at: float
    ) -> None:
        running = restoring.running
        if self._restoring.get(running.sequence_id) is not restoring:
            return  # It ended, or no longer waits for the disk.
        restoring.reading.discard(name)
        running.pending_reads -= 1
        if record is None:
            # Where one block is missing or damaged, more may be; what follows is computed and must be written again.
            self._store.verify_soon(
                other for other in (*restoring.reading, *restoring.to_read) if other not in running.from_peers
            )
            self._note_peer_failed(running, name)
            if running.match.state is not None and running.num_rematched < MAX_REMATCHES:
                self._match_anew(restoring, read_until=read_at)
            else:
                self._end_restoring(restoring, read_until=read_at)
            return
        restoring.records[record.block.block_hash] = record
        restoring.num_bytes += record.block.num_bytes
        restoring.progress_at = max(restoring.progress_at, read_at)
        # While the disk reads the next block, this one is copied.
        fits = self._bring_match(restoring)
        if not fits or not (restoring.to_read or restoring.reading):
            self._end_restoring(restoring, read_until=restoring.progress_at)
        else:
            self._read_more(restoring)

    @staticmethod
    def _note_peer_failed(running: RunningSequence, name: BlockHash) -> None:
        """Take nothing more from peers for this sequence where one did not bring this block."""
        if name in running.from_peers:
            running.peer_failed = True
            running.offered = None

    def _bring_match(self, restoring: _Restoring) -> bool:
        """Bring what was read into the pool, in order, up to the first block that is not there yet.

        Returns False when a block that was read did not fit: what follows it is of no use.
        """
        for block in _blocks(restoring.running.match):
            name = block.block_hash
            if self._store.is_hot(name):
                if name in restoring.records:  # Another sequence brought it meanwhile.
                    del restoring.records[name]
                    restoring.running.reservation.lock_blocks([name])
                    restoring.restored.append(name)
                continue
            record = restoring.records.pop(name, None)
            if record is None:
                return True
            restoring.running.reservation.use(block.num_bytes)
            if not self._store.promote(record):
                return False
            # Locked at once: making room for the next block must not take this one away.
            restoring.running.reservation.lock_blocks([name])
            restoring.restored.append(name)
        return True

    def _match_anew(self, restoring: _Restoring, *, read_until: float) -> None:
        """Look for an earlier snapshot: a snapshot is of no use without each block before it."""
        running = restoring.running
        self._note_restored(restoring, read_until=read_until)
        running.num_rematched += 1
        running.read_before |= frozenset(restoring.restored)
        self._give_up_room(running)
        self._scheduler.release(running.sequence_id)

    def _note_restored(self, restoring: _Restoring, *, read_until: float) -> None:
        running = restoring.running
        del self._restoring[running.sequence_id]
        running.pending_reads = 0
        if restoring.num_bytes and running.restore_began_at is not None and not running.from_peers:
            counters = self._store.counters
            counters.restore_s += read_until - running.restore_began_at
            counters.restored_bytes += restoring.num_bytes
        running.restore_s += self._clock.monotonic() - (running.restore_began_at or 0.0)

    def _end_restoring(self, restoring: _Restoring, *, read_until: float) -> None:
        """Go on with what is hot by now: the sequence waits for its place in the batch."""
        running = restoring.running
        self._note_restored(restoring, read_until=read_until)
        wanted, running.match = running.match, self._hot_part(running)
        if running.match is not wanted:
            running.beyond = ()
        running.restored = frozenset(restoring.restored)
        if running.restored:
            self._ready[running.sequence_id] = running
        else:
            # Nothing to keep: it is matched anew, and nothing is read for it a second time.
            self._give_up_room(running)
            running.disk_failed = True
        self._scheduler.release(running.sequence_id)

    def check_deadlines(self) -> None:
        """Stop waiting for blocks that do not come; what they hold is computed."""
        if not self.is_restoring:
            return
        now = self._clock.monotonic()
        self._lookup.check_deadlines(now)
        for restoring in list(self._restoring.values()):
            if now >= min(restoring.progress_at + READ_DEADLINE_S, restoring.give_up_at):
                self._log.warning(
                    "restore_timed_out",
                    request_id=restoring.running.submission.request_id,
                    num_blocks_missing=len(restoring.to_read) + len(restoring.reading),
                    waited_s=now - restoring.progress_at,
                )
                self._metrics.restore_timed_out()
                restoring.running.disk_failed = True
                for name in (*restoring.reading, *restoring.to_read):
                    self._note_peer_failed(restoring.running, name)
                self._end_restoring(restoring, read_until=now)
        self._streaming.check_deadlines(now, READ_DEADLINE_S)

    @property
    def is_restoring(self) -> bool:
        """Whether a sequence waits for the disk, or for peers."""
        return bool(self._restoring) or self._streaming.is_busy or self._lookup.is_busy

    def forget(self, sequence_id: SequenceId) -> None:
        """Drop what is noted of a sequence that ended or was preempted; its reservation ends by itself."""
        self._restoring.pop(sequence_id, None)
        self._ready.pop(sequence_id, None)
        self._streaming.forget(sequence_id)
        self._lookup.forget(sequence_id)

    def _hot_part(self, running: RunningSequence) -> PrefixMatch:
        """Return the part of a sequence's match that is hot; the match itself when all of it is."""
        match = running.match
        if all(self._store.is_hot(block.block_hash) for block in _blocks(match)):
            return match
        if match.state is not None:
            token_ids, root = running.sequence.token_ids, running.submission.root
            found = self._store.match(
                running.spec, token_ids, limit=match.num_tokens, root=root, hot_only=True
            )
            # It may be another snapshot than the one whose blocks are locked.
            running.reservation.lock_blocks(block.block_hash for block in _blocks(found))
            return found
        blocks = []
        for matched in match.blocks:
            if not self._store.is_hot(matched.block.block_hash):
                break
            blocks.append(matched)
        return PrefixMatch(tuple(blocks), None, match.diverged)

    # Starting.

    def _start(self, running: RunningSequence) -> None:
        sequence, match = running.sequence, running.match
        running.runner.open(
            running.sequence_id,
            prefix=self._store.prefix_parts(match),
            state=self._store.payload(match.state.block_hash) if match.state else None,
            capacity_tokens=sequence.num_tokens + 1,
        )
        # What it reused lies in its running cache now.
        running.reservation.end()
        running.reservation = self._store.reserve()
        self._ready.pop(running.sequence_id, None)
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
        if beyond and self._worth_restoring(running, [m.block for m in beyond]):
            running.restore_began_at = running.restore_began_at or self._clock.monotonic()
            self._streaming.begin(running, beyond)
        self._store.touch(sequence.full_table)

    @staticmethod
    def _take_snapshot(running: RunningSequence, state: Block) -> list[MatchedBlock]:
        """Note the snapshot that the sequence goes on from; returns the full blocks before it.

        What lies between block boundaries is published again when its block is full: only there others find it.
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

    def announce(self, running: RunningSequence) -> None:
        """Report what the cache was good for, before the first step of a sequence; later calls do nothing."""
        if running.started:
            return
        sequence, match = running.sequence, running.match
        read = running.restored | running.read_before
        warm = sum(m.num_tokens for m in match.blocks if m.block.block_hash in read)
        report = CacheReport(
            prompt_tokens=len(sequence.prompt_ids),
            reused_hot_tokens=match.num_tokens - warm,
            restored_warm_tokens=warm,
            computed_tokens=len(sequence.prompt_ids) - match.num_tokens,
            canonicalized=running.submission.canonicalized,
        )
        agent = self._agents.find(sequence.agent_id)
        previous = agent.transcript.token_ids if agent and agent.num_turns else None
        miss = None
        if not running.submission.score_prompt:
            miss = explain_miss(
                sequence.prompt_ids,
                previous_ids=previous,
                num_matched=match.num_tokens,
                num_known=max(match.num_known, match.num_tokens),
                lost_file=self._lost_file(running, agent) if agent is not None else None,
                block_tokens=running.spec.block_tokens,
                decode=running.model.tokenizer.decode,
                system_tokens=running.submission.system_tokens,
                peer_failed=running.peer_failed,
                same_model=agent is None or agent.model in (None, running.model.fingerprint),
            )
        sequence.cache = replace(report, miss=miss)
        running.started = True
        counters = self._store.counters
        counters.hot_hit_tokens += report.reused_hot_tokens
        counters.warm_hit_tokens += report.restored_warm_tokens
        counters.computed_tokens += report.computed_tokens
        self._metrics.started(running)
        running.send(SequenceStarted(sequence.cache))

    def _lost_file(self, running: RunningSequence, agent: Agent) -> LostFile | None:
        """Return what befell the first file that was lost of the agent's blocks beyond a sequence's match.

        That need not be the block at the match's end: reading ends at the first failure, in whatever order files are
        read, and layers with a state go on from any of the snapshots, which are named after the blocks.
        """
        first = running.match.num_tokens // running.spec.block_tokens
        return self._store.lost_file(agent.block_table[first:])


def _blocks(match: PrefixMatch) -> list[Block]:
    """Return a match's blocks in order, its snapshot last."""
    return [m.block for m in match.blocks] + ([match.state] if match.state else [])
