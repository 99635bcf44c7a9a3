"""The engine's answers equal those of a model that computes everything itself, whatever path the cache takes."""

from __future__ import annotations

import random
import threading

import pytest

from semanticd.domain.generation import FinishReason, SamplingParams
from semanticd.domain.scheduler import SchedulerLimits
from tests.fakes.engine_rig import EngineRig
from tests.fakes.model_runner import HashRunner, continuation
from tests.fakes.tokenizer import EOS, CharTokenizer
from tests.fakes.warm_store import MemoryAgentArchive, MemoryWarmStore

TOKENS = CharTokenizer()


def prompt(length: int, seed: int = 0) -> list[int]:
    return [random.Random(seed).randrange(95) for _ in range(length)] if length else []


def truth(token_ids: list[int], num_tokens: int = 8, **options: object) -> str:
    return TOKENS.decode(continuation(token_ids, num_tokens, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 18, 31, 32, 33, 100, 257])
def test_a_cold_prompt_of_any_length_is_answered_as_without_a_cache(length: int) -> None:
    with EngineRig() as rig:
        answer = rig.ask(prompt(length)).answer()
        assert answer.text == truth(prompt(length))
        assert answer.cache.computed_tokens == length
        assert rig.runner.num_prefilled == length - 1


@pytest.mark.parametrize("has_state", [False, True])
def test_the_same_prompt_again_is_hot_and_computes_only_its_last_token(has_state: bool) -> None:
    ids = prompt(100)
    with EngineRig(runner=HashRunner(has_state=has_state)) as rig:
        rig.ask(ids).answer()
        computed = rig.runner.num_prefilled
        again = rig.ask(ids).answer()
        assert again.text == truth(ids, has_state=has_state)
        assert again.cache.reused_hot_tokens == 99
        assert again.cache.tier == "hot"
        assert rig.runner.num_prefilled == computed


@pytest.mark.parametrize("has_state", [False, True])
def test_a_next_turn_computes_nothing_of_the_turn_before(has_state: bool) -> None:
    ids = prompt(100)
    with EngineRig(runner=HashRunner(has_state=has_state)) as rig:
        first = rig.ask(ids, max_tokens=20).answer()
        longer = ids + TOKENS.encode(first.text) + prompt(30, seed=1)
        second = rig.ask(longer, max_tokens=20).answer()
        assert second.text == truth(longer, 20, has_state=has_state)
        assert second.cache.cached_tokens == 120
        assert second.cache.computed_tokens == 30


@pytest.mark.parametrize("has_state", [False, True])
def test_after_a_restart_the_agent_resumes_from_disk(has_state: bool) -> None:
    warm, archive = MemoryWarmStore(), MemoryAgentArchive()
    ids = prompt(100)
    with EngineRig(runner=HashRunner(has_state=has_state), warm=warm, archive=archive) as rig:
        first = rig.ask(ids, max_tokens=20).answer()
    longer = ids + TOKENS.encode(first.text) + prompt(10, seed=1)
    with EngineRig(runner=HashRunner(has_state=has_state), warm=warm, archive=archive) as rig:
        second = rig.ask(longer, max_tokens=20).answer()
        assert second.text == truth(longer, 20, has_state=has_state)
        assert second.cache.restored_warm_tokens == 120
        assert second.cache.tier == "warm"
        assert rig.runner.num_prefilled == 9


@pytest.mark.parametrize("has_state", [False, True])
def test_after_an_eviction_the_agent_resumes_from_disk(has_state: bool) -> None:
    ids = prompt(100)
    with EngineRig(runner=HashRunner(has_state=has_state)) as rig:
        rig.ask(ids).answer()
        rig.idle()
        rig.on_engine(lambda: rig.tables.evict_agent("a"))  # type: ignore[arg-type]
        again = rig.ask(ids).answer()
        assert again.text == truth(ids, has_state=has_state)
        assert again.cache.restored_warm_tokens == 99


def test_agents_that_share_a_prefix_share_its_blocks() -> None:
    shared = prompt(160)
    with EngineRig() as rig:
        rig.ask(shared + prompt(40, 1), agent="a").answer()
        num_blocks = len(rig.store.pool)
        second = shared + prompt(40, 2)
        answer = rig.ask(second, agent="b").answer()
        assert answer.text == truth(second)
        assert answer.cache.reused_hot_tokens >= 160
        own = len(rig.store.pool) - num_blocks
        assert own <= 4


def test_a_prompt_that_leaves_the_known_one_inside_a_block_uses_the_block_up_to_there() -> None:
    shared = prompt(37)
    with EngineRig() as rig:
        rig.ask(shared + prompt(60, 1)).answer()
        other = shared + prompt(60, 2)
        answer = rig.ask(other, agent="b").answer()
        assert answer.text == truth(other)
        assert answer.cache.reused_hot_tokens == 37


def test_where_a_layer_cannot_be_cut_a_prompt_is_reused_up_to_a_snapshot_only() -> None:
    head, tail = prompt(37), prompt(60, 1)
    with EngineRig(runner=HashRunner(has_state=True)) as rig:
        rig.ask(head + tail, snapshot_points=(37,)).answer()
        other = head + prompt(60, 2)
        answer = rig.ask(other, agent="b").answer()
        assert answer.text == truth(other, has_state=True)
        assert answer.cache.reused_hot_tokens == 37


def test_a_turn_writes_snapshots_of_its_prompt_and_its_end() -> None:
    warm, archive = MemoryWarmStore(), MemoryAgentArchive()
    ids = prompt(40)
    with EngineRig(runner=HashRunner(has_state=True), warm=warm, archive=archive) as rig:
        answer = rig.ask(ids, agent="a").answer()
        rig.idle()
        assert [block.kind for name in warm.writes if (block := warm.get(name))].count("state") == 2
        assert rig.ask(ids, agent="b").answer().cache.computed_tokens == 1
    more = ids + TOKENS.encode(answer.text) + prompt(10, seed=1)
    with EngineRig(runner=HashRunner(has_state=True), warm=warm, archive=archive) as rig:
        again = rig.ask(more, agent="a").answer()
        assert again.text == truth(more, has_state=True)
        assert again.cache.computed_tokens <= 11
        assert rig.ask(ids, agent="b").answer().cache.computed_tokens == 1, (
            "the same request, after a restart"
        )


def test_several_agents_are_answered_at_once_as_if_each_were_alone() -> None:
    prompts = [prompt(20 + 37 * n, seed=n) for n in range(8)]
    with EngineRig(limits=SchedulerLimits(max_batch_size=4, prefill_chunk=32)) as rig:
        asks = [rig.ask(ids, agent=f"agent-{n}", max_tokens=30) for n, ids in enumerate(prompts)]
        for ids, ask in zip(prompts, asks, strict=True):
            assert ask.answer().text == truth(ids, 30)
        assert max(rig.runner.batch_sizes) <= 4
        assert max(rig.runner.batch_sizes) > 1


def test_a_preempted_answer_goes_on_where_it_was() -> None:
    # Two running caches of 256 tokens fit, two of 512 do not: they grow while they decode.
    budget = 8 * (4 * 256 - 100)
    warm = MemoryWarmStore()
    with EngineRig(budget_bytes=budget, warm=warm) as rig:
        prompts = [prompt(200, seed=n) for n in range(2)]
        asks = [rig.ask(ids, agent=f"agent-{n}", max_tokens=150) for n, ids in enumerate(prompts)]
        answers = [ask.answer() for ask in asks]
        assert [answer.text for answer in answers] == [truth(ids, 150) for ids in prompts]
        assert rig.metrics.counters[("preemptions_total",)] >= 1


def test_the_model_ends_its_turn_and_the_next_one_reuses_all_of_it() -> None:
    ids = prompt(50)
    script = [*TOKENS.encode("hello"), EOS]
    with EngineRig(runner=HashRunner(script=script)) as rig:
        answer = rig.ask(ids, max_tokens=50).answer()
        assert (answer.text, answer.reason) == ("hello", FinishReason.STOP)
        assert answer.usage.completion_tokens == 6
        next_turn = rig.ask([*ids, *script, *prompt(5)]).answer()
        assert next_turn.cache.reused_hot_tokens == 56


def test_an_end_of_turn_is_ignored_when_the_request_says_so() -> None:
    with EngineRig(runner=HashRunner(script=[1, EOS, 2, 3])) as rig:
        answer = rig.ask(
            prompt(5), max_tokens=4, sampling=SamplingParams(temperature=0, ignore_eos=True)
        ).answer()
        assert answer.usage.completion_tokens == 4
        assert answer.reason is FinishReason.LENGTH


def test_a_stop_string_over_token_boundaries_ends_the_answer_before_it() -> None:
    script = TOKENS.encode("one STTOP STOP two")
    sampling = SamplingParams(temperature=0, stop=("STOP", "nowhere"))
    with EngineRig(runner=HashRunner(script=script)) as rig:
        answer = rig.ask(prompt(20), max_tokens=50, sampling=sampling).answer()
        assert answer.text == "one STTOP "
        assert (answer.reason, answer.stop_sequence) == (FinishReason.STOP_SEQUENCE, "STOP")
        follow = rig.ask([*prompt(20), *TOKENS.encode("one STTOP next")]).answer()
        assert follow.cache.reused_hot_tokens == 30


def test_a_held_back_beginning_of_a_stop_string_is_sent_when_the_answer_ends() -> None:
    sampling = SamplingParams(temperature=0, stop=("STOP",))
    with EngineRig(runner=HashRunner(script=TOKENS.encode("a ST"))) as rig:
        assert rig.ask(prompt(20), max_tokens=50, sampling=sampling).answer().text == "a ST"
        assert rig.ask(prompt(20), max_tokens=4, sampling=sampling).answer().text == "a ST"


def test_a_seed_gives_the_same_answer_alone_and_in_a_batch() -> None:
    sampling = SamplingParams(temperature=1.0)
    ids = prompt(40)
    with EngineRig() as rig:
        alone = rig.ask(ids, sampling=sampling, seed=7, max_tokens=20).answer().text
        asks = [
            rig.ask(prompt(30, n), agent=str(n), sampling=sampling, seed=n, max_tokens=40) for n in range(3)
        ]
        together = rig.ask(ids, sampling=sampling, seed=7, max_tokens=20).answer().text
        for ask in asks:
            ask.answer()
    assert alone == together == truth(ids, 20, sampling=sampling, sampler_seed=7)
    assert alone != truth(ids, 20)


def test_no_tokens_wanted_computes_the_prompt_and_says_so() -> None:
    with EngineRig() as rig:
        answer = rig.ask(prompt(40), max_tokens=0).answer()
        assert (answer.text, answer.reason) == ("", FinishReason.LENGTH)
        assert rig.ask(prompt(40)).answer().cache.reused_hot_tokens == 39


def test_a_prompt_can_be_scored_and_then_no_cached_prefix_is_used() -> None:
    ids = prompt(40)
    sampling = SamplingParams(temperature=0, logprobs=True, top_logprobs=2)
    with EngineRig() as rig:
        rig.ask(ids).answer()
        answer = rig.ask(ids, sampling=sampling, score_prompt=True, max_tokens=3).answer()
        assert [entry.token_id for entry in answer.logprobs] == ids[1:] + continuation(ids, 3)
        assert all(len(entry.top) == 2 for entry in answer.logprobs)
        assert answer.cache.computed_tokens == 40
        assert answer.text == truth(ids, 3)


def test_a_scored_prompt_without_an_answer_reports_all_its_scores() -> None:
    ids = prompt(40)
    sampling = SamplingParams(temperature=0, logprobs=True)
    with EngineRig() as rig:
        answer = rig.ask(ids, sampling=sampling, score_prompt=True, max_tokens=0).answer()
        assert [entry.token_id for entry in answer.logprobs] == ids[1:]


def test_log_probabilities_come_with_their_tokens() -> None:
    ids = prompt(40)
    with EngineRig() as rig:
        answer = rig.ask(ids, sampling=SamplingParams(temperature=0, logprobs=True), max_tokens=5).answer()
        assert [entry.token_id for entry in answer.logprobs] == continuation(ids, 5)
        assert "".join(entry.text for entry in answer.logprobs) == answer.text


def test_updates_are_delivered_on_the_engine_thread_and_told_to_watchers() -> None:
    with EngineRig() as rig:
        ask = rig.ask(prompt(10), agent="watched")
        ask.answer()
        assert ask.thread == rig.on_engine(threading.get_ident)
        told = [event for event in rig.bus.on("tokens") if event["agent"] == "watched"]
        assert "".join(str(event["text"]) for event in told) == truth(prompt(10))
