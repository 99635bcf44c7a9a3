"""Random days of the scheduler: no sequence is lost or starved, and the budget is never exceeded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from semanticd.domain.chunk_policy import ATTENTION_BYTES, ChunkTraits
from semanticd.domain.ids import SequenceId
from semanticd.domain.scheduler import Decode, Prefill, SchedulerLimits
from semanticd.domain.sequence import Sequence, SequenceState
from tests.fakes.scheduled_engine import Job, ScheduledEngine

BUDGET = 600

JOBS: dict[str, Any] = {
    "agent": st.sampled_from("abcd"),
    "priority": st.sampled_from(["interactive", "interactive", "background"]),
    "prompt": st.integers(1, 250),
    "answer": st.integers(1, 60),
    "model": st.sampled_from(["m", "m", "n"]),
    "shares": st.sampled_from([None, None, (1, 40), (1, 200), (2, 120)]),
    "restore_s": st.sampled_from([0.0, 0.0, 0.05, 1.0]),
    "chunks": st.sampled_from([ChunkTraits(), ChunkTraits(min_tokens=40), ChunkTraits(score_bytes=1 << 16)]),
}


class SchedulerMachine(RuleBasedStateMachine):
    """Requests come and go at random while the engine works."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = ScheduledEngine(
            limits=SchedulerLimits(max_batch_size=3, prefill_chunk=64, aging_s=2.0), budget=BUDGET
        )
        self.sequences: dict[SequenceId, Sequence] = {}
        self.cancelled: set[SequenceId] = set()

    @rule(job=st.builds(Job, **JOBS))
    def arrive(self, job: Job) -> None:
        sequence = self.engine.add(job)
        self.sequences[sequence.sequence_id] = sequence

    @rule(num_steps=st.integers(1, 20))
    def work(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.engine.step(next_event=self.engine.now + 0.5)

    @precondition(lambda self: len(self.engine.scheduler))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.engine.scheduler.sequences()))
        self.engine.cancel(sequence)
        self.cancelled.add(sequence.sequence_id)

    @invariant()
    def nobody_is_lost(self) -> None:
        alive = {s.sequence_id for s in self.engine.scheduler.sequences()}
        assert alive | set(self.engine.finished) | self.cancelled == set(self.sequences)
        assert not alive & set(self.engine.finished)

    @invariant()
    def the_budget_holds(self) -> None:
        running = [s for s in self.engine.scheduler.sequences() if s.state is not SequenceState.WAITING]
        assert self.engine.used <= BUDGET or len(running) == 1
        assert len(running) <= 3

    @invariant()
    def chunks_keep_their_limits(self) -> None:
        last = self.engine.decisions[-1:]
        for step in (decision.step for decision in last if isinstance(decision.step, Prefill)):
            assert step.num_tokens <= 64
            sequence = self.sequences[step.sequence_id]
            if sequence.chunks.score_bytes and sequence.num_cached:
                scores = sequence.chunks.score_bytes * step.num_tokens * sequence.num_cached
                assert scores <= ATTENTION_BYTES or step.num_tokens <= 16

    @invariant()
    def decode_had_its_share(self) -> None:
        # Since both began to wait: what prefill took beyond its half is at most the chunk that ran last, and what
        # a decode step just before had given it in advance.
        decoding = prefilling = longest = 0.0
        for decision in reversed(self.engine.decisions):
            if not decision.both_waited:
                break
            if isinstance(decision.step, Decode):
                decoding += decision.seconds
            elif isinstance(decision.step, Prefill):
                prefilling += decision.seconds
                longest = max(longest, decision.seconds)
        assert prefilling <= decoding + longest + self.engine.decode_step_s

    def teardown(self) -> None:
        # When no new sequence arrives, all are answered, in no more time than there is work.
        work = sum(s.num_tokens * 0.001 + s.max_new_tokens * 0.02 for s in self.sequences.values())
        began = self.engine.now
        self.engine.run()
        assert set(self.engine.finished) | self.cancelled == set(self.sequences)
        preempted = 1 + self.engine.num_preemptions
        assert self.engine.now - began <= work * preempted + 2.0 * len(self.sequences) + 2.0
        for sequence_id in self.engine.finished:
            assert len(self.sequences[sequence_id].output_ids) == self.sequences[sequence_id].max_new_tokens


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=120 if settings.get_current_profile_name() == "ci" else 25,
    stateful_step_count=40,
    # Explaining a failure traces every line from the beginning, which makes every run ten times as slow.
    phases=set(Phase) - {Phase.explain},
)


CHUNK = 64
RIVALS: dict[str, Any] = {
    "at": st.floats(0.0, 1.0),
    "priority": st.sampled_from(["interactive", "interactive", "background"]),
    "prompt": st.sampled_from([400, 1500, 3000]),
    "answer": st.just(1),
    "shares": st.sampled_from([None, (1, 390), (1, 3000), (2, 1400)]),
    "restore_s": st.sampled_from([0.0, 0.0, 0.2]),
}


@given(
    rivals=st.lists(st.builds(Job, **RIVALS), min_size=1, max_size=8),
    returning=st.lists(st.integers(0, 7), max_size=3),
    prompt=st.integers(1, 500),
    places=st.integers(9, 12),
)
@settings(max_examples=150 if settings.get_current_profile_name() == "ci" else 60, deadline=None)
def test_other_agents_overtake_a_waiting_prompt_within_its_time(
    rivals: list[Job], returning: list[int], prompt: int, places: int
) -> None:
    """Whoever leads, follows, restores or comes back after a preemption: each agent goes before it by its own turns.

    An agent's turns are as long as the prompt's, and a chunk more. Answers that come back take every other turn.
    """
    limits = SchedulerLimits(max_batch_size=places, prefill_chunk=CHUNK, aging_s=1000.0)
    engine = ScheduledEngine(limits=limits, decode_step_s=0.0)
    jobs = [replace(job, agent=f"rival-{number}") for number, job in enumerate(rivals)]
    sequences = engine.run(jobs, until=1.0)
    for number in returning:
        if number < len(sequences) and sequences[number].state is SequenceState.PREFILLING:
            begun = sequences[number]
            engine.lose(begun)
            begun.output_ids.append(0)
            begun.max_new_tokens += 1
    engine.decisions.clear()
    waiting = engine.add(Job(agent="one", prompt=prompt, answer=1))
    while waiting.sequence_id not in engine.first_token:
        engine.step(next_event=engine.now + 0.1)
    chunks = [d.step for d in engine.decisions if isinstance(d.step, Prefill)]
    passing = sum(step.num_tokens for step in chunks if step.sequence_id != waiting.sequence_id)
    num_turns = 2 * len(rivals) + 1 if returning else len(rivals)
    assert passing <= num_turns * (prompt + 2 * CHUNK)
