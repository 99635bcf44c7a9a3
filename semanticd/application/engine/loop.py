"""BlockPoolBatchEngine: the one thread that touches the models.

```
queue (submissions, cancels, actions: finished reads and writes, commands)
   └─> loop:  take what came  →  models come and go  →  scheduler decides  →  run the step  →  commit, emit
```
No exception leaves the thread. A failing item, sequence or row fails alone; if the loop itself fails, every sequence
gets an error, the loop backs off, and the engine is unhealthy until it works again. The thread never waits for a disk.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from semanticd.application.cache.agent_cache import AgentCache
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.admission import Admission
from semanticd.application.engine.block_commit import BlockCommit
from semanticd.application.engine.cache_report import CacheReporter
from semanticd.application.engine.completion import RUNNING_STATES, Completion
from semanticd.application.engine.embedding import Embedding
from semanticd.application.engine.embedding_job import EmbeddingJob
from semanticd.application.engine.memory_guard import EngineMemory, MemoryGuard
from semanticd.application.engine.model_changes import CheckSteps, LoadSteps, ModelChanges
from semanticd.application.engine.output_processor import OutputProcessor
from semanticd.application.engine.preemption import Preemption
from semanticd.application.engine.promotion import Promotion
from semanticd.application.engine.queue import Action, Cancel, EngineQueue, QueueItem
from semanticd.application.engine.room import Room
from semanticd.application.engine.running_copies import RunningCopies
from semanticd.application.engine.running_sequence import Running, RunningSequence, Submission
from semanticd.application.engine.telemetry import EngineTelemetry
from semanticd.application.ports.inference import DraftCounts, LoadedModel
from semanticd.application.ports.memory import AmpleMemory
from semanticd.application.ports.telemetry import Telemetry
from semanticd.domain.decode_groups import DecodeGroup, choose_group
from semanticd.domain.errors import ConflictError, DrainingError, EngineError, OutOfMemoryError
from semanticd.domain.generation import FinishReason
from semanticd.domain.ids import ModelId, RequestId, SequenceId
from semanticd.domain.memory_plan import BudgetPlan
from semanticd.domain.scheduler import Admit, Decode, Join, Prefill, Scheduler
from semanticd.domain.sequence import Sequence, SequenceEvent, SequenceState
from semanticd.domain.snapshots import SNAPSHOT_TOKENS
from semanticd.domain.stop_matcher import StopMatcher

_T = TypeVar("_T")

_BUSY_WAIT_S = 0.05
"""Seconds that an idle engine waits for an event while outside work is under way."""
_IDLE_WAIT_S = 1.0
STALLED_AFTER_S = 10.0
"""Seconds without a finished write after which unwritten blocks may be dropped to make room."""
_STALLED_DISK_S = 30.0
"""For how long, at the end, no block may reach the disk before the rest is given up; a slow disk is waited for."""
_CHECKED_BLOCKS = 256
"""Hot blocks that an idle engine checks each time it rests."""
_MAX_BACKOFF_S = 2.0
_UNHEALTHY_AFTER = 3
"""Failures of the loop in a row after which the engine counts as unhealthy."""
MAX_SHORTAGES = 3
"""Steps that may run out of memory before a sequence that took part in each of them fails."""
_MAX_JOINING = 32
"""Tokens that cost little more than one where no sequence waits for the step: the logits of all are computed."""


def backoff_s(num_failures: int) -> float:
    """Return how long the loop waits after this number of failures in a row (seconds)."""
    return min(0.01 * 2.0 ** min(num_failures, 10), _MAX_BACKOFF_S)


class BlockPoolBatchEngine:
    """Serves all loaded models from one thread."""

    def __init__(
        self,
        *,
        queue: EngineQueue,
        cache: AgentCache,
        agents: AgentRegistry,
        scheduler: Scheduler,
        telemetry: Telemetry,
        snapshot_tokens: int = SNAPSHOT_TOKENS,
        memory: EngineMemory | None = None,
    ) -> None:
        """Serve the commands in `queue`, with the blocks of `cache`; nothing runs before `start`.

        Where layers cannot be cut, a snapshot is taken each `snapshot_tokens` of a prompt (0: none). `memory` says how
        large the store's budget is to be, and when that is too much (None: as it is, and never).
        """
        self._queue = queue
        self._store = store = cache.store
        self._scheduler = scheduler
        self._thread: threading.Thread | None = None
        self._ids = itertools.count(1)
        self._models: dict[ModelId, LoadedModel] = {}
        self._running: Running = {}
        self._num_failures = 0
        self._last_failure = ""
        self.drafts = DraftCounts()
        """Drafted tokens since the start."""
        self._pause = threading.Event()
        self._writes_progress_at = float("-inf")
        recording = EngineTelemetry.over(telemetry, store=store)
        self._clock, self._log = recording.clock, recording.log
        self._metrics, self._trace = recording.metrics, recording.trace
        self._guard = MemoryGuard(
            memory=memory or EngineMemory(AmpleMemory(), BudgetPlan(None, store.planned_bytes)),
            models=self._models,
            store=store,
            scheduler=scheduler,
            telemetry=recording,
        )
        self._changes = ModelChanges(
            models=self._models,
            running=self._running,
            store=store,
            guard=self._guard,
            clock=self._clock,
            log=self._log,
        )
        copies = RunningCopies(store)
        self._commit = BlockCommit(
            cache=cache,
            agents=agents,
            copies=copies,
            snapshot_tokens=snapshot_tokens,
            clock=self._clock,
            log=self._log,
        )
        self._room = Room(
            running=self._running,
            models=self._models,
            store=store,
            scheduler=scheduler,
            clock=self._clock,
            log=self._log,
        )
        self._promotion = Promotion(
            running=self._running,
            store=store,
            scheduler=scheduler,
            commit=self._commit,
            copies=copies,
            clock=self._clock,
        )
        self._admission = Admission(
            store=store,
            agents=agents,
            scheduler=scheduler,
            queue=queue,
            room=self._room,
            promotion=self._promotion,
            telemetry=recording,
        )
        self._reporter = CacheReporter(
            store=store, agents=agents, metrics=self._metrics, began_at=telemetry.clock.wall()
        )
        self._completion = Completion(
            running=self._running,
            queue=queue,
            scheduler=scheduler,
            admission=self._admission,
            commit=self._commit,
            promotion=self._promotion,
            telemetry=recording,
        )
        self._output = OutputProcessor(completion=self._completion, commit=self._commit, telemetry=recording)
        self._embedding = Embedding(
            models=self._models,
            running=self._running,
            queue=queue,
            store=store,
            room=self._room,
            guard=self._guard,
            telemetry=recording,
        )
        self._preemption = Preemption(
            running=self._running,
            store=store,
            scheduler=scheduler,
            room=self._room,
            completion=self._completion,
            output=self._output,
            embedding=self._embedding,
        )

    # From other threads.

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Cancel running sequences, persist everything and end the thread. Idempotent."""
        thread = self._thread
        if thread is None:
            return
        self._queue.stop()
        self._pause.set()
        thread.join()
        self._thread = None

    def drain(self) -> None:
        """Take no new submissions; running ones continue."""
        self._queue.draining = True

    @property
    def draining(self) -> bool:
        """Whether the engine refuses new submissions."""
        return self._queue.draining

    @property
    def num_unanswered(self) -> int:
        """Submissions not yet answered in full."""
        return self._queue.num_unanswered

    @property
    def models(self) -> dict[ModelId, LoadedModel]:
        """The loaded models (a copy)."""
        return dict(self._models)

    @property
    def failure(self) -> str | None:
        """Reason of the engine's failure, if its loop failed several times in a row."""
        return self._last_failure if self._num_failures >= _UNHEALTHY_AFTER else None

    def submit(self, *submissions: Submission) -> None:
        """Queue the submissions of one request, all or none.

        Raises:
            SemanticError: As in `EngineQueue.submit`.
        """
        self._queue.submit(*submissions)

    def embed(self, job: EmbeddingJob) -> None:
        """Queue an embedding job.

        Raises:
            SemanticError: As in `EngineQueue.submit`.
        """
        self._queue.submit(job)

    def check_size(self, num_prompts: int, num_choices: int, *, anonymous: bool) -> None:
        """Raise `InvalidRequestError` when a body asks for more answers than can ever be queued."""
        self._queue.check_size(num_prompts, num_choices, anonymous=anonymous)

    def cancel(self, request_id: RequestId) -> None:
        """Cancel a request's sequences soon; unknown ids are ignored."""
        self._queue.cancel(request_id)

    def call(self, function: Callable[[], _T]) -> Future[_T]:
        """Run a function on the engine thread between two steps; after the end the future holds a `DrainingError`."""
        return self._queue.call(function)

    def load_model(self, steps: LoadSteps, *, weights_bytes: int = 0) -> Future[LoadedModel]:
        """Load a model, whose weights take about this number of bytes, between other steps.

        The future gets it when it is served, or the error.
        """
        return self._change(
            lambda future: self._changes.begin_load(steps, future, weights_bytes=weights_bytes)
        )

    def check_model(self, steps: CheckSteps) -> Future[None]:
        """Inspect a model's files between other steps; the future gets the result, or their error."""
        return self._change(lambda future: self._changes.begin_check(steps, future))

    def remove_model(self, model_id: ModelId) -> Future[None]:
        """Stop serving a model, persist its blocks and free its memory; see `ModelChanges.begin_removal`."""
        return self._change(lambda future: self._changes.begin_removal(model_id, future))

    def _change(self, begin: Callable[[Future[_T]], None]) -> Future[_T]:
        future: Future[_T] = Future()
        future.set_running_or_notify_cancel()
        if not self._queue.post(lambda: begin(future)):
            future.set_exception(DrainingError("the engine has stopped", retry_after_s=5.0))
        return future

    def running(self) -> list[RunningSequence]:
        """Return the sequences in the engine (a copy; read only)."""
        return list(self._running.values())

    def prefill_rate(self, model_id: ModelId) -> float:
        """Return the tokens per second of recent prefill chunks (0: nothing was measured)."""
        return self._scheduler.prefill_rate(model_id)

    def decode_step_s(self, model_id: ModelId) -> float:
        """Return the seconds of recent decode steps (0: nothing was measured)."""
        return self._scheduler.decode_step_s(model_id)

    def decode_token_s(self, model_id: ModelId) -> float:
        """Return the seconds of recent decode steps for each token of a sequence (0: nothing was measured)."""
        return self._scheduler.decode_token_s(model_id)

    @property
    def cached_bytes(self) -> int:
        """Bytes of cached blocks that would leave RAM to make room."""
        ledger = self._store.ledger()
        return max(ledger.hot_bytes - ledger.pinned_bytes - ledger.locked_bytes, 0)

    @property
    def max_batch_size(self) -> int:
        """Sequences that run at the same time, at most."""
        return self._scheduler.limits.max_batch_size

    # On the engine thread: the loop.

    def _run(self) -> None:
        while not self._queue.stopping:
            try:
                self._cycle()
                self._num_failures = 0
            except Exception as error:
                self._survive(error)
        self._wind_up()

    def _survive(self, error: Exception) -> None:
        """Fail all sequences after a defect of the loop itself, and wait before trying again. Never raises."""
        self._num_failures += 1
        self._last_failure = repr(error)
        if self._num_failures & (self._num_failures - 1) == 0:
            # The first, second, fourth …: a defect that repeats must not fill the log.
            self._log.error("engine_failed", error=repr(error), num_failures=self._num_failures)
        try:
            restarted = EngineError(f"the engine failed and was restarted: {error}")
            self._completion.fail_all(restarted)
            self._embedding.fail_all(restarted)
        except Exception as second:
            self._log.error("engine_failed", error=repr(second), num_failures=self._num_failures)
        self._pause.wait(backoff_s(self._num_failures))

    def _wind_up(self) -> None:
        """End every submission, write dirty blocks, and answer late commands. Never raises."""
        stopped = DrainingError("the daemon stopped before the answer was complete", retry_after_s=5.0)
        steps: tuple[Callable[[], None], ...] = (
            self._work_queue,
            lambda: self._completion.fail_all(stopped, keep=True),
            lambda: self._embedding.fail_all(stopped),
            self._changes.close,
            self._write_all,
            self._take_leftovers,
            lambda: self._completion.fail_all(stopped),
            lambda: self._embedding.fail_all(stopped),
            self._changes.close,  # of what came while blocks were written
        )
        for step in steps:
            try:
                step()
            except Exception as error:
                self._log.error("stopping_failed", error=repr(error))

    def _take_leftovers(self) -> None:
        for item in self._queue.close():
            self._handle(item)

    def _write_all(self) -> None:
        """Hand everything dirty to the disk, and wait while it makes progress."""
        # A disk that did not answer gets one more chance: what is not written now is computed again.
        self._store.disk_stalled = False
        progress_at, num_writing = self._clock.monotonic(), -1
        while self._store.persist() or self._store.num_writing:
            self._work_queue(wait_s=_BUSY_WAIT_S)
            now = self._clock.monotonic()
            if self._store.num_writing != num_writing:
                progress_at, num_writing = now, self._store.num_writing
            elif now - progress_at > _STALLED_DISK_S:
                self._log.warning("stopped_unwritten", num_blocks=num_writing)
                return

    def _cycle(self) -> None:
        began = self._clock.monotonic()
        self._work_queue()
        self._note_writes()
        self._room.check(began)
        self._guard.check(began)
        if self._commit.ran_short:
            self._commit.ran_short = False
            self._guard.relieve("out_of_memory", "critical", now=began)
        self._admission.check_deadlines()
        self._changes.step()
        self._promotion.step()
        self._scheduler.record_stall(self._clock.monotonic() - began)
        embedded_s = self._embedding.step()
        self._scheduler.record_stall(embedded_s)
        step = self._scheduler.decide(self._clock.monotonic())
        if isinstance(step, Admit):
            self._admit(self._running[step.sequence_id])
        elif isinstance(step, Prefill):
            self._prefill(self._running[step.sequence_id], step.num_tokens)
        elif isinstance(step, Join):
            self._join(self._running[step.sequence_id])
        elif isinstance(step, Decode):
            self._decode(step.model_id, step.group)
        elif not embedded_s:
            self._rest()

    def _note_writes(self) -> None:
        now = self._clock.monotonic()
        if self._store.take_writes_ended():
            self._scheduler.unblock()
            self._trace.writes_ended()
            self._writes_progress_at = now
            self._store.disk_stalled = False
        elif not self._store.num_writing:
            self._writes_progress_at = now
        elif now - self._writes_progress_at > STALLED_AFTER_S and not self._store.disk_stalled:
            self._store.disk_stalled = True
            self._scheduler.unblock()
            self._log.warning("disk_stalled", num_blocks=self._store.num_writing, after_s=STALLED_AFTER_S)

    def _rest(self) -> None:
        if self._changes.is_loading:
            return
        self._store.persist()
        self._check_integrity()
        blocked = bool(self._scheduler.in_state(SequenceState.WAITING))
        blocked = blocked or self._changes.is_removing or self._embedding.is_waiting
        self._work_queue(wait_s=_BUSY_WAIT_S if blocked else _IDLE_WAIT_S)
        if blocked:
            self._scheduler.unblock()

    def _check_integrity(self) -> None:
        try:
            self._store.check_blocks(_CHECKED_BLOCKS)
        except AssertionError as error:
            # A defect, but none that a request should pay for.
            self._log.error("cache_integrity_broken", error=str(error))

    def _work_queue(self, *, wait_s: float = 0.0) -> None:
        for item in self._queue.take(wait_s=wait_s):
            self._handle(item)

    def _handle(self, item: QueueItem) -> None:
        """Run an item; an exception concerns that item alone."""
        try:
            if isinstance(item, Submission):
                self._take(item)
            elif isinstance(item, EmbeddingJob):
                self._embedding.take(item)
            elif isinstance(item, Cancel):
                self._completion.cancel(item.request_id)
                self._room.measure()
            else:
                item.run()
        except Exception as error:
            self._blame(item, error)

    def _blame(self, item: QueueItem, error: Exception) -> None:
        if isinstance(item, Submission):
            taken = [one for one in self._running.values() if one.submission is item]
            for running in taken:
                self._completion.fail(running, error)
            if not taken:
                self._completion.refuse(item, error)
        elif isinstance(item, EmbeddingJob):
            self._embedding.refuse(item, error)
        elif isinstance(item, Action) and item.sequence_id in self._running:
            self._completion.fail(self._running[item.sequence_id], error)
        else:
            self._log.error("engine_action_failed", error=repr(error))

    # On the engine thread: the life of a sequence.

    def _take(self, submission: Submission) -> None:
        model = self._models.get(submission.model_id)
        if model is None or self._changes.is_leaving(model):
            raise ConflictError(f"model {submission.model_id} was unloaded meanwhile")
        prompt_ids = submission.prompt_ids
        chain = submission.chain
        if chain is None:
            chain = model.runner.spec.chain(prompt_ids, root=submission.root)
        sequence = Sequence(
            sequence_id=SequenceId(next(self._ids)),
            agent_id=submission.agent_id,
            model_id=submission.model_id,
            prompt_ids=prompt_ids,
            chain=chain,
            max_new_tokens=submission.max_new_tokens,
            arrived_at=self._clock.monotonic(),
            priority="background" if submission.priority == "background" else "interactive",
            share=submission.share,
            cuts_anywhere=model.runner.spec.cuts_anywhere,
            chunks=model.chunks,
        )
        running = RunningSequence(
            submission=submission,
            sequence=sequence,
            model=model,
            decoder=model.tokenizer.stream_decoder(),
            stops=StopMatcher(submission.sampling.stop),
            submitted_at=sequence.arrived_at if submission.arrived_at is None else submission.arrived_at,
            reservation=self._store.reserve(),
        )
        if running.spec.cuts_anywhere and sequence.max_new_tokens and not submission.score_prompt:
            last_point = max(submission.snapshot_points, default=0)
            sequence.max_joining = min(_MAX_JOINING, max(len(sequence.prompt_ids) - 1 - last_point, 0))
        self._scheduler.add(sequence)
        self._running[sequence.sequence_id] = running
        self._admission.take(running)

    def _guarded(self, running: RunningSequence, action: Callable[[], None]) -> None:
        """Do something for one sequence; if it fails, that one fails alone."""
        began = self._clock.monotonic()
        try:
            action()
        except OutOfMemoryError as error:
            self._run_short([running], error)
        except Exception as error:
            self._completion.fail(running, error)
        self._room.measure()
        self._scheduler.record_stall(self._clock.monotonic() - began)

    def _run_short(self, members: list[RunningSequence], error: OutOfMemoryError) -> None:
        """Make room after a step ran out of memory, and let those that took part in it begin again.

        They continue from their last published blocks. Where that did not help before, the youngest fails: one for each
        step that runs out of memory, so that this ends.
        """
        self._guard.relieve("out_of_memory", "critical", now=self._clock.monotonic())
        again = [one for one in members if self._may_begin_again(one)]
        spent = [one for one in again if one.num_shortages >= MAX_SHORTAGES]
        youngest = sorted(spent, key=lambda one: one.sequence.arrived_at)[-1:]
        for running in [one for one in members if one not in again] or youngest:
            self._completion.fail(running, error)
        for running in again:
            if not running.has_ended:
                running.num_shortages += 1
                self._completion.preempt(running, keep=False)
        self._room.measure()
        self._scheduler.unblock()

    @staticmethod
    def _may_begin_again(running: RunningSequence) -> bool:
        # One that waits has nothing to begin again from, and the scores of a prompt are sent once.
        return running.sequence.state in RUNNING_STATES and not running.submission.score_prompt

    def _admit(self, running: RunningSequence) -> None:
        self._guarded(running, lambda: self._admission.try_start(running))

    def _join(self, running: RunningSequence) -> None:
        self._guarded(running, lambda: self._begin_decode(running))

    def _prefill(self, running: RunningSequence, num_tokens: int) -> None:
        sequence, runner = running.sequence, running.runner
        start = sequence.num_cached
        chunk = self._commit.next_stop(running, start, start + num_tokens)
        stop = chunk.position
        ids = sequence.token_slice(start, stop)
        began = self._clock.monotonic()
        try:
            self._reporter.announce(running)
            if running.submission.score_prompt:
                targets = sequence.token_slice(start + 1, stop + 1)
                running.prompt_logprobs += runner.prefill_logprobs(
                    sequence.sequence_id, ids, targets=targets, top=running.submission.sampling.top_logprobs
                )
            elif not runner.prefill(sequence.sequence_id, ids, is_unwanted=self._left_early(running)):
                # The cancel that was seen is the next thing that is taken from the queue.
                running.is_torn = True
                self._scheduler.record_stall(self._clock.monotonic() - began)
                return
            seconds = self._clock.monotonic() - began
            running.prefill_s += seconds
            sequence.num_cached = stop
            self._scheduler.record_prefill(sequence, num_tokens=len(ids), seconds=seconds)
            self._metrics.prefilled(seconds, num_tokens=len(ids))
            if chunk.takes_snapshot:
                self._commit.snapshot(running, at_boundary=chunk.at_boundary)
            else:
                self._commit.publish(running, up_to=stop, with_tail=False)
            # Computed blocks are written during the next chunk: all writes at the end would delay other requests.
            self._store.persist(limit_bytes=max(running.spec.stored_bytes(len(ids)), 1))
            self._scheduler.record_stall(self._clock.monotonic() - began - seconds)
        except OutOfMemoryError as error:
            self._run_short([running], error)
        except Exception as error:
            self._completion.fail(running, error)
        self._preemption.keep_within_budget()

    def _left_early(self, running: RunningSequence) -> Callable[[], bool]:
        """Return the function that decides whether to abort a chunk.

        Never where a layer cannot be cut: what was computed since the last snapshot would be lost with it. Nor where
        earlier chunks computed something and no block holds any of it yet: a client that gives up early and asks again
        would never come any further.
        """
        sequence, num_found = running.sequence, running.match.num_tokens
        comes_further = sequence.num_published > num_found or sequence.num_cached <= num_found
        if not running.spec.cuts_anywhere or not comes_further:
            return lambda: False
        return partial(self._queue.is_cancelled, running.submission.request_id)

    def _begin_decode(self, running: RunningSequence) -> None:
        """Move a sequence whose prompt is in the cache (except its last tokens) to a decode batch."""
        self._reporter.announce(running)
        sequence, submission = running.sequence, running.submission
        if running.decode_began_at is None:
            running.decode_began_at = self._clock.monotonic()
        num_joining = sequence.num_to_prefill
        if not num_joining:
            self._commit.begin_answer(running)
        sequence.apply(SequenceEvent.PREFILLED)
        if sequence.max_new_tokens == 0:
            self._output.prompt_scores(running)
            self._completion.end(running, FinishReason.LENGTH)
            return
        token_ids = sequence.token_ids
        sequence.group = self._group_for(running)
        began = self._clock.monotonic()
        running.runner.start_decode(
            sequence.sequence_id,
            last_token=token_ids[-1],
            context=token_ids[:-1],
            num_generated=len(sequence.output_ids),
            sampling=submission.sampling,
            constraint=submission.constraint,
            seed=submission.seed,
            group=sequence.group,
            max_length=len(sequence.prompt_ids) + sequence.max_new_tokens,
            earlier=self._commit.earlier(running),
        )
        if num_joining:
            running.prefill_s += self._clock.monotonic() - began
            sequence.num_cached += num_joining
            self._commit.begin_answer(running)
        self._output.prompt_scores(running)

    def _group_for(self, running: RunningSequence) -> int:
        """Choose a decode batch, and make room for the padding that it costs; without room it decodes alone."""
        lengths: dict[int, list[int]] = {}
        for other in self._scheduler.in_state(SequenceState.DECODING):
            if other is not running.sequence and other.model_id == running.sequence.model_id:
                lengths.setdefault(other.group, []).append(other.num_tokens)
        groups = {group: DecodeGroup(group, tuple(rows)) for group, rows in lengths.items()}
        length, bytes_per_token = running.sequence.num_tokens, running.spec.running_bytes_per_token
        spare_bytes = sum(map(running.runner.spare_bytes, groups))
        room_bytes = self._store.could_free() + spare_bytes - self._room.due_bytes
        room_tokens = max(room_bytes, 0) // max(bytes_per_token, 1)
        group = choose_group(length, groups.values(), room_tokens=room_tokens)
        joins = (running.sequence.model_id, group)
        if group in groups and not self._room.make(
            groups[group].room_for(length) * bytes_per_token, joins=joins
        ):
            return choose_group(length, groups.values(), room_tokens=0)
        return group

    def _decode(self, model_id: ModelId, group: int) -> None:
        if self._preemption.waits_for_disk:
            # For a moment: blocks that are not written by then leave all the same, see `Room`.
            self._work_queue(wait_s=_BUSY_WAIT_S)
            self._preemption.keep_within_budget()
            return
        members = [
            s
            for s in self._scheduler.in_state(SequenceState.DECODING)
            if s.model_id == model_id and s.group == group
        ]
        began = self._clock.monotonic()
        try:
            tokens = self._models[model_id].runner.decode(group)
        except OutOfMemoryError as error:
            self._run_short([self._running[one.sequence_id] for one in members], error)
            return
        except Exception as error:
            for sequence in members:
                self._completion.fail(self._running[sequence.sequence_id], error)
            return
        now = self._clock.monotonic()
        if self._room.due_bytes:
            # The running caches have grown: what is published now must not take the same bytes.
            self._room.measure()
        rows = [
            (running, token)
            for token in tokens
            if (running := self._running.get(token.sequence_id)) is not None
        ]
        # First tokens may cost no step of their own, and the step after them may bring none.
        stepped = any(running.first_token_at is not None for running, _ in rows)
        brought = {token.sequence_id for token in tokens}
        num_rows = len(brought)
        if stepped and num_rows == len(members):
            self._scheduler.record_decode(
                members, model_id=model_id, seconds=now - began, num_tokens=len(tokens)
            )
        if tokens:
            self._metrics.decoded(now - began, batch_size=num_rows)
        for sequence_id in brought & self._running.keys():
            self._running[sequence_id].decode_steps += 1
        drafts = self._models[model_id].runner.take_draft_counts()
        self._metrics.drafted(drafts)
        self.drafts = self.drafts.plus(drafts)
        for running, token in rows:
            if running.has_ended:
                # By a token that came in the same step, before this one.
                continue
            try:
                self._output.token(running, token, now)
            except Exception as error:
                self._completion.fail(running, error)
        self._preemption.keep_within_budget()
