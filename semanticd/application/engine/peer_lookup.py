"""PeerLookup: asks other machines, once for each prompt, for the blocks that are missing here.

```
waiting ──much is missing──> asked, held (the engine works for others) ──answer or deadline──> matched with the offers
```
What is offered is believed as far as its names are those of the prompt's own tokens. Below a private root nothing is
asked: its blocks are for one agent of this machine. Engine thread only.
"""

from __future__ import annotations

from concurrent.futures import Future

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.queue import EngineQueue
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.ports.peers import LOOK_UP_S, PeerQuestion
from semanticd.application.ports.telemetry import Clock
from semanticd.domain.block_tree import NamedTree, OfferedBlock, OfferedBlocks, fitting_blocks
from semanticd.domain.ids import SequenceId
from semanticd.domain.model_cache_spec import ModelCacheSpec
from semanticd.domain.scheduler import Scheduler

ANSWER_DEADLINE_S = 2 * LOOK_UP_S
"""Seconds after which a reply is abandoned although its own deadline has not ended it."""


class PeerLookup:
    """Questions under way."""

    def __init__(
        self,
        *,
        store: AgentCacheStore,
        scheduler: Scheduler,
        queue: EngineQueue,
        clock: Clock,
    ) -> None:
        """Ask the peers of this store, if it has any; answers come back through `queue`."""
        self._peers = store.peers
        self._store = store
        self._scheduler = scheduler
        self._queue = queue
        self._clock = clock
        self._asked: dict[SequenceId, tuple[RunningSequence, float]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a sequence waits for a result."""
        return bool(self._asked)

    def ask(self, running: RunningSequence) -> bool:
        """Ask what peers have of a prompt, if that was not done and a block's worth is missing; True: it waits now."""
        submission = running.submission
        if self._peers is None or running.asked_peers:
            return False
        running.asked_peers = True
        if submission.salt or submission.score_prompt:
            return False
        token_ids, spec = running.sequence.token_ids, running.spec
        match = self._store.match(spec, token_ids, limit=len(token_ids) - 1, chain=running.sequence.chain)
        if len(token_ids) - match.num_tokens <= spec.block_tokens:
            return False
        self._scheduler.hold(running.sequence_id)
        self._asked[running.sequence_id] = running, self._clock.monotonic() + ANSWER_DEADLINE_S
        answer = self._peers.look_up(question_about(token_ids, spec))
        running.reservation.add_read(answer)
        answer.add_done_callback(lambda done: self._answered(running, token_ids, done))
        return True

    def _answered(
        self, running: RunningSequence, token_ids: tuple[int, ...], done: Future[tuple[OfferedBlock, ...]]
    ) -> None:
        # On the peers' thread: names are computed here, not on the engine's.
        if done.cancelled():
            return
        offered = fitting_blocks(done.result(), tree=running.spec, token_ids=token_ids)
        self._queue.post(lambda: self._take(running, offered), sequence_id=running.sequence_id)

    def _take(self, running: RunningSequence, offered: OfferedBlocks) -> None:
        if self._asked.pop(running.sequence_id, None) is not None:
            running.offered = offered
            self._scheduler.release(running.sequence_id)

    def check_deadlines(self, now: float) -> None:
        """Continue without answers that do not come."""
        for running, until in list(self._asked.values()):
            if now >= until:
                self._take(running, OfferedBlocks())

    def forget(self, sequence_id: SequenceId) -> None:
        """Drop a sequence that ended or was preempted."""
        self._asked.pop(sequence_id, None)

    def is_worth(self, running: RunningSequence, compute_s: float) -> bool:
        """Return whether the peers' blocks of the match arrive sooner than they are computed, by measured rates."""
        if self._peers is None or not running.from_peers:
            return True
        worth = self._peers.expected_s(running.from_peers.values()) <= compute_s
        if not worth:
            self._peers.forgive()
        return worth


def question_about(token_ids: tuple[int, ...], spec: ModelCacheSpec) -> PeerQuestion:
    """Return the question for what peers have of these tokens."""
    return PeerQuestion(
        NamedTree(spec.fingerprint, spec.layout, spec.block_tokens, spec.cuts_anywhere),
        token_ids,
        max_block_bytes=max(spec.stored_bytes(spec.block_tokens, begins=True), spec.state_bytes),
    )
