"""Admission: from a waiting sequence to a running one, by way of the cache.

```
match ──> hot blocks: locked            ──┐
     └──> warm blocks: read (I/O pool) ──> promoted ──> room? ──> running cache assembled ──> prefilling
                                                                        └──> blocks beyond the budget (StreamingRestore)
```
While blocks are read the sequence is held and the engine works for others. What cannot be read is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.metrics import SequenceMetrics
from semanticd.application.engine.running_sequence import RunningSequence, SequenceStarted
from semanticd.application.engine.streaming_restore import StreamingRestore
from semanticd.application.ports.telemetry import Clock
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.block import Block
from semanticd.domain.errors import RequestTooLargeError
from semanticd.domain.generation import CacheReport
from semanticd.domain.ids import BlockHash
from semanticd.domain.miss import explain_miss
from semanticd.domain.prefix_index import MatchedBlock, PrefixMatch
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.sequence import SequenceEvent, SequenceState

_CAPACITY_STEP = 256
_SLOW_DISK_DECAY = 0.8
"""How much of a bad opinion of the disk is left after each time it decided."""


@dataclass(slots=True)
class _Reading:
    """Blocks on their way from the disk for one sequence."""

    hot: list[BlockHash]
    """What was hot already and is locked until the rest is there."""
    restored: list[BlockHash] = field(default_factory=list)
    """What has been brought into the pool so far and is locked likewise."""
    records: dict[BlockHash, BlockRecord] = field(default_factory=dict)
    """What was read and waits for its turn; let go once it was copied, for its memory is wanted for the next."""
    num_bytes: int = 0
    ended_at: float = 0.0
    stuck: bool = False
    """A block that was read did not fit; what follows it is of no use."""


class Admission:
    """Starts sequences; engine thread only."""

    def __init__(
        self,
        *,
        store: AgentCacheStore,
        agents: AgentRegistry,
        scheduler: Scheduler,
        clock: Clock,
        metrics: SequenceMetrics,
        post: Callable[[Callable[[], None]], None],
        guarded: Callable[[RunningSequence, Callable[[], None]], None],
    ) -> None:
        """`post` runs something on the engine thread soon; `guarded` does it for a sequence so that it fails alone."""
        self._store = store
        self._agents = agents
        self._scheduler = scheduler
        self._clock = clock
        self._metrics = metrics
        self._post = post
        self._guarded = guarded
        self._late = StreamingRestore(
            store=store, scheduler=scheduler, clock=clock, post=post, guarded=guarded
        )

    def try_start(self, live: RunningSequence) -> None:
        """Match, and either begin to restore, start, or mark the sequence as not fitting now.

        Raises:
            RequestTooLargeError: It can never fit the budget.
        """
        sequence, spec = live.sequence, live.model.runner.spec
        token_ids = sequence.token_ids
        limit = 0 if live.submission.score_prompt else len(token_ids) - 1
        live.match = self._store.match(spec, token_ids, limit=limit, root=live.submission.root)
        self._refuse_what_never_fits(live)
        if not self._others_run(live):
            # Nobody else's end would make more room: what leaves none for the running cache is brought into it later.
            live.match, live.beyond = self._fitting_part(live)
        wanted = [m.block for m in live.match.blocks] + ([live.match.state] if live.match.state else [])
        cold = [block for block in wanted if not self._store.is_hot(block.block_hash)]
        if cold and not self._worth_restoring(live, cold):
            live.match = self._hot_part(live.match)
            live.beyond = ()
            cold = []
        hot = [b.block_hash for b in wanted if self._store.is_hot(b.block_hash)]
        self._store.pool.lock(hot)
        fits = self._store.make_room(self._bytes_needed(live) + sum(block.num_bytes for block in cold))
        self._store.pool.unlock(hot)
        if not fits:
            self._scheduler.block(sequence.sequence_id)
            return
        if cold:
            self._restore(live, cold)
        else:
            self._start(live, restored=frozenset())

    # Bytes.

    def _others_run(self, live: RunningSequence) -> bool:
        """Whether another sequence runs or is being restored."""
        return any(
            other is not live.sequence
            and (other.state is not SequenceState.WAITING or self._scheduler.is_held(other.sequence_id))
            for other in self._scheduler.sequences()
        )

    def _bytes_alone(self, live: RunningSequence) -> int:
        """Bytes of the running cache if no other sequence is in the batch."""
        spec = live.model.runner.spec
        length = -(-(live.sequence.num_tokens + 1) // _CAPACITY_STEP) * _CAPACITY_STEP
        return length * spec.running_bytes_per_token + spec.state_bytes

    def _bytes_needed(self, live: RunningSequence) -> int:
        """Bytes the running cache and the new blocks of this sequence will take, padding of the batch included.

        A sequence that runs alone may start without room for its blocks: they make room for one another.
        """
        spec = live.model.runner.spec
        own = self._bytes_alone(live)
        if not self._others_run(live):
            return own
        length = -(-(live.sequence.num_tokens + 1) // _CAPACITY_STEP) * _CAPACITY_STEP
        batch = [
            s.num_tokens
            for s in self._scheduler.sequences()
            if s.state is not SequenceState.WAITING and s.model_id == live.sequence.model_id
        ]
        longest = max(batch, default=0)
        if batch and length > longest:
            own += len(batch) * (length - longest) * spec.running_bytes_per_token
        elif longest > length:
            own += (longest - length) * spec.running_bytes_per_token
        return own + spec.stored_bytes(live.sequence.num_tokens - live.match.num_tokens)

    def _fitting_part(self, live: RunningSequence) -> tuple[PrefixMatch, tuple[MatchedBlock, ...]]:
        """Cut the match where its blocks leave no room for the running cache: what fits, and what follows."""
        match = live.match
        ledger = self._store.ledger()
        room = ledger.budget_bytes - ledger.pinned_bytes - self._bytes_alone(live)
        blocks = []
        for matched in match.blocks:
            # What is pinned and hot was taken off already; a pinned agent's block on disk needs room like any other.
            name = matched.block.block_hash
            if not (self._store.is_hot(name) and self._store.pool.is_pinned(name)):
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

    def _refuse_what_never_fits(self, live: RunningSequence) -> None:
        ledger = self._store.ledger()
        alone = self._bytes_alone(live)
        available = ledger.budget_bytes - ledger.pinned_bytes
        if alone > available:
            raise RequestTooLargeError(
                f"this prompt of {live.sequence.num_tokens} tokens needs {alone / 2**20:.0f} MiB of KV cache, but the "
                f"budget leaves {available / 2**20:.0f} MiB of {ledger.budget_bytes / 2**20:.0f} MiB "
                f"({ledger.pinned_bytes / 2**20:.0f} MiB are pinned); raise SEMANTIC_MLX_CACHE_BUDGET_MB, unpin "
                "agents or shorten the prompt",
                param="messages",
            )

    def _worth_restoring(self, live: RunningSequence, cold: list[Block]) -> bool:
        """Whether reading these blocks beats computing their tokens, by what was measured so far."""
        counters = self._store.counters
        rate = self._scheduler.prefill_rate(live.sequence.model_id)
        if not rate or not counters.restored_bytes:
            return True
        restore_s = sum(block.num_bytes for block in cold) * counters.restore_s / counters.restored_bytes
        worth = restore_s <= sum(block.num_tokens for block in cold) / rate
        if not worth:
            # One slow moment of the disk must not be held against it for ever.
            counters.restore_s *= _SLOW_DISK_DECAY
        return worth

    def _hot_part(self, match: PrefixMatch) -> PrefixMatch:
        blocks = []
        for matched in match.blocks:
            if not self._store.is_hot(matched.block.block_hash):
                break
            blocks.append(matched)
        if match.state is not None:
            return PrefixMatch((), None, match.diverged)
        return PrefixMatch(tuple(blocks), None, match.diverged)

    # Restoring.

    def _restore(self, live: RunningSequence, cold: list[Block]) -> None:
        sequence_id = live.sequence.sequence_id
        self._scheduler.hold(sequence_id)
        live.restore_began_at = self._clock.monotonic()
        live.pending_reads = len(cold)
        # Whoever shares more than this with it waits until it is computed, but nobody waits for the reading.
        live.sequence.num_published = live.match.num_tokens
        hot = [m.block.block_hash for m in live.match.blocks if self._store.is_hot(m.block.block_hash)]
        if live.match.state is not None and self._store.is_hot(live.match.state.block_hash):
            hot.append(live.match.state.block_hash)
        self._store.pool.lock(hot)
        reading = _Reading(hot)
        for block in cold:
            future = self._store.read(block.block_hash)
            future.add_done_callback(lambda done: self._take_record(live, done, reading))

    def _take_record(
        self, live: RunningSequence, done: Future[BlockRecord | None], reading: _Reading
    ) -> None:
        # On the reader's thread: the engine may be busy for a while, which says nothing about the disk.
        now = self._clock.monotonic()
        self._post(lambda: self._guarded(live, lambda: self._read(live, done, reading, now)))

    def _read(
        self, live: RunningSequence, done: Future[BlockRecord | None], reading: _Reading, at: float
    ) -> None:
        record = done.result()
        if record is not None:
            reading.records[record.block.block_hash] = record
            reading.num_bytes += record.block.num_bytes
        reading.ended_at = max(reading.ended_at, at)
        live.pending_reads -= 1
        alive = live.sequence.sequence_id in self._scheduler
        try:
            if alive and not reading.stuck:
                # While the disk reads the next block, this one is copied.
                self._bring_match(live.match, reading)
        finally:
            if not live.pending_reads:
                self._store.pool.unlock(reading.hot)
                self._store.pool.unlock(reading.restored)
        if live.pending_reads:
            return
        if reading.num_bytes and live.restore_began_at is not None:
            counters = self._store.counters
            counters.restore_s += reading.ended_at - live.restore_began_at
            counters.restored_bytes += reading.num_bytes
        if not alive:
            return
        live.restore_s += self._clock.monotonic() - (live.restore_began_at or 0.0)
        self._scheduler.release(live.sequence.sequence_id)
        wanted, live.match = live.match, self._hot_part_with_state(live.match)
        if live.match is not wanted:
            live.beyond = ()
        self._start(live, restored=frozenset(reading.restored))

    def _bring_match(self, match: PrefixMatch, reading: _Reading) -> None:
        """Bring what was read into the pool, in order, up to the first block that is not there yet."""
        for matched in match.blocks:
            if not self._bring(matched.block.block_hash, reading):
                return
        if match.state is not None:
            self._bring(match.state.block_hash, reading)

    def _bring(self, block_hash: BlockHash, reading: _Reading) -> bool:
        if self._store.is_hot(block_hash):
            return True
        record = reading.records.pop(block_hash, None)
        if record is None:
            return False
        if not self._store.promote(record):
            reading.stuck = True
            return False
        # Locked at once: making room for the next block must not take this one away.
        self._store.pool.lock([block_hash])
        reading.restored.append(block_hash)
        return True

    def _hot_part_with_state(self, match: PrefixMatch) -> PrefixMatch:
        wanted = [m.block for m in match.blocks] + ([match.state] if match.state else [])
        if all(self._store.is_hot(block.block_hash) for block in wanted):
            return match
        return self._hot_part(match)

    # Starting.

    def _start(self, live: RunningSequence, *, restored: frozenset[BlockHash]) -> None:
        sequence, runner, match = live.sequence, live.model.runner, live.match
        runner.open(
            sequence.sequence_id,
            prefix=self._store.prefix_parts(match),
            state=self._store.payload(match.state.block_hash) if match.state else None,
            capacity_tokens=sequence.num_tokens + 1,
        )
        live.admitted_at = live.admitted_at or self._clock.monotonic()
        whole = [m for m in match.blocks if m.whole]
        sequence.num_cached = match.num_tokens
        sequence.num_published = sum(m.num_tokens for m in whole)
        sequence.block_table = [m.block.block_hash for m in whole]
        if match.state is not None:
            sequence.snapshots[match.state.parent] = match.state.block_hash
        sequence.apply(SequenceEvent.ADMITTED)
        beyond, live.beyond = live.beyond, ()
        if beyond and self._worth_restoring(live, [m.block for m in beyond]):
            live.restore_began_at = live.restore_began_at or self._clock.monotonic()
            self._late.begin(live, beyond, lambda more: self._started(live, restored | more))
        else:
            self._started(live, restored)

    def _started(self, live: RunningSequence, restored: frozenset[BlockHash]) -> None:
        self._store.touch([m.block.block_hash for m in live.match.blocks])
        if not live.started:
            self._announce(live, restored)

    def _announce(self, live: RunningSequence, restored: frozenset[BlockHash]) -> None:
        sequence, match = live.sequence, live.match
        warm = sum(m.num_tokens for m in match.blocks if m.block.block_hash in restored)
        report = CacheReport(
            prompt_tokens=len(sequence.prompt_ids),
            reused_hot_tokens=match.num_tokens - warm,
            restored_warm_tokens=warm,
            computed_tokens=len(sequence.prompt_ids) - match.num_tokens,
            canonicalized=live.submission.canonicalized,
        )
        agent = self._agents.find(sequence.agent_id)
        previous = agent.transcript.token_ids if agent and agent.num_turns else None
        miss = None
        if not live.submission.score_prompt:
            miss = explain_miss(
                sequence.prompt_ids,
                previous_ids=previous,
                num_matched=match.num_tokens,
                decode=live.model.tokenizer.decode,
                system_tokens=live.submission.system_tokens,
                same_model=agent is None or agent.model in (None, live.model.fingerprint),
            )
        sequence.cache = replace(report, miss=miss)
        live.started = True
        counters = self._store.counters
        counters.hot_hit_tokens += report.reused_hot_tokens
        counters.warm_hit_tokens += report.restored_warm_tokens
        counters.computed_tokens += report.computed_tokens
        self._metrics.started(live)
        live.send(SequenceStarted(sequence.cache))
