"""BlockPoolBatchEngine: the one thread that touches the models.

```
inbox (submissions, cancels, commands, finished reads and writes)
   └─> loop:  take what came  →  scheduler decides  →  run the step  →  settle, publish, tell the clients
```
No exception leaves the thread: a failing sequence fails alone, a failing decode step fails the sequences that were in
it, and the loop goes on. The inbox is bounded; what does not fit is refused with a time to retry.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.admission import Admission
from semanticd.application.engine.block_commit import BlockCommit
from semanticd.application.engine.completion import Completion, Running
from semanticd.application.engine.metrics import SequenceMetrics
from semanticd.application.engine.output_processor import OutputProcessor
from semanticd.application.engine.preemption import Preemption
from semanticd.application.engine.queue import Action, EngineQueue
from semanticd.application.engine.running_sequence import (
    RunningSequence,
    SequenceFailed,
    Submission,
)
from semanticd.application.engine.trace import SequenceTrace
from semanticd.application.ports.inference import LoadedModel
from semanticd.application.ports.telemetry import Clock, EventBus, Log, Metrics, Tracer
from semanticd.domain.errors import (
    ConflictError,
    DrainingError,
    EngineError,
)
from semanticd.domain.generation import FinishReason
from semanticd.domain.ids import ModelId, RequestId, SequenceId
from semanticd.domain.scheduler import Admit, Decode, Idle, Join, Prefill, Scheduler, SchedulerLimits
from semanticd.domain.sequence import Sequence, SequenceEvent, SequenceState
from semanticd.domain.stop_matcher import StopMatcher

_T = TypeVar("_T")

_BLOCKED_RETRY_S = 0.05
_IDLE_WAIT_S = 1.0
_MAX_JOINING = 32
"""Tokens that cost little more than one where nobody waits for the step: the logits of all of them are computed."""


class BlockPoolBatchEngine:
    """Serves all loaded models from one thread."""

    def __init__(
        self,
        *,
        limits: SchedulerLimits,
        block_tokens: int,
        max_queue: int,
        max_queue_per_agent: int,
        make_store: Callable[[Callable[[Callable[[], None]], None]], AgentCacheStore],
        make_agents: Callable[[AgentCacheStore], AgentRegistry],
        clock: Clock,
        metrics: Metrics,
        log: Log,
        bus: EventBus,
        tracer: Tracer | None = None,
    ) -> None:
        """Wire the engine; `make_store` gets the function that runs something on the engine thread soon."""
        self._clock = clock
        self._metrics = SequenceMetrics(metrics)
        self._log = log
        self._inbox = EngineQueue(max_queue=max_queue, max_queue_per_agent=max_queue_per_agent)
        self._thread: threading.Thread | None = None
        self._ids = itertools.count(1)
        self.store = make_store(self._post)
        self.agents = make_agents(self.store)
        self.scheduler = Scheduler(limits=limits, block_tokens=block_tokens)
        self.store.on_room = self.scheduler.unblock
        self._models: dict[ModelId, LoadedModel] = {}
        self._live: Running = {}
        self._settlement = BlockCommit(store=self.store, agents=self.agents, clock=clock)
        self._departure = Completion(
            roster=self._live,
            scheduler=self.scheduler,
            settlement=self._settlement,
            leave=self._inbox.leave,
            clock=clock,
            metrics=self._metrics,
            trace=SequenceTrace(tracer, store=self.store, clock=clock),
            log=log,
        )
        self._delivery = OutputProcessor(departure=self._departure, metrics=self._metrics, bus=bus)
        self._preemption = Preemption(
            roster=self._live,
            store=self.store,
            scheduler=self.scheduler,
            settlement=self._settlement,
            delivery=self._delivery,
            runners=lambda: [model.runner for model in self._models.values()],
            metrics=self._metrics,
            log=log,
        )
        self._admission = Admission(
            store=self.store,
            agents=self.agents,
            scheduler=self.scheduler,
            clock=clock,
            metrics=self._metrics,
            post=self._post,
            guarded=self._guarded,
        )

    # From other threads.

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Cancel what is running, persist everything and end the thread. Idempotent."""
        thread = self._thread
        if thread is None:
            return
        self._inbox.stop()
        thread.join()
        self._thread = None

    def drain(self) -> None:
        """Take no new submissions; what was taken goes on."""
        self._inbox.draining = True

    @property
    def draining(self) -> bool:
        """Whether new submissions are refused."""
        return self._inbox.draining

    @property
    def num_live(self) -> int:
        """Submissions not yet answered in full."""
        return self._inbox.num_live

    @property
    def models(self) -> dict[ModelId, LoadedModel]:
        """The loaded models (a copy)."""
        return dict(self._models)

    def submit(self, *submissions: Submission) -> None:
        """Take answers to make, all or none.

        Raises:
            QueueFullError: The queue, or the agent's part of it, is full.
            DrainingError: The daemon is stopping.
        """
        self._inbox.submit(submissions, self._take)

    def cancel(self, request_id: RequestId) -> None:
        """Cancel a request's sequences soon; unknown ids are ignored."""
        self._post(lambda: self._cancel(request_id))

    def call(self, function: Callable[[], _T]) -> Future[_T]:
        """Run a function on the engine thread between two steps; after the end the future holds a `DrainingError`."""
        return self._inbox.call(function)

    def live(self) -> list[RunningSequence]:
        """Return the sequences in the engine (a copy; read only)."""
        return list(self._live.values())

    def _post(self, action: Action) -> None:
        self._inbox.post(action)

    # On the engine thread: models.

    def add_model(self, model: LoadedModel) -> None:
        """Serve a model that was loaded on this thread."""
        self.store.register_model(model.runner)
        self._models = {**self._models, model.model_id: model}

    def remove_model(self, model_id: ModelId) -> None:
        """Stop serving a model: its sequences fail, its blocks are persisted, its memory is freed.

        Raises:
            ConflictError: The model has running sequences.
        """
        model = self._models[model_id]
        if any(live.model is model for live in self._live.values()):
            raise ConflictError(f"model {model_id} still answers requests; drain it first")
        self._persist_all()
        self._models = {key: value for key, value in self._models.items() if key != model_id}
        self.store.forget_model(model.fingerprint)
        model.runner.release()

    def _persist_all(self) -> None:
        while self.store.persist() or self.store.num_writing:
            self._work_inbox(wait_s=_IDLE_WAIT_S, even_stopping=True)

    # On the engine thread: the loop.

    def _run(self) -> None:
        while not self._inbox.stopping:
            try:
                self._cycle()
            except Exception as error:
                self._survive(error)
        self._wind_up()

    def _survive(self, error: Exception) -> None:
        # Only a defect gets here; no client may be left waiting because of it.
        self._log.error("engine_failed", error=repr(error))
        self._departure.fail_all(EngineError(f"the engine failed and was restarted: {error}"))

    def _wind_up(self) -> None:
        # Submissions are refused from here on, so after this all that were taken are alive.
        self._work_inbox(wait_s=None)
        for live in self._live.values():
            self._departure.keep(live)
        self._departure.fail_all(
            DrainingError("the daemon stopped before the answer was complete", retry_after_s=5.0)
        )
        try:
            self._persist_all()
        except Exception as error:
            self._log.error("persist_failed_at_stop", error=repr(error))
        self._inbox.close()
        self._work_inbox(wait_s=None)

    def _cycle(self) -> None:
        began = self._clock.monotonic()
        self._work_inbox(wait_s=None)
        self.scheduler.record_stall(self._clock.monotonic() - began)
        step = self.scheduler.decide(self._clock.monotonic())
        if isinstance(step, Admit):
            self._admit(self._live[step.sequence_id])
        elif isinstance(step, Prefill):
            self._prefill(self._live[step.sequence_id], step.num_tokens)
        elif isinstance(step, Join):
            self._join(self._live[step.sequence_id])
        elif isinstance(step, Decode):
            self._decode(step.model_id)
        elif isinstance(step, Idle):
            self._rest()

    def _rest(self) -> None:
        self.store.persist()
        self.store.check_integrity()
        blocked = bool(self.scheduler.in_state(SequenceState.WAITING))
        self._work_inbox(wait_s=_BLOCKED_RETRY_S if blocked else _IDLE_WAIT_S)
        if blocked:
            self.scheduler.unblock()

    def _work_inbox(self, *, wait_s: float | None, even_stopping: bool = False) -> None:
        for action in self._inbox.take(wait_s=wait_s, even_stopping=even_stopping):
            # What came in together with a broken action is not lost with it.
            try:
                action()
            except Exception as error:
                self._survive(error)

    # On the engine thread: the life of a sequence.

    def _take(self, submission: Submission) -> None:
        model = self._models.get(submission.model_id)
        if model is None:
            self._inbox.leave(submission)
            gone = ConflictError(f"model {submission.model_id} was unloaded meanwhile")
            self._departure.tell(submission, SequenceFailed(gone))
            return
        sequence = Sequence(
            sequence_id=SequenceId(next(self._ids)),
            agent_id=submission.agent_id,
            model_id=submission.model_id,
            prompt_ids=submission.prompt_ids,
            max_new_tokens=submission.max_new_tokens,
            arrived_at=self._clock.monotonic(),
            priority="background" if submission.priority == "background" else "interactive",
        )
        live = RunningSequence(
            submission=submission,
            sequence=sequence,
            model=model,
            decoder=model.tokenizer.stream_decoder(),
            stops=StopMatcher(submission.sampling.stop),
            submitted_at=sequence.arrived_at,
        )
        self._live[sequence.sequence_id] = live
        if model.runner.spec.cuts_anywhere and sequence.max_new_tokens and not submission.score_prompt:
            last_point = max(submission.snapshot_points, default=0)
            sequence.max_joining = min(_MAX_JOINING, max(len(submission.prompt_ids) - 1 - last_point, 0))
        self.scheduler.add(sequence)

    def _guarded(self, live: RunningSequence, action: Callable[[], None]) -> None:
        """Do something for one sequence; if it breaks, that one fails alone."""
        try:
            action()
        except Exception as error:
            self._departure.fail(live, error)
        self._preemption.measure()

    def _admit(self, live: RunningSequence) -> None:
        began = self._clock.monotonic()
        self._guarded(live, lambda: self._admission.try_start(live))
        self.scheduler.record_stall(self._clock.monotonic() - began)

    def _join(self, live: RunningSequence) -> None:
        began = self._clock.monotonic()
        self._guarded(live, lambda: self._begin_decode(live))
        self.scheduler.record_stall(self._clock.monotonic() - began)

    def _prefill(self, live: RunningSequence, num_tokens: int) -> None:
        sequence, runner = live.sequence, live.model.runner
        start = sequence.num_cached
        stop = min([start + num_tokens, *(p for p in live.submission.snapshot_points if p > start)])
        ids = sequence.token_ids[start:stop]
        began = self._clock.monotonic()
        try:
            if live.submission.score_prompt:
                targets = sequence.token_ids[start + 1 : stop + 1]
                live.prompt_logprobs += runner.prefill_logprobs(
                    sequence.sequence_id, ids, targets=targets, top=live.submission.sampling.top_logprobs
                )
            else:
                runner.prefill(sequence.sequence_id, ids)
            seconds = self._clock.monotonic() - began
            live.prefill_s += seconds
            sequence.num_cached = stop
            self.scheduler.record_prefill(sequence, num_tokens=len(ids), seconds=seconds)
            self._metrics.prefilled(seconds)
            if stop in live.submission.snapshot_points:
                self._settlement.snapshot(live)
            else:
                self._settlement.publish(live, up_to=stop, with_tail=False)
            # A block at a time is written while the next one is computed: all at the end would hold everybody up.
            self.store.persist(limit_bytes=1)
            self.scheduler.record_stall(self._clock.monotonic() - began - seconds)
        except Exception as error:
            self._departure.fail(live, error)
        self._preemption.keep_within_budget()

    def _begin_decode(self, live: RunningSequence) -> None:
        """Move a sequence whose prompt is in the cache (but for its last tokens) to the decode batch."""
        sequence, submission = live.sequence, live.submission
        if live.decode_began_at is None:
            live.decode_began_at = self._clock.monotonic()
        num_joining = sequence.num_to_prefill
        if not num_joining:
            self._settlement.begin_answer(live)
        sequence.apply(SequenceEvent.PREFILLED)
        if sequence.max_new_tokens == 0:
            self._delivery.prompt_scores(live)
            self._departure.end(live, FinishReason.LENGTH)
            return
        token_ids = sequence.token_ids
        began = self._clock.monotonic()
        live.model.runner.start_decode(
            sequence.sequence_id,
            last_token=token_ids[-1],
            context=token_ids[:-1],
            num_generated=len(sequence.output_ids),
            sampling=submission.sampling,
            constraint=submission.constraint,
            seed=submission.seed,
        )
        if num_joining:
            live.prefill_s += self._clock.monotonic() - began
            sequence.num_cached += num_joining
            self._settlement.begin_answer(live)
        self._delivery.prompt_scores(live)

    def _decode(self, model_id: ModelId) -> None:
        members = [s for s in self.scheduler.in_state(SequenceState.DECODING) if s.model_id == model_id]
        began = self._clock.monotonic()
        try:
            tokens = self._models[model_id].runner.decode()
        except Exception as error:
            for sequence in members:
                self._departure.fail(self._live[sequence.sequence_id], error)
            return
        now = self._clock.monotonic()
        # First tokens may cost no step of their own, and the step after them may bring none.
        stepped = any(self._live[token.sequence_id].first_token_at is not None for token in tokens)
        if stepped and len(tokens) == len(members):
            self.scheduler.record_decode(members, model_id=model_id, seconds=now - began)
        if tokens:
            self._metrics.decoded(now - began, batch_size=len(tokens))
        for token in tokens:
            live = self._live[token.sequence_id]
            try:
                self._delivery.token(live, token, now)
            except Exception as error:
                self._departure.fail(live, error)
        self._preemption.keep_within_budget()

    def _cancel(self, request_id: RequestId) -> None:
        self._departure.cancel(request_id)
        self._preemption.measure()
