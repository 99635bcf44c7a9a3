"""A whole engine around a HashRunner: its real thread, real scheduler and real cache store, on tiers in memory.

```
with EngineRig() as rig:
    answer = rig.ask([1, 2, 3], agent="a", max_tokens=8).answer()
```
Leaving the `with` stops the engine and checks that nothing was left behind: no running cache, no lock, no defect.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import Self

from semanticd.application.cache.agent_cache import AgentCache
from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.cache.agent_tables import AgentTables
from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.engine.memory_guard import EngineMemory
from semanticd.application.engine.queue import EngineQueue
from semanticd.application.engine.running_sequence import (
    SequenceEnded,
    SequenceFailed,
    SequenceStarted,
    SequenceText,
    SequenceUpdate,
    Submission,
)
from semanticd.application.ports.agent_archive import AgentArchive
from semanticd.application.ports.inference import LoadedModel, Tokenizer
from semanticd.application.ports.memory import AmpleMemory, MachineMemory
from semanticd.application.ports.peers import Peers
from semanticd.application.ports.telemetry import Telemetry
from semanticd.application.ports.warm_store import WarmStore
from semanticd.domain.generation import CacheReport, FinishReason, SamplingParams, TokenLogprob, Usage
from semanticd.domain.ids import AgentId, RequestId
from semanticd.domain.memory_plan import BudgetPlan
from semanticd.domain.scheduler import Scheduler, SchedulerLimits
from semanticd.domain.snapshots import SNAPSHOT_TOKENS
from semanticd.domain.transcript import Segment
from tests.fakes.model_runner import HashRunner, already_loaded, loaded_model
from tests.fakes.telemetry import ManualClock, RecordingBus, RecordingLog, RecordingMetrics
from tests.fakes.tokenizer import CharTokenizer
from tests.fakes.warm_store import MemoryAgentArchive, MemoryWarmStore

_T = TypeVar("_T")

PATIENCE_S = 60.0
"""How long a test waits for something that must happen."""

GREEDY = SamplingParams(temperature=0)


def wait_until(condition: Callable[[], bool], what: str = "it") -> None:
    """Poll a condition to a deadline."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {PATIENCE_S} s")
        threading.Event().wait(0.002)


@contextmanager
def ticking(tick: Callable[[], object]) -> Iterator[None]:
    """Do something every few milliseconds, in another thread."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.005):
            tick()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Ask:
    """One request's updates as they come; also the sink that takes them."""

    def __init__(self, submission_id: str) -> None:
        """Wait for this request's updates."""
        self.request_id = RequestId(submission_id)
        self.updates: list[SequenceUpdate] = []
        self.thread: int | None = None
        self._over = threading.Event()
        self.on_update: Callable[[SequenceUpdate], None] | None = None

    def __call__(self, update: SequenceUpdate) -> None:
        """Take an update on the engine thread."""
        self.thread = threading.get_ident()
        self.updates.append(update)
        if isinstance(update, SequenceEnded | SequenceFailed):
            self._over.set()
        if self.on_update is not None:
            self.on_update(update)

    def meanwhile(self, act: Callable[[], object], *, when: Callable[[], bool] = lambda: True) -> None:
        """Do something once, on the engine thread, at the first text at which `when` holds.

        To be called while the engine is held, so that no text is missed; the answer goes on behind it, however busy
        the machine is.
        """
        acted = False

        def look(update: SequenceUpdate) -> None:
            nonlocal acted
            if not acted and isinstance(update, SequenceText) and when():
                acted = True
                act()

        self.on_update = look

    @property
    def over(self) -> bool:
        """Whether the answer is complete or failed."""
        return self._over.is_set()

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(u.text for u in self.updates if isinstance(u, SequenceText))

    @property
    def started(self) -> bool:
        """Whether the prompt was matched."""
        return any(isinstance(u, SequenceStarted) for u in self.updates)

    def wait(self) -> None:
        """Wait for the end."""
        if not self._over.wait(PATIENCE_S):
            raise AssertionError(
                f"request {self.request_id} was not answered; it saw {len(self.updates)} updates"
            )

    def answer(self) -> Answer:
        """Wait for the answer; raises the error that ended it early."""
        self.wait()
        return Answer(self.updates)

    def error(self) -> Exception:
        """Wait for the error."""
        self.wait()
        last = self.updates[-1]
        assert isinstance(last, SequenceFailed), f"it did not fail: {last}"
        return last.error


class Answer:
    """A complete answer."""

    def __init__(self, updates: Sequence[SequenceUpdate]) -> None:
        """Check that the updates come in the order that is promised, and keep them."""
        last = updates[-1]
        if isinstance(last, SequenceFailed):
            raise last.error
        assert isinstance(last, SequenceEnded), "the last update ends the answer"
        first = updates[0]
        assert isinstance(first, SequenceStarted), "the first update reports the match"
        texts = [u for u in updates[1:-1] if isinstance(u, SequenceText)]
        assert len(texts) == len(updates) - 2, "between them there is nothing but text"
        self.cache: CacheReport = first.cache
        self.text = "".join(update.text for update in texts)
        self.logprobs: list[TokenLogprob] = [entry for update in texts for entry in update.logprobs]
        self.reason: FinishReason = last.reason
        self.usage: Usage = last.usage
        self.stop_sequence = last.stop_sequence
        assert self.usage.cache == self.cache, "the usage repeats what was announced"
        cache = self.cache
        assert cache.cached_tokens + cache.computed_tokens == cache.prompt_tokens == self.usage.prompt_tokens


class EngineRig:
    """An engine with everything it needs, on one model unless more are added."""

    def __init__(
        self,
        *,
        runner: HashRunner | None = None,
        tokenizer: Tokenizer | None = None,
        budget_bytes: int = 64 * 1024 * 1024,
        max_agents: int = 1000,
        warm: WarmStore | None = None,
        no_warm: bool = False,
        archive: AgentArchive | None = None,
        limits: SchedulerLimits | None = None,
        scheduler: Scheduler | None = None,
        max_queue: int = 100,
        max_queue_per_agent: int = 20,
        clock: ManualClock | None = None,
        context_length: int = 100_000,
        snapshot_tokens: int = SNAPSHOT_TOKENS,
        memory: MachineMemory | None = None,
        plan: BudgetPlan | None = None,
        peers: Peers | None = None,
    ) -> None:
        """Wire it; nothing runs before the `with`."""
        self.runner = runner or HashRunner()
        self.tokenizer = tokenizer or CharTokenizer()
        self.clock = clock or ManualClock()
        self.metrics = RecordingMetrics()
        self.log = RecordingLog()
        self.bus = RecordingBus()
        self.telemetry = Telemetry(self.clock, self.metrics, self.log, self.bus)
        self.warm: Any = None if no_warm else (warm if warm is not None else MemoryWarmStore())
        self.archive: Any = archive if archive is not None else MemoryAgentArchive()
        self.expects_defect = False
        """Whether the test makes the engine itself fail."""
        self._ids = itertools.count(1)
        self.model: LoadedModel = loaded_model(
            self.runner, tokenizer=self.tokenizer, context_length=context_length
        )

        self.queue = EngineQueue(max_queue=max_queue, max_queue_per_agent=max_queue_per_agent)
        self.store = AgentCacheStore(
            budget_bytes=budget_bytes,
            warm=self.warm,
            post=self.queue.post,
            metrics=self.metrics,
            log=self.log,
            peers=peers,
        )
        self.tables = AgentTables(
            store=self.store, warm=self.warm, max_agents_in_memory=max_agents, log=self.log
        )
        self.cache = AgentCache(self.store, self.tables)
        self.agents = AgentRegistry(
            cache=self.cache, archive=self.archive, clock=self.clock, post=self.queue.post
        )
        if scheduler is None:
            scheduler = Scheduler(
                limits=limits or SchedulerLimits(prefill_chunk=64, min_chunk=16),
                block_tokens=self.runner.spec.block_tokens,
            )
        self.scheduler = scheduler
        self.engine = BlockPoolBatchEngine(
            queue=self.queue,
            cache=self.cache,
            agents=self.agents,
            scheduler=self.scheduler,
            telemetry=self.telemetry,
            snapshot_tokens=snapshot_tokens,
            memory=EngineMemory(memory or AmpleMemory(), plan or BudgetPlan(None, budget_bytes)),
        )

    def __enter__(self) -> Self:
        """Start the engine and give it the model."""
        self.engine.start()
        self.add_model(self.model)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the engine; after a test that passed, look for what was left behind."""
        if isinstance(self.warm, MemoryWarmStore):
            self.warm.hold_writes = False
            self.warm.catch_up()
        self.engine.stop()
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise `AssertionError` when a stopped engine left something behind."""
        store = self.store
        store.check_integrity()
        defects = {"engine_failed", "engine_action_failed", "cache_integrity_broken"}
        assert self.expects_defect or not defects & set(self.log.events("error")), self.log.lines
        assert self.runner.num_open == 0, f"{self.runner.num_open} running caches were not closed"
        assert self.engine.num_unanswered == 0, "submissions are still counted"
        assert store.ledger().locked_bytes == 0, "blocks are still locked"
        assert store.ledger().in_flight_bytes == 0, "writes are still in flight"
        assert store.ledger().promised_bytes == 0, "bytes are still promised"

    def add_model(self, model: LoadedModel) -> None:
        """Serve one more model."""
        self.engine.load_model(already_loaded(model)).result(PATIENCE_S)

    def on_engine(self, function: Callable[[], _T]) -> _T:
        """Run a function on the engine thread and return its result."""
        future: Future[_T] = self.engine.call(function)
        return future.result(PATIENCE_S)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the engine from working while the test submits, so that all of it arrives at once."""
        gate = threading.Event()
        self.engine.call(lambda: gate.wait(PATIENCE_S))
        try:
            yield
        finally:
            gate.set()

    def ask(
        self,
        prompt: Sequence[int] | Iterable[Segment],
        *,
        agent: str = "a",
        max_tokens: int = 8,
        sampling: SamplingParams = GREEDY,
        seed: int = 0,
        model: str = "tiny",
        **more: Any,
    ) -> Ask:
        """Submit a prompt (ids, or segments) and return at once."""
        ask, submission = self.submission(
            prompt, agent=agent, max_tokens=max_tokens, sampling=sampling, seed=seed, model=model, **more
        )
        self.engine.submit(submission)
        return ask

    def submission(
        self,
        prompt: Sequence[int] | Iterable[Segment],
        *,
        agent: str = "a",
        max_tokens: int = 8,
        sampling: SamplingParams = GREEDY,
        seed: int = 0,
        model: str = "tiny",
        request_id: str | None = None,
        **more: Any,
    ) -> tuple[Ask, Submission]:
        """Make a submission that is not sent yet."""
        items: list[Any] = list(prompt)
        segments = tuple(items) if items and isinstance(items[0], Segment) else (self.segment(items),)
        ask = Ask(request_id or f"request-{next(self._ids)}")
        salt = self.agents.salt_of(AgentId(agent))  # as the service looks it up
        submission = Submission(
            request_id=ask.request_id,
            agent_id=AgentId(agent),
            model_id=self.model.model_id if model == "tiny" else model,  # type: ignore[arg-type]
            segments=segments,
            sampling=sampling,
            max_new_tokens=max_tokens,
            seed=seed,
            sink=ask,
            **{"salt": salt, "root": self.model.runner.spec.root_of(salt), **more},
        )
        return ask, submission

    def segment(self, token_ids: Sequence[int]) -> Segment:
        """Return ids with their text."""
        return Segment(self.tokenizer.decode(token_ids), tuple(token_ids))

    def idle(self) -> None:
        """Wait until the engine has nothing to do and nothing is on its way to the disk."""
        wait_until(
            lambda: self.engine.num_unanswered == 0 and not self.on_engine(lambda: self.store.num_writing),
            "the engine's rest",
        )
