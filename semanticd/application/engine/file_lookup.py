"""FileLookup: while the disk's index is rebuilt, a prompt's blocks are looked for by the names of their files.

```
waiting ──not all is known──> asked, held (the engine works for others) ──found or deadline──> matched again
```
Once for each prompt. The names are those of its own full blocks, those of its agent's table, and for layers that
cannot be cut the snapshots behind them and at the places where this prompt will take its own. Engine thread only.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.queue import EngineQueue
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.ports.telemetry import Clock
from semanticd.domain.block import hash_block
from semanticd.domain.ids import BlockHash, SequenceId
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.snapshots import state_name

FILES_DEADLINE_S = 10.0
"""Maximum wait of a prompt for its files' lookup before the missing part is computed."""


def may_look_for_files(running: RunningSequence, store: AgentCacheStore) -> bool:
    """Return whether the index may lack a prompt's stored blocks and no file lookup was made yet."""
    if running.asked_files or running.submission.score_prompt or running.disk_failed:
        return False
    return not store.knows_all_files


class FileLookup:
    """Questions under way."""

    def __init__(
        self,
        *,
        store: AgentCacheStore,
        agents: AgentRegistry,
        scheduler: Scheduler,
        queue: EngineQueue,
        clock: Clock,
    ) -> None:
        """Ask the warm tier of this store, if it has any; answers come back through `queue`."""
        self._store = store
        self._agents = agents
        self._scheduler = scheduler
        self._queue = queue
        self._clock = clock
        self._asked: dict[SequenceId, tuple[RunningSequence, float]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a sequence waits for a result."""
        return bool(self._asked)

    def ask(self, running: RunningSequence) -> bool:
        """Look for a prompt's files if the index may lack some, and that was not done; True: it waits now."""
        if not may_look_for_files(running, self._store) or self._is_hot(running):
            return False
        found = self._store.find_files(self._names(running), running.spec.fingerprint)
        if found is None:
            return False
        running.asked_files = True
        running.reservation.end()
        running.reservation = self._store.reserve()
        running.reservation.add_read(found)
        self._scheduler.hold(running.sequence_id)
        self._asked[running.sequence_id] = running, self._clock.monotonic() + FILES_DEADLINE_S
        found.add_done_callback(lambda done: self._found(running, done))
        return True

    def _is_hot(self, running: RunningSequence) -> bool:
        """Return whether the whole prompt is in RAM, so that no disk lookup is necessary."""
        limit = len(running.sequence.token_ids) - 1
        root, chain = running.submission.root, running.sequence.chain
        token_ids = running.sequence.token_ids
        hot = self._store.match(running.spec, token_ids, limit=limit, root=root, chain=chain, hot_only=True)
        return hot.num_tokens >= limit

    def _names(self, running: RunningSequence) -> Iterator[BlockHash]:
        """Yield the names, on the thread that looks for them: no name depends on what changes meanwhile."""
        spec, submission = running.spec, running.submission
        token_ids, chain = running.sequence.token_ids, running.sequence.chain
        agent = self._agents.find(running.sequence.agent_id)
        table = () if agent is None else agent.block_table
        root = submission.root or spec.root
        full = () if chain is None else chain.hashes

        def names() -> Iterator[BlockHash]:
            yield from table
            yield from full
            if spec.cuts_anywhere:
                return
            yield from (state_name(spec, parent) for parent in full)
            for point in submission.snapshot_points:
                num_full, rest = divmod(point, spec.block_tokens)
                if num_full > len(full) or not rest:
                    continue
                tail = hash_block(
                    fingerprint=spec.fingerprint,
                    layout=spec.layout,
                    parent=full[num_full - 1] if num_full else root,
                    token_ids=token_ids[num_full * spec.block_tokens : point],
                )
                yield from (tail, state_name(spec, tail))

        return names()

    def _found(self, running: RunningSequence, done: Future[int]) -> None:
        # On the disk's thread.
        if not done.cancelled():
            self._queue.post(lambda: self._go_on(running), sequence_id=running.sequence_id)

    def _go_on(self, running: RunningSequence) -> None:
        if self._asked.pop(running.sequence_id, None) is not None:
            self._scheduler.release(running.sequence_id)

    def check_deadlines(self, now: float) -> None:
        """Continue without answers that do not come."""
        for running, until in list(self._asked.values()):
            if now >= until:
                self._go_on(running)

    def forget(self, sequence_id: SequenceId) -> None:
        """Drop a sequence that ended or was preempted."""
        self._asked.pop(sequence_id, None)
