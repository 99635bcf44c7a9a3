"""An engine of numbers around the real scheduler: every step costs what it is said to cost, and nothing is computed.

It keeps the engine's rules (admit what fits, preempt the youngest when the budget is overdrawn, publish full blocks
as chunks end) and records every decision with its clock reading.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from semanticd.domain.chunk_policy import ChunkTraits
from semanticd.domain.generation import Priority
from semanticd.domain.ids import AgentId, ModelId, SequenceId
from semanticd.domain.scheduler import Admit, Decode, Idle, Join, Prefill, Scheduler, SchedulerLimits, Step
from semanticd.domain.sequence import Sequence, SequenceEvent, SequenceState

_RUNNING = (SequenceState.PREFILLING, SequenceState.DECODING)


@dataclass(frozen=True, slots=True)
class Job:
    """A request to come: when it arrives (seconds), whose it is, and how much there is to do (tokens)."""

    at: float = 0.0
    agent: str = "a"
    priority: Priority = "interactive"
    prompt: int = 64
    answer: int = 8
    model: str = "m"
    shares: tuple[int, int] | None = None
    """(group, tokens): its prompt begins with so many tokens of the group's."""
    restore_s: float = 0.0
    """How long its blocks are read before it starts."""
    chunks: ChunkTraits = field(default_factory=ChunkTraits)
    """What its model makes of the length of chunks."""


@dataclass(slots=True)
class Decision:
    """One step, when it began, how long it took, and what waited meanwhile."""

    step: Step
    began: float
    seconds: float
    both_waited: bool


@dataclass
class ScheduledEngine:
    """Runs jobs to their end on a clock of its own; sizes count tokens, one of which takes one of the budget."""

    limits: SchedulerLimits = field(default_factory=SchedulerLimits)
    block_tokens: int = 16
    budget: int = 1_000_000
    prefill_token_s: float = 0.001
    chunk_s: float = 0.0
    """What every chunk costs besides its tokens."""
    decode_step_s: float = 0.02
    join_s: float = 0.0
    now: float = 0.0
    decisions: list[Decision] = field(default_factory=list)
    finished: dict[SequenceId, float] = field(default_factory=dict)
    first_token: dict[SequenceId, float] = field(default_factory=dict)
    computed: int = 0
    num_preemptions: int = 0

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(limits=self.limits, block_tokens=self.block_tokens)
        self._ids = itertools.count(1)
        self._restoring: dict[SequenceId, float] = {}
        self._restore_s: dict[SequenceId, float] = {}
        self._published: set[tuple[int, ...]] = set()

    def add(self, job: Job) -> Sequence:
        """Submit a job now."""
        number = next(self._ids)
        group, length = job.shares or (0, 0)
        head = tuple(-(group * 1_000_000 + i + 1) for i in range(min(length, job.prompt)))
        own = tuple(number * 1_000_000 + i for i in range(job.prompt - len(head)))
        sequence = Sequence(
            sequence_id=SequenceId(number),
            agent_id=AgentId(job.agent),
            model_id=ModelId(job.model),
            prompt_ids=head + own,
            max_new_tokens=job.answer,
            arrived_at=self.now,
            priority=job.priority,
            chunks=job.chunks,
        )
        if job.restore_s:
            self._restore_s[sequence.sequence_id] = job.restore_s
        self.scheduler.add(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence now, whatever it does."""
        sequence.apply(SequenceEvent.ENDED)
        self._restoring.pop(sequence.sequence_id, None)
        self.scheduler.remove(sequence.sequence_id)

    def lose(self, sequence: Sequence) -> None:
        """Preempt a sequence now; of what was computed for anybody nothing is kept."""
        sequence.apply(SequenceEvent.PREEMPTED)
        sequence.num_cached = sequence.num_published = 0
        self._published.clear()

    @property
    def used(self) -> int:
        """Tokens of the running sequences."""
        return sum(s.num_tokens for s in self.scheduler.sequences() if s.state in _RUNNING)

    def run(self, jobs: Items[Job] = (), *, until: float = 1e9, max_steps: int = 200_000) -> list[Sequence]:
        """Let jobs arrive and work until all are done, or until that clock reading; returns their sequences."""
        coming = sorted(jobs, key=lambda job: job.at)
        sequences: list[Sequence] = []
        for _ in range(max_steps):
            while coming and coming[0].at <= self.now:
                sequences.append(self.add(coming.pop(0)))
            if self.now >= until or (not coming and not len(self.scheduler)):
                return sequences
            self.step(next_event=coming[0].at if coming else None)
        raise AssertionError(f"not done after {max_steps} steps: {self.scheduler.sequences()}")

    def step(self, *, next_event: float | None = None) -> Step:
        """Take one decision and carry it out."""
        self._end_restores()
        both = self._both_wait()
        step = self.scheduler.decide(self.now)
        began = self.now
        if isinstance(step, Admit):
            self._admit(self._get(step.sequence_id))
        elif isinstance(step, Prefill):
            self._prefill(self._get(step.sequence_id), step.num_tokens)
        elif isinstance(step, Join):
            self._join(self._get(step.sequence_id))
        elif isinstance(step, Decode):
            self._decode(step.model_id)
        elif isinstance(step, Idle):
            events = [*self._restoring.values(), *([next_event] if next_event is not None else [])]
            waiting = self.scheduler.in_state(SequenceState.WAITING)
            assert events or not waiting, f"nothing will ever happen to {[s.sequence_id for s in waiting]}"
            self.now = max(self.now, min(events, default=self.now + 1.0))
            self.scheduler.unblock()
        self.decisions.append(Decision(step, began, self.now - began, both))
        return step

    def _get(self, sequence_id: SequenceId) -> Sequence:
        sequence = self.scheduler.get(sequence_id)
        assert sequence is not None, "the scheduler speaks of a sequence that is gone"
        return sequence

    def _both_wait(self) -> bool:
        return all(self.scheduler.in_state(state) for state in _RUNNING)

    def _admit(self, sequence: Sequence) -> None:
        if self.used + sequence.num_tokens + 1 > self.budget:
            self.scheduler.block(sequence.sequence_id)
            return
        seconds = self._restore_s.pop(sequence.sequence_id, 0.0)
        if seconds:
            self.scheduler.hold(sequence.sequence_id)
            self._restoring[sequence.sequence_id] = self.now + seconds
            return
        self._start(sequence)

    def _end_restores(self) -> None:
        for sequence_id, at in list(self._restoring.items()):
            if at <= self.now:
                del self._restoring[sequence_id]
                self.scheduler.release(sequence_id)

    def _start(self, sequence: Sequence) -> None:
        ids = sequence.token_ids
        known = 0
        while ids[: known + self.block_tokens] in self._published and known + self.block_tokens < len(ids):
            known += self.block_tokens
        sequence.num_cached = sequence.num_published = known
        sequence.apply(SequenceEvent.ADMITTED)

    def _join(self, sequence: Sequence) -> None:
        assert sequence.num_to_prefill == 0, "who joins has nothing left to compute"
        self.now += self.join_s
        sequence.apply(SequenceEvent.PREFILLED)
        self.scheduler.record_stall(self.join_s)

    def _prefill(self, sequence: Sequence, num_tokens: int) -> None:
        assert sequence.state is SequenceState.PREFILLING
        assert 0 < num_tokens <= sequence.num_to_prefill, "a chunk lies within the prompt"
        seconds = self.chunk_s + num_tokens * self.prefill_token_s
        self.now += seconds
        self.computed += num_tokens
        sequence.num_cached += num_tokens
        self.scheduler.record_prefill(sequence, num_tokens=num_tokens, seconds=seconds)
        while sequence.num_published + self.block_tokens <= sequence.num_cached:
            sequence.num_published += self.block_tokens
            self._published.add(sequence.token_ids[: sequence.num_published])

    def _decode(self, model_id: ModelId) -> None:
        members = [s for s in self.scheduler.in_state(SequenceState.DECODING) if s.model_id == model_id]
        assert members, "there is somebody to decode for"
        self.now += self.decode_step_s
        self.scheduler.record_decode(members, model_id=model_id, seconds=self.decode_step_s)
        for sequence in members:
            sequence.output_ids.append(0)
            sequence.num_cached = sequence.num_tokens
            self.first_token.setdefault(sequence.sequence_id, self.now)
            if len(sequence.output_ids) >= sequence.max_new_tokens:
                sequence.apply(SequenceEvent.ENDED)
                self.finished[sequence.sequence_id] = self.now
                self.scheduler.remove(sequence.sequence_id)
        self._keep_within_budget()

    def _keep_within_budget(self) -> None:
        while self.used > self.budget:
            running = [s for s in self.scheduler.sequences() if s.state in _RUNNING]
            if len(running) < 2:
                return
            oldest = min(running, key=lambda s: s.arrived_at)
            victim = self.scheduler.preemption_victim(sparing=oldest.sequence_id)
            assert victim is not None
            assert victim is not oldest, "the oldest goes on, so that something always ends"
            victim.apply(SequenceEvent.PREEMPTED)
            victim.num_cached = victim.num_published = 0
            self.scheduler.block(victim.sequence_id)
            self.num_preemptions += 1
