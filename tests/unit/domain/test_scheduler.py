"""The scheduler's decisions on a clock that only the test moves."""

from __future__ import annotations

import itertools

import pytest

from semanticd.domain.chunk_policy import ChunkTraits
from semanticd.domain.generation import Priority
from semanticd.domain.ids import AgentId, ModelId, SequenceId
from semanticd.domain.scheduler import Admit, Decode, Idle, Join, Prefill, Scheduler, SchedulerLimits
from semanticd.domain.sequence import Sequence, SequenceEvent, SequenceState
from tests.fakes.scheduled_engine import Decision, Job, ScheduledEngine


def time_of(decisions: list[Decision], kind: type) -> float:
    return sum(decision.seconds for decision in decisions if isinstance(decision.step, kind))


def steps_until(engine: ScheduledEngine, sequence: Sequence, state: SequenceState) -> None:
    for _ in range(10_000):
        if sequence.state is state:
            return
        engine.step()
    raise AssertionError(f"sequence {sequence.sequence_id} never was {state.value}")


def test_nothing_to_do_is_idle() -> None:
    assert Scheduler().decide(0.0) == Idle()


def test_a_sequence_is_admitted_prefilled_in_chunks_that_end_on_blocks_and_decoded() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(prefill_chunk=24), block_tokens=16)
    engine.run([Job(prompt=50, answer=2)])
    steps = [decision.step for decision in engine.decisions]
    assert steps[0] == Admit(SequenceId(1))
    chunks = [step.num_tokens for step in steps if isinstance(step, Prefill)]
    assert chunks == [16, 16, 17], "the prompt's last tokens cost no chunk of their own"
    assert sum(isinstance(step, Decode) for step in steps) == 2


def test_a_prompt_of_one_token_is_decoded_without_prefill() -> None:
    engine = ScheduledEngine()
    engine.run([Job(prompt=1, answer=1)])
    assert not any(isinstance(decision.step, Prefill) for decision in engine.decisions)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_decode_gets_its_share_of_the_time_while_prefill_waits(share: float) -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(decode_share=share, prefill_chunk=256), block_tokens=256)
    decoder = engine.add(Job(agent="talker", prompt=2, answer=100_000))
    steps_until(engine, decoder, SequenceState.DECODING)
    engine.add(Job(agent="reader", prompt=20_000, answer=1))
    for _ in range(400):
        engine.step()
    contended = [decision for decision in engine.decisions if decision.both_waited]
    decoding, prefilling = time_of(contended, Decode), time_of(contended, Prefill)
    longest_chunk = max(d.seconds for d in contended if isinstance(d.step, Prefill))
    assert prefilling > 0
    # Whenever it is decode's turn again it has had its share; only the chunk that runs now may be outstanding.
    assert decoding >= share * (decoding + prefilling - longest_chunk) - 1e-9
    assert decoding <= share * (decoding + prefilling) + engine.decode_step_s


@pytest.mark.parametrize("token_s", [0.0001, 0.001, 0.01])
def test_a_chunk_beside_decoding_lasts_no_longer_than_allowed(token_s: float) -> None:
    limits = SchedulerLimits(max_stall_s=0.3, prefill_chunk=512, min_chunk=16)
    engine = ScheduledEngine(limits=limits, block_tokens=512, prefill_token_s=token_s)
    decoder = engine.add(Job(agent="talker", prompt=1, answer=100_000))
    steps_until(engine, decoder, SequenceState.DECODING)
    engine.add(Job(agent="reader", prompt=4000, answer=1))
    for _ in range(200):
        engine.step()
    chunks = [d for d in engine.decisions if isinstance(d.step, Prefill) and d.both_waited]
    assert all(d.seconds <= max(0.3, 16 * token_s) + 1e-9 for d in chunks)
    assert chunks[0].step.num_tokens == 16, "nothing was measured yet"  # type: ignore[union-attr]
    # Chunks are meant to last three quarters of what is allowed, so that a slow one is not too long.
    fitting = min(512, int(0.75 * 0.3 / token_s))
    assert max(d.step.num_tokens for d in chunks) >= min(fitting, 512) - 1  # type: ignore[union-attr]


def test_others_who_start_and_join_hold_decoding_up_no_longer_than_allowed() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=8), join_s=0.1)
    decoder = engine.add(Job(agent="talker", prompt=1, answer=100_000))
    steps_until(engine, decoder, SequenceState.DECODING)
    for number in range(5):
        engine.add(Job(agent=f"reader{number}", prompt=100, answer=3))
    for _ in range(300):
        engine.step()
    kinds = [type(decision.step) for decision in engine.decisions]
    assert kinds.count(Join) == 6
    joined = [index for index, kind in enumerate(kinds) if kind is Join]
    assert all(kinds[index + 1] is Decode for index in joined[1:])
    gaps = [d.began + d.seconds for d in engine.decisions if isinstance(d.step, Decode)]
    longest = max(later - earlier for earlier, later in itertools.pairwise(gaps))
    assert longest <= 0.3 + engine.decode_step_s


def test_time_that_is_neither_prefill_nor_decode_is_taken_from_prefill() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(decode_share=0.5), join_s=0.0)
    decoder = engine.add(Job(agent="talker", prompt=1, answer=100_000))
    steps_until(engine, decoder, SequenceState.DECODING)
    engine.add(Job(agent="reader", prompt=4000, answer=1))
    assert isinstance(engine.step(), Admit)
    engine.scheduler.record_stall(0.19)
    steps = [type(engine.step()) for _ in range(11)]
    assert steps == [Decode] * 10 + [Prefill], "200 ms were lost: ten steps of 20 ms make up for them"


def test_a_chunk_that_took_too_long_makes_the_next_one_shorter() -> None:
    limits = SchedulerLimits(max_stall_s=0.3, prefill_chunk=512)
    engine = ScheduledEngine(limits=limits, block_tokens=512)
    decoder = engine.add(Job(agent="talker", prompt=1, answer=100_000))
    steps_until(engine, decoder, SequenceState.DECODING)
    engine.add(Job(agent="reader", prompt=9000, answer=1))

    def next_chunk() -> Decision:
        while not isinstance(engine.step(), Prefill):
            pass
        return engine.decisions[-1]

    for _ in range(15):
        next_chunk()
    engine.prefill_token_s *= 2
    slow, after, later = next_chunk(), next_chunk(), next_chunk()
    assert slow.seconds > 0.3, "what was measured no longer holds"
    assert max(after.seconds, later.seconds) < slow.seconds
    assert later.seconds <= 0.3


@pytest.mark.parametrize(
    ("token_s", "usual", "shorter"),
    [
        (0.0001, 2048, 1),
        (0.001, 768, 6),
        (0.0015, 512, 6),
        (0.01, 128, 0),
    ],
)
def test_alone_a_chunk_spans_several_blocks_and_lasts_about_a_second(
    token_s: float, usual: int, shorter: int
) -> None:
    engine = ScheduledEngine(block_tokens=256, prefill_token_s=token_s)
    engine.run([Job(prompt=256 + 7680 + 1, answer=1)])
    sizes = [d.step.num_tokens for d in engine.decisions if isinstance(d.step, Prefill)]
    assert sum(sizes) == 256 + 7680
    assert sizes[0] == 256, "it says how fast the next ones are"
    # Until it is measured, a longer history counts as slower: at 2,048 and 4,096 tokens for a chunk or two.
    assert max(sizes[1:]) == usual
    assert sizes[1:].count(usual) >= len(sizes[1:]) - shorter
    assert min(sizes[1:-1]) >= usual / 2


def test_experts_get_enough_tokens_beside_decoding() -> None:
    engine = ScheduledEngine(block_tokens=256, chunk_s=0.4)
    decoder = engine.add(Job(agent="talker", prompt=1, answer=100_000))
    steps_until(engine, decoder, SequenceState.DECODING)
    engine.add(Job(agent="reader", prompt=4000, answer=1, chunks=ChunkTraits(min_tokens=205)))
    for _ in range(300):
        engine.step()
    chunks = [d.step.num_tokens for d in engine.decisions if isinstance(d.step, Prefill)]
    assert sum(chunks) > 2000
    assert min(chunks) >= 205


@pytest.mark.parametrize("arrives", [0.3, 1.0, 1.9, 3.33])
@pytest.mark.parametrize("agent", ["b", "a"])
def test_a_newcomer_waits_for_the_running_chunk_only_and_cuts_the_next(arrives: float, agent: str) -> None:
    engine = ScheduledEngine(block_tokens=256)
    old, new = engine.run([Job(prompt=9000, answer=1), Job(at=arrives, agent=agent, prompt=400, answer=4)])
    begun = [d for d in engine.decisions if d.began >= arrives]
    running = next(d for d in engine.decisions if d.began <= arrives < d.began + d.seconds)
    assert isinstance(running.step, Prefill)
    assert running.seconds <= 1.0
    assert begun[0].step == Admit(new.sequence_id)
    after = [d.step for d in begun if isinstance(d.step, Prefill)]
    if agent == "b":
        assert after[0].sequence_id == new.sequence_id, (
            "whoever comes goes before the next chunk of the other"
        )
    first_end = min(engine.finished[one.sequence_id] for one in (old, new))
    both = [d for d in begun if first_end > d.began and isinstance(d.step, Prefill)]
    assert max(d.seconds for d in both) <= 0.3 + 1e-9


def test_agents_take_turns_by_the_time_they_used() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=10), block_tokens=64)
    greedy = [engine.add(Job(agent="greedy", prompt=6400, answer=1)) for _ in range(3)]
    modest = engine.add(Job(agent="modest", prompt=640, answer=1))
    engine.run()
    assert engine.finished[modest.sequence_id] == min(engine.finished.values())
    # Two agents at once: the modest one waits about as long again as it works.
    assert engine.finished[modest.sequence_id] <= 2 * 0.64 + 0.5
    assert all(one.sequence_id in engine.finished for one in greedy)


def test_within_an_agent_the_first_to_come_is_the_first_to_start() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=1))
    sequences = engine.run([Job(at=n * 0.001, prompt=100) for n in range(4)])
    admitted = [d.step.sequence_id for d in engine.decisions if isinstance(d.step, Admit)]
    assert admitted == [s.sequence_id for s in sequences]


def test_a_background_agent_goes_after_interactive_ones_until_it_has_waited_long_enough() -> None:
    limits = SchedulerLimits(max_batch_size=1, aging_s=5.0)
    jobs = [Job(at=0.0, agent="batch", priority="background", prompt=500)]
    jobs += [Job(at=n * 0.5, agent=f"user-{n}", prompt=500) for n in range(40)]
    engine = ScheduledEngine(limits=limits)
    sequences = engine.run(jobs)
    batch = next(s for s in sequences if s.agent_id == "batch")
    assert engine.first_token[batch.sequence_id] > 5.0
    assert engine.first_token[batch.sequence_id] < 5.0 + 2 * 0.7


def test_an_endless_stream_of_newcomers_starves_nobody() -> None:
    # More arrives than can be served, so that a sequence that was never served waits at any time.
    limits = SchedulerLimits(max_batch_size=1, aging_s=5.0)
    engine = ScheduledEngine(limits=limits)
    old = [
        engine.add(Job(agent="old", prompt=20_000, answer=1)),
        engine.add(Job(agent="old", prompt=100, answer=1)),
    ]
    engine.run([Job(at=0.2 * n, agent=f"new-{n}", prompt=300, answer=5) for n in range(1500)], until=200.0)
    assert old[0].sequence_id in engine.finished
    # It used 20 s more than they, so those that arrive up to 20 s later go first, and no others.
    assert engine.finished[old[1].sequence_id] < 20.0 + (20.0 + 20.0) / 0.2 * 0.4 + 1.0


def test_repeated_cheap_turns_do_not_overtake_one_that_needs_room() -> None:
    """The next one comes while the last one decodes, so that a cheap one is always there, new to the scene."""
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=1))
    cheap = [engine.add(Job(agent="cheap-0", prompt=20, answer=3))]
    engine.scheduler.hold(cheap[0].sequence_id)
    heavy = engine.add(Job(agent="heavy", prompt=5000, answer=2))
    engine.run(until=2.0)
    patient = engine.add(Job(agent="patient", prompt=500, answer=2))
    steps_until(engine, heavy, SequenceState.FINISHED)
    engine.scheduler.release(cheap[0].sequence_id)
    while patient.state is SequenceState.WAITING:
        if cheap[-1].state is SequenceState.DECODING:
            cheap.append(engine.add(Job(agent=f"cheap-{len(cheap) % 2}", prompt=20, answer=3)))
        engine.step()
        assert len(cheap) < 5


def test_the_few_tokens_at_the_end_of_a_prompt_do_not_count_as_a_speed() -> None:
    engine = ScheduledEngine()
    engine.run([Job(prompt=9)])
    assert engine.scheduler.prefill_rate(ModelId("m")) == 0.0


def test_an_agent_that_comes_back_does_not_pay_for_the_past_nor_profit_from_it() -> None:
    engine = ScheduledEngine()
    engine.run([Job(agent="a", prompt=5000), Job(agent="b", prompt=100)])
    assert len(engine.scheduler) == 0
    a, b = engine.add(Job(agent="a", prompt=640)), engine.add(Job(agent="b", prompt=640))
    engine.run()
    assert abs(engine.finished[a.sequence_id] - engine.finished[b.sequence_id]) < 0.3


def test_a_batch_is_never_larger_than_allowed_even_when_restores_end_together() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=2))
    for n in range(6):
        engine.add(Job(agent=str(n), prompt=40, answer=20, restore_s=0.5 if n < 3 else 0.0))
    largest = 0
    for _ in range(500):
        engine.step(next_event=engine.now + 0.1)
        running = [s for s in engine.scheduler.sequences() if s.state is not SequenceState.WAITING]
        largest = max(largest, len(running))
    assert len(engine.finished) == 6
    assert largest == 2


def test_a_restore_does_not_keep_others_from_working() -> None:
    engine = ScheduledEngine()
    slow = engine.add(Job(agent="slow", prompt=50, restore_s=10.0))
    quick = engine.add(Job(agent="quick", prompt=50))
    engine.run()
    assert engine.finished[quick.sequence_id] < 1.0
    assert engine.finished[slow.sequence_id] >= 10.0


def test_four_with_one_prefix_compute_it_once() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=4), block_tokens=50)
    for n in range(4):
        engine.add(Job(agent=str(n), prompt=1020, shares=(1, 1000)))
    engine.run()
    assert engine.computed <= 1000 + 4 * 20


def test_a_short_common_beginning_is_not_waited_for() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=2))
    first = engine.add(Job(agent="a", prompt=500, shares=(1, 20)))
    second = engine.add(Job(agent="b", prompt=500, shares=(1, 20)))
    engine.step()
    assert engine.scheduler.leader_of(second) is None
    assert first.state is SequenceState.PREFILLING
    assert isinstance(engine.step(), Admit)


def test_models_do_not_wait_for_one_another() -> None:
    scheduler_limits = SchedulerLimits(max_batch_size=4)
    engine = ScheduledEngine(limits=scheduler_limits)
    engine.add(Job(agent="a", prompt=500, shares=(1, 400), model="one"))
    other = engine.add(Job(agent="b", prompt=500, shares=(1, 400), model="two"))
    engine.step()
    assert engine.scheduler.leader_of(other) is None


def test_an_interactive_request_does_not_wait_behind_others_for_a_background_leader() -> None:
    limits = SchedulerLimits(max_batch_size=8, aging_s=1000.0)
    engine = ScheduledEngine(limits=limits)
    engine.add(Job(agent="batch", priority="background", prompt=1000, shares=(1, 900)))
    engine.step()
    waiting = engine.add(Job(agent="user", prompt=1000, shares=(1, 900)))
    others = [Job(at=0.3 * n, agent=f"other-{n}", prompt=300) for n in range(200)]
    engine.run(others, until=60.0)
    assert engine.first_token[waiting.sequence_id] < 10.0


def passing_tokens(engine: ScheduledEngine, waiting: Sequence) -> int:
    """Let the engine work until that one has its first token; returns how many tokens of other prompts went before."""
    begun = len(engine.decisions)
    while waiting.sequence_id not in engine.first_token:
        engine.step()
    chunks = [d.step for d in engine.decisions[begun:] if isinstance(d.step, Prefill)]
    return sum(step.num_tokens for step in chunks if step.sequence_id != waiting.sequence_id)


@pytest.mark.parametrize(
    ("leaders", "followers", "num_turns"),
    [
        ("interactive", "interactive", 2),
        ("background", "interactive", 1),
        ("interactive", "background", 1),
        ("background", "background", 0),
    ],
)
@pytest.mark.parametrize("num_pairs", [1, 3])
def test_those_who_wait_for_one_prefix_take_no_more_than_their_turns(
    leaders: Priority, followers: Priority, num_turns: int, num_pairs: int
) -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=9, prefill_chunk=64, aging_s=1000.0))
    for number in range(num_pairs):
        leader = engine.add(Job(agent=f"a{number}", priority=leaders, prompt=1353, shares=(number, 1350)))
        steps_until(engine, leader, SequenceState.PREFILLING)
    for number in range(num_pairs):
        engine.add(Job(agent=f"b{number}", priority=followers, prompt=1353, shares=(number, 1350)))
    while not engine.computed:
        engine.step()
    other = engine.add(Job(agent="other", prompt=389))
    assert passing_tokens(engine, other) <= num_pairs * num_turns * (389 + 64)


def test_who_waits_for_a_prefix_is_served_with_it_and_gains_no_credit_meanwhile() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=9, prefill_chunk=64, aging_s=1.0))
    engine.add(Job(agent="leader", prompt=9000, shares=(1, 9000)))
    engine.add(Job(agent="follower", prompt=9000, shares=(1, 9000)))
    while engine.now < 5.0:
        engine.step()
    assert passing_tokens(engine, engine.add(Job(agent="other", prompt=389))) <= 2 * (389 + 64)


def test_an_answer_that_comes_back_takes_turns_with_prompts_that_wait() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=4, prefill_chunk=64))
    begun = engine.add(Job(agent="busy", prompt=3000, answer=1000))
    steps_until(engine, begun, SequenceState.DECODING)
    engine.step()
    other = engine.add(Job(agent="other", prompt=389))
    engine.lose(begun)
    assert 389 - 64 <= passing_tokens(engine, other) <= 389 + 64


def test_a_background_answer_that_comes_back_goes_after_interactive_prompts() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=4, prefill_chunk=64))
    begun = engine.add(Job(agent="batch", priority="background", prompt=3000, answer=1000))
    steps_until(engine, begun, SequenceState.DECODING)
    engine.step()
    engine.lose(begun)
    assert passing_tokens(engine, engine.add(Job(agent="other", prompt=389))) == 0


def test_short_requests_that_start_and_join_without_end_leave_time_to_a_long_prompt() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=3), join_s=0.1)
    long = engine.add(Job(agent="long", prompt=500))
    steps_until(engine, long, SequenceState.PREFILLING)
    engine.run([Job(at=0.11 * n, agent=f"n{n}", prompt=1, answer=2) for n in range(400)], until=40.0)
    assert engine.first_token[long.sequence_id] < 20.0


def test_who_was_served_once_does_not_wait_for_all_who_come_later() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=9, prefill_chunk=64, aging_s=1000.0))
    long = engine.add(Job(agent="long", prompt=1000, answer=1))
    jobs = [Job(at=0.25 * n, agent=f"new-{n}", prompt=300, answer=1) for n in range(240)]
    engine.run(jobs, until=60.0)
    assert engine.first_token[long.sequence_id] < 10.0


def test_models_take_turns_in_decoding() -> None:
    engine = ScheduledEngine()
    for name in ("one", "two", "three"):
        engine.add(Job(agent=name, prompt=1, answer=20, model=name))
    engine.run()
    turns = [str(d.step.model_id) for d in engine.decisions if isinstance(d.step, Decode)]
    assert set(turns[:3]) == {"one", "two", "three"}
    assert all(a != b for a, b in itertools.pairwise(turns))


def test_what_does_not_fit_waits_and_holds_back_those_behind_it() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=4), budget=300)
    engine.add(Job(agent="a", prompt=200, answer=5))
    large = engine.add(Job(agent="b", prompt=200, answer=5))
    small = engine.add(Job(agent="b", prompt=10, answer=5))
    engine.run()
    assert engine.finished[large.sequence_id] <= engine.finished[small.sequence_id]


def test_an_answer_that_was_preempted_goes_on_before_others_begin() -> None:
    engine = ScheduledEngine(limits=SchedulerLimits(max_batch_size=1))
    begun = engine.add(Job(agent="busy", prompt=400, answer=1000))
    steps_until(engine, begun, SequenceState.DECODING)
    for number in range(5):
        engine.add(Job(agent=f"new-{number}", prompt=400, answer=10))
    while len(begun.output_ids) < 20:
        engine.step()
    begun.apply(SequenceEvent.PREEMPTED)
    begun.num_cached = begun.num_published = 0
    steps_until(engine, begun, SequenceState.DECODING)
    others = [other for other in engine.scheduler.sequences() if other is not begun]
    assert [other.state for other in others] == 5 * [SequenceState.WAITING]


def test_the_youngest_is_preempted_and_background_first() -> None:
    scheduler = Scheduler()
    for number, priority in enumerate(["interactive", "background", "interactive"]):
        sequence = Sequence(
            SequenceId(number),
            agent_id=str(number),
            model_id=ModelId("m"),
            prompt_ids=(1, 2),  # type: ignore[arg-type]
            max_new_tokens=1,
            arrived_at=float(number),
            priority=priority,  # type: ignore[arg-type]
        )
        sequence.apply(SequenceEvent.ADMITTED)
        scheduler.add(sequence)
    victims = []
    for _ in range(2):
        victim = scheduler.preemption_victim(sparing=SequenceId(0))
        assert victim is not None
        victims.append(victim.sequence_id)
        scheduler.remove(victim.sequence_id)
    assert victims == [1, 2]
    assert scheduler.preemption_victim(sparing=SequenceId(0)) is None


def test_others_run_once_they_are_restored_or_computed() -> None:
    engine = ScheduledEngine()
    first, second = (engine.add(Job()).sequence_id for _ in range(2))
    assert not engine.scheduler.others_run(first)
    engine.scheduler.hold(first)
    assert not engine.scheduler.others_run(first)
    assert engine.scheduler.others_run(second)


def test_membership_is_kept() -> None:
    engine = ScheduledEngine()
    sequence = engine.add(Job())
    scheduler = engine.scheduler
    assert sequence.sequence_id in scheduler
    assert len(scheduler) == 1
    assert scheduler.get(sequence.sequence_id) is sequence
    scheduler.hold(sequence.sequence_id)
    assert scheduler.is_held(sequence.sequence_id)
    assert scheduler.decide(0.0) == Idle()
    scheduler.release(sequence.sequence_id)
    assert scheduler.decide(0.0) == Admit(sequence.sequence_id)
    scheduler.block(sequence.sequence_id)
    assert scheduler.decide(0.0) == Idle()
    scheduler.unblock()
    assert scheduler.decide(0.0) == Admit(sequence.sequence_id)
    scheduler.remove(sequence.sequence_id)
    scheduler.remove(sequence.sequence_id)
    assert len(scheduler) == 0


def test_rates_are_what_was_measured() -> None:
    engine = ScheduledEngine(prefill_token_s=0.002, decode_step_s=0.05)
    assert engine.scheduler.prefill_rate(ModelId("m")) == 0.0
    assert engine.scheduler.decode_step_s(ModelId("m")) == 0.0
    engine.run([Job(prompt=300)])
    assert engine.scheduler.prefill_rate(ModelId("m")) == pytest.approx(500.0)
    assert engine.scheduler.decode_step_s(ModelId("m")) == pytest.approx(0.05)
    assert engine.scheduler.decode_token_s(ModelId("m")) == pytest.approx(0.05)


def test_a_step_that_brings_several_tokens_makes_a_token_cheaper_and_no_step() -> None:
    scheduler, model = Scheduler(), ModelId("m")
    assert scheduler.decode_token_s(model) == 0.0
    pair = [Sequence(SequenceId(n), AgentId("a"), model, (1, 2), 8, 0.0) for n in (1, 2)]
    for one in pair:
        scheduler.add(one)
    scheduler.record_decode(pair, model_id=model, seconds=0.06, num_tokens=6)
    assert scheduler.decode_step_s(model) == pytest.approx(0.06)
    assert scheduler.decode_token_s(model) == pytest.approx(0.02)
