"""StreamingRestore: brings what did not fit beside the running cache straight into it, a block at a time.

```
budget   [ running cache, as long as the prompt ][ blocks that fit ][ room for one block ]
restore    blocks that fit: as always, in one go     the others: read, copied in, let go
```
So a conversation may fill the whole budget and still be reused to its last block. Engine thread only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.ports.inference import BlockPayload, PrefixPart
from semanticd.application.ports.telemetry import Clock
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.ids import BlockHash
from semanticd.domain.prefix_index import MatchedBlock, PrefixMatch
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.sequence import SequenceState


@dataclass(slots=True)
class _Rest:
    """What is still to come for one sequence."""

    blocks: deque[MatchedBlock]
    done: Callable[[frozenset[BlockHash]], None]
    read_from: float = 0.0
    restored: set[BlockHash] = field(default_factory=set)


class StreamingRestore:
    """Appends known blocks to prefilling sequences."""

    def __init__(
        self,
        *,
        store: AgentCacheStore,
        scheduler: Scheduler,
        clock: Clock,
        post: Callable[[Callable[[], None]], None],
        guarded: Callable[[RunningSequence, Callable[[], None]], None],
    ) -> None:
        """`post` and `guarded` are those of `Admission`."""
        self._store = store
        self._scheduler = scheduler
        self._clock = clock
        self._post = post
        self._guarded = guarded

    def begin(
        self,
        live: RunningSequence,
        blocks: tuple[MatchedBlock, ...],
        done: Callable[[frozenset[BlockHash]], None],
    ) -> None:
        """Bring these blocks, which follow what the sequence holds; what cannot be brought is left to prefill.

        `done` gets the names of those that came from the disk, before the sequence goes on.
        """
        self._scheduler.hold(live.sequence.sequence_id)
        self._go_on(live, _Rest(deque(blocks), done))

    def _go_on(self, live: RunningSequence, rest: _Rest) -> None:
        while rest.blocks:
            name = rest.blocks[0].block.block_hash
            if not self._store.is_hot(name):
                rest.read_from = self._clock.monotonic()
                self._store.read(name).add_done_callback(lambda done: self._arrived(live, rest, done))
                return
            self._append(live, rest.blocks.popleft(), self._store.payload(name))
        self._scheduler.release(live.sequence.sequence_id)
        rest.done(frozenset(rest.restored))

    def _arrived(self, live: RunningSequence, rest: _Rest, done: Future[BlockRecord | None]) -> None:
        # On the reader's thread: the engine may be busy for a while, which says nothing about the disk.
        seconds = self._clock.monotonic() - rest.read_from
        self._post(lambda: self._guarded(live, lambda: self._take(live, rest, done.result(), seconds)))

    def _take(self, live: RunningSequence, rest: _Rest, record: BlockRecord | None, seconds: float) -> None:
        sequence = live.sequence
        if sequence.sequence_id not in self._scheduler:
            return
        if sequence.state is not SequenceState.PREFILLING:
            # It was preempted meanwhile; it starts again like any other.
            self._scheduler.release(sequence.sequence_id)
            return
        payload = None if record is None else self._store.load(record)
        if record is None or payload is None:
            rest.blocks.clear()
        else:
            counters = self._store.counters
            counters.restore_s += seconds
            counters.restored_bytes += record.block.num_bytes
            live.restore_s += seconds
            rest.restored.add(record.block.block_hash)
            self._append(live, rest.blocks.popleft(), payload)
        self._go_on(live, rest)

    def _append(self, live: RunningSequence, matched: MatchedBlock, payload: BlockPayload) -> None:
        sequence = live.sequence
        live.model.runner.append(sequence.sequence_id, PrefixPart(payload, matched.num_tokens))
        sequence.num_cached += matched.num_tokens
        if matched.whole:
            sequence.num_published += matched.num_tokens
            sequence.block_table.append(matched.block.block_hash)
        live.match = PrefixMatch((*live.match.blocks, matched), None, live.match.diverged)
