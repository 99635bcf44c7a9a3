"""The real engine and its thread over a hash model and a disk in every condition: no request pays for another.

Requests, cancels, texts that become vectors, models that come and go (one of them an equal twin), deletes, evictions,
pins, broken rows, clock jumps and a disk that is slow, hung, full or failing come in any order. Whatever the order:
each request gets one last update, its answer is the true one unless it was cancelled, broken or its model left, and at
rest nothing is held. No step depends on what the engine's thread has done by then, so that a run can be repeated and
made smaller.

`SEMANTIC_TEST_ENGINE_EXAMPLES` sets how many runs are made (default 667), of 34 steps on average and 40 at most: so
20,000 steps are made at least.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from semanticd.application.engine.embedding_job import EmbeddingJob
from semanticd.application.engine.running_sequence import SequenceFailed
from semanticd.application.ports.inference import LoadedModel
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.errors import (
    CancelledByCallerError,
    ConflictError,
    EngineError,
    ModelLoadError,
    ModelNotFoundError,
    OverloadedError,
)
from semanticd.domain.ids import AgentId, BlockHash, ModelId, RequestId
from tests.fakes.engine_rig import Answer, Ask, EngineRig, wait_until
from tests.fakes.model_runner import BYTES_PER_TOKEN, HashRunner, continuation, loaded_model, vector_of
from tests.fakes.tokenizer import CharTokenizer
from tests.fakes.warm_store import MemoryWarmStore

EXAMPLES = int(os.environ.get("SEMANTIC_TEST_ENGINE_EXAMPLES", "667"))
STEPS_PER_EXAMPLE, ENOUGH_EXAMPLES = 30, 100
"""Steps of a run on average, at least, where so many runs are made."""
BUDGET = 3000 * BYTES_PER_TOKEN
TOKENS = CharTokenizer()
AGENTS = st.sampled_from(["ann", "bob", "cid"])
TWIN = ModelId("twin")
STEP_DEADLINE_S = 60.0
"""How long nothing may happen while an answer is due; the clock runs 500 times as fast as the real one meanwhile."""


class MoodyDisk(MemoryWarmStore):
    """A warm store that can hang or find every file broken when it is read, besides holding and refusing writes."""

    def __init__(self) -> None:
        super().__init__()
        self.hung = self.failing = False
        self.pending: list[tuple[Future[BlockRecord | None], BlockHash]] = []

    def read(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
        """Read at once, or when the disk is well again."""
        if self.failing and self.get(block_hash) is not None:
            self.break_block(block_hash)
        if not self.hung:
            return super().read(block_hash)
        future: Future[BlockRecord | None] = Future()
        self.pending.append((future, block_hash))
        return future

    def recover(self) -> None:
        """Answer everything that waits."""
        self.hung, self.failing, self.hold_writes, self.refuse = False, False, False, ""
        pending, self.pending = self.pending, []
        for future, block_hash in pending:
            if future.set_running_or_notify_cancel():
                future.set_result(super().read(block_hash).result())
        self.catch_up()


class EngineStates(RuleBasedStateMachine):
    """Drives one engine."""

    @initialize(max_drafts=st.sampled_from([0, 6]), has_state=st.booleans())
    def begin(self, max_drafts: int, has_state: bool) -> None:
        self.disk = MoodyDisk()
        self.has_state = has_state
        runner = HashRunner(max_drafts=max_drafts, has_state=has_state)
        self.rig = EngineRig(budget_bytes=BUDGET, warm=self.disk, runner=runner)
        self.rig.expects_defect = False
        self.rig.__enter__()
        self.asks: list[tuple[Ask, list[int], int, str]] = []
        self.jobs: list[EmbeddingJob] = []
        self.cancelled: set[str] = set()
        self.broken: set[str] = set()
        self.twin_gone = True
        self.changes: list[Future[object]] = []
        """Loads, checks and removals that were begun and not waited for."""
        self.num_loads = 0
        self.looked_up: tuple[AgentId, list[BlockHash]] | None = None
        self.largest = 0
        self.rig.runner.before = self.measure

    def measure(self, operation: str) -> None:
        ledger = self.rig.store.ledger()
        if operation in ("decode", "prefill", "open", "embed_part"):
            self.largest = max(self.largest, ledger.used_bytes)
        elif operation in ("copy_block", "close"):
            # In the middle of a step: a running cache may have grown into bytes that are promised to a sequence that
            # has not started. Nothing lies there, and the step's end takes the promise back.
            self.largest = max(self.largest, ledger.used_bytes - ledger.promised_bytes)

    # What clients do.

    @rule(agent=AGENTS, seed=st.integers(0, 4), length=st.integers(1, 900), answer=st.integers(1, 60))
    def ask_something(self, agent: str, seed: int, length: int, answer: int) -> None:
        self.ask(agent, seed, length, answer)

    def ask(self, agent: str, seed: int, length: int, answer: int) -> None:
        ids = [(3 + seed * 11 + i * (seed + 1)) % 90 for i in range(length)]
        model = "twin" if not self.twin_gone and seed == 4 else "tiny"
        try:
            asked = self.rig.ask(ids, agent=agent, max_tokens=answer, model=model)
        except OverloadedError:
            return
        self.asks.append((asked, ids, answer, model))

    @rule(agent=AGENTS, seed=st.integers(0, 3), length=st.integers(700, 1200), answer=st.integers(100, 900))
    def ask_much(self, agent: str, seed: int, length: int, answer: int) -> None:
        """Ask what fits next to any pins as it begins, and as it ends only where they make way."""
        self.ask(agent, seed, length, answer)

    @rule(agent=AGENTS, lengths=st.lists(st.integers(1, 1200), min_size=1, max_size=3), leaves=st.booleans())
    def embed(self, agent: str, lengths: list[int], leaves: bool) -> None:
        """Ask for vectors, and leave at once or wait for them."""
        texts = tuple((number + 1,) * length for number, length in enumerate(lengths))
        job = EmbeddingJob(RequestId(f"texts-{len(self.jobs)}"), AgentId(agent), ModelId("tiny"), texts)
        with suppress(OverloadedError):
            self.rig.engine.embed(job)
            if leaves:
                job.vectors.cancel()
            self.jobs.append(job)

    @rule(which=st.integers(0, 40))
    def cancel(self, which: int) -> None:
        if not self.asks:
            return
        asked = self.asks[which % len(self.asks)][0]
        self.cancelled.add(asked.request_id)
        self.rig.engine.cancel(asked.request_id)

    @rule()
    def break_a_row(self) -> None:
        def broken() -> None:
            running = self.rig.engine.running()
            if running:
                self.broken.add(running[0].submission.request_id)
                self.rig.runner.broken_rows[running[0].sequence_id] = ValueError("broken")

        self.rig.on_engine(broken)

    # What operators do.

    @rule(agent=AGENTS)
    def delete(self, agent: str) -> None:
        names = self.rig.on_engine(lambda: self.rig.tables.blocks_of(AgentId(agent)))
        self.rig.on_engine(lambda: self.rig.tables.delete_agent(AgentId(agent), names))
        self.rig.on_engine(lambda: self.rig.agents.delete(AgentId(agent)))

    @rule(agent=AGENTS)
    def look_up_what_to_delete(self, agent: str) -> None:
        """Ask what an agent alone has; it is deleted later, whatever was asked and shared meanwhile."""
        self.looked_up = (
            AgentId(agent),
            self.rig.on_engine(lambda: self.rig.tables.blocks_of(AgentId(agent))),
        )

    @rule()
    def delete_what_was_looked_up(self) -> None:
        if self.looked_up is None:
            return
        (agent_id, names), self.looked_up = self.looked_up, None
        self.rig.on_engine(lambda: self.rig.tables.delete_agent(agent_id, names))
        self.rig.on_engine(lambda: self.rig.agents.delete(agent_id))

    @rule(agent=AGENTS, copy=AGENTS)
    def fork(self, agent: str, copy: str) -> None:
        """Let another agent have the same conversation, also while the first is asked or deleted."""

        def change() -> None:
            source = self.rig.agents.find(AgentId(agent))
            if source is not None and self.rig.agents.find(AgentId(copy)) is None:
                self.rig.agents.save(replace(source, agent_id=AgentId(copy)))

        self.rig.on_engine(change)

    @rule(agent=AGENTS)
    def evict(self, agent: str) -> None:
        self.rig.on_engine(lambda: self.rig.tables.evict_agent(AgentId(agent)))

    @rule(agent=AGENTS, kept=st.booleans())
    def keep(self, agent: str, kept: bool) -> None:
        def change() -> None:
            if self.rig.agents.find(AgentId(agent)) is not None:
                table = self.rig.agents.get(AgentId(agent)).block_table
                self.rig.tables.set_table(AgentId(agent), table, pinned=False, kept=kept)

        self.rig.on_engine(change)

    @rule(agent=AGENTS, pinned=st.booleans())
    def pin(self, agent: str, pinned: bool) -> None:
        """Pin an agent, or let its pin end, while answers run or not; no answer is cut short for it."""

        def change() -> None:
            if self.rig.agents.find(AgentId(agent)) is not None:
                self.rig.agents.update(AgentId(agent), lambda one: replace(one, pinned=pinned))
            self.rig.agents.renew_pins()

        self.rig.on_engine(change)

    @rule()
    def load_the_twin(self) -> None:
        if not self.twin_gone:
            return
        twin = HashRunner(has_state=self.has_state)
        twin.before = self.measure
        self.rig.add_model(loaded_model(twin, model_id="twin"))
        self.twin_gone = False

    @rule()
    def remove_the_twin(self) -> None:
        if self.twin_gone:
            return
        removed = self.rig.engine.remove_model(TWIN)
        wait_until(removed.done, "the twin's end")
        self.twin_gone = removed.exception() is None
        assert self.twin_gone or isinstance(removed.exception(), ConflictError)

    @rule(num_slices=st.integers(0, 30), fails=st.booleans(), only_checked=st.booleans())
    def change_models_meanwhile(self, num_slices: int, fails: bool, only_checked: bool) -> None:
        """Begin to load another equal model, or to look at its files, and wait for neither: changes cross."""
        model = loaded_model(HashRunner(), model_id=f"other-{self.num_loads}")
        self.num_loads += 1

        def check() -> Generator[None, None, None]:
            for _ in range(num_slices):
                yield
            if fails:
                raise ModelLoadError("a file is broken")

        def load() -> Generator[None, None, LoadedModel]:
            yield from check()
            return model

        engine = self.rig.engine
        self.changes.append(engine.check_model(check()) if only_checked else engine.load_model(load()))

    @rule(which=st.integers(0, 5))
    def remove_others_meanwhile(self, which: int) -> None:
        """Begin to remove a model that nobody asks, perhaps twice, or one that is still loading."""
        if self.num_loads:
            model_id = ModelId(f"other-{which % self.num_loads}")
            self.changes += [self.rig.engine.remove_model(model_id) for _ in range(1 + which % 2)]

    # What the machine does.

    @rule(mood=st.sampled_from(["well", "slow", "hung", "full", "failing"]))
    def change_the_disk(self, mood: str) -> None:
        def change() -> None:
            self.disk.recover()
            self.disk.hold_writes = mood == "slow"
            self.disk.hung = mood == "hung"
            self.disk.failing = mood == "failing"
            self.disk.refuse = {"full": "the disk is full", "failing": "the disk failed"}.get(mood, "")

        self.rig.on_engine(change)

    @rule(seconds=st.sampled_from([0.1, 1.0, 11.0, 3600.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.rig.clock.advance(seconds)

    @rule(share=st.sampled_from([0.1, 0.4, 0.8]), unwritten=st.booleans())
    def want_room(self, share: float, unwritten: bool) -> None:
        """Let blocks leave as if something wanted so much room, also those that the disk has not taken."""
        self.rig.on_engine(lambda: self.rig.store.make_room(int(share * BUDGET), unwritten=unwritten))

    # What must hold.

    num_steps = 0
    """Of all runs."""

    @invariant()
    def count_steps(self) -> None:
        EngineStates.num_steps += 1

    @invariant()
    def nothing_is_held_without_an_owner(self) -> None:
        """Each lock, promise, running cache and place belongs to a sequence in the engine, or to a write."""
        if hasattr(self, "rig"):
            self.rig.on_engine(self.look_for_owners)

    def look_for_owners(self) -> None:
        store, running = self.rig.store, self.rig.engine.running()
        reservations = [one.reservation for one in running]
        owned = {name for reservation in reservations for name in reservation.locked_blocks}
        for block in store.pool:
            name = block.block_hash
            if store.pool.is_locked(name):
                assert name in owned or store.is_writing(name), "a block is locked without an owner"
        tables = {name for one in running for name in one.sequence.block_table}
        for block in store.pool:
            if store.pool.has_running_copy(block.block_hash):
                assert block.block_hash in tables, "a block is said to be in a running cache that is gone"
        store.check_integrity()
        promised = sum(reservation.promised_bytes for reservation in reservations)
        assert store.ledger().promised_bytes == promised, "bytes are promised without an owner"
        known = {one.sequence_id for one in running}
        assert all(sequence.sequence_id in known for sequence in self.rig.scheduler.sequences())
        num_texts = sum(not job.vectors.done() for job in self.jobs)
        assert self.rig.runner.num_open <= len(running) + num_texts, (
            "a running cache is open without an owner"
        )
        in_engine = {one.submission.request_id for one in running}
        for asked, *_ in self.asks:
            # This runs behind its submission in the queue: it was taken, so it runs or was answered.
            assert asked.over or asked.request_id in in_engine, "a last update was dropped"
        assert ModelId("tiny") in self.rig.engine.models, "the model that was served is gone"

    @rule()
    def settle(self) -> None:
        """Let everything end, and look at each answer and at what is left."""
        over = threading.Event()

        def tick() -> None:
            while not over.wait(0.002):
                self.rig.clock.advance(1.0)

        ticking = threading.Thread(target=tick)
        ticking.start()
        try:
            for asked, ids, answer, model in self.asks:
                self.see_its_end(asked)
                self.check(asked, ids, answer, model)
            for job in self.jobs:
                wait_until(job.vectors.done, "the end of texts")
                self.check_vectors(job)
        finally:
            over.set()
            ticking.join()
        self.asks.clear()
        self.jobs.clear()
        self.rig.on_engine(self.disk.recover)
        wait_until(lambda: all(change.done() for change in self.changes), "the end of changes of models")
        for change in self.changes:
            assert isinstance(change.exception(), (ModelLoadError, ModelNotFoundError, type(None)))
        self.changes.clear()
        self.rig.idle()
        # An engine at rest goes on writing, a piece at a time, and holds each piece until it is on disk.
        wait_until(lambda: self.rig.on_engine(self.num_held_bytes) == 0, "the end of what is held")
        assert self.rig.engine.num_unanswered == 0
        assert self.rig.runner.num_open == 0
        self.rig.on_engine(self.rig.store.check_integrity)
        self.rig.on_engine(self.compare_tiers)
        assert ModelId("tiny") in self.rig.engine.models

    def compare_tiers(self) -> None:
        """Each block that is both hot and on disk has the same bytes in both, however it became hot."""
        for block in self.rig.store.pool:
            record = self.disk.read(block.block_hash).result()
            if record is not None:
                payload = self.rig.store.payload(block.block_hash)
                assert self.rig.runner.dump(payload) == record.tensors

    def num_held_bytes(self) -> int:
        ledger = self.rig.store.ledger()
        return ledger.locked_bytes + ledger.promised_bytes + ledger.in_flight_bytes

    def see_its_end(self, asked: Ask) -> None:
        """Wait for an answer as long as anything is computed."""
        num_calls, deadline = -1, 0.0
        while not asked.over:
            self.rig.on_engine(self.look_for_owners)
            calls = sum(self.rig.runner.calls.values())
            if calls != num_calls:
                num_calls, deadline = calls, time.monotonic() + STEP_DEADLINE_S
            assert time.monotonic() < deadline, f"nothing happened for {STEP_DEADLINE_S} s: {asked.updates}"
            threading.Event().wait(0.005)

    def check(self, asked: Ask, ids: list[int], answer: int, model: str) -> None:
        last = asked.updates[-1]
        if not isinstance(last, SequenceFailed):
            true = TOKENS.decode(continuation(ids, answer, has_state=self.has_state))
            given = Answer(asked.updates)
            assert not given.usage.is_cut_short, "a pin cut it short"
            assert given.text == true, "a wrong answer"
            return
        why = {
            CancelledByCallerError: asked.request_id in self.cancelled,
            EngineError: asked.request_id in self.broken,
            ConflictError: model == "twin",
            # The disk took nothing, and there was no room without it.
            OverloadedError: True,
        }
        assert why.get(type(last.error)), f"it failed for another's sake: {last.error!r}"

    def check_vectors(self, job: EmbeddingJob) -> None:
        if job.vectors.cancelled():
            return
        error = job.vectors.exception()
        # As for answers: the disk took nothing, and there was no room without it.
        assert error is None or isinstance(error, OverloadedError), f"it failed for another's sake: {error!r}"
        if error is None:
            assert job.vectors.result() == tuple(map(vector_of, job.texts))

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "rig"):
            running = self.rig.scheduler.limits.max_batch_size
            assert self.largest <= BUDGET + running * 16 * BYTES_PER_TOKEN

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        self.settle()
        self.rig.runner.before = None
        self.rig.__exit__(None, None, None)


@pytest.mark.timeout(max(900, 2 * EXAMPLES))
class TestEngineStates(EngineStates.TestCase):  # type: ignore[misc,name-defined,valid-type]
    def runTest(self) -> None:
        EngineStates.num_steps = 0
        super().runTest()
        # An invariant is looked at once more than there are steps.
        num_steps = EngineStates.num_steps - EXAMPLES
        assert EXAMPLES < ENOUGH_EXAMPLES or num_steps >= STEPS_PER_EXAMPLE * EXAMPLES, num_steps


TestEngineStates.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    # A run of 40 steps says enough; making it smaller would take minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
