"""What an agent answered before is drafted from, by this agent and this model only, and the answers stay the same."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semanticd.application.engine.running_sequence import SequenceText
from semanticd.domain.agent import Agent, AgentConfig
from semanticd.domain.chat import Message
from semanticd.domain.earlier_text import EarlierText
from semanticd.domain.errors import AgentNotFoundError, CancelledByCallerError
from semanticd.domain.generation import SamplingParams
from semanticd.domain.ids import AgentId, ModelFingerprint
from semanticd.domain.transcript import Segment, Transcript
from tests.fakes.engine_rig import Answer, EngineRig, wait_until
from tests.fakes.mlx_rig import WITHOUT_END, IdTokenizer, MlxRig, prompt_of
from tests.fakes.model_runner import HashRunner, loaded_model
from tests.fakes.service_rig import ServiceRig
from tests.fakes.warm_store import MemoryAgentArchive, MemoryWarmStore

PROMPT = list(range(1, 40))
NO_END = SamplingParams(temperature=0, ignore_eos=True)


def told(rig: EngineRig) -> EarlierText | None:
    """Return what the runner received with the last sequence."""
    return list(rig.runner.earlier.values())[-1]


def answers(text: EarlierText | None, prompt: Sequence[int]) -> list[int] | None:
    """Return the answer to a prompt, if it is known."""
    start = None if text is None else text.answer_to(prompt)
    return None if text is None or start is None else text.continuation(start, 10_000)


def ids_of(rig: EngineRig, answer: Answer) -> list[int]:
    return list(rig.tokenizer.encode(answer.text))


def test_an_agent_is_given_its_own_answers_and_no_others() -> None:
    with EngineRig(runner=HashRunner(max_drafts=6)) as rig:
        first = ids_of(rig, rig.ask(PROMPT, agent="a", max_tokens=30).answer())
        assert told(rig) is None
        rig.ask(PROMPT, agent="b", max_tokens=30).answer()
        assert told(rig) is None, "the same prompt, of another agent"
        rig.ask([9, 9, 9], agent="a").answer()
        assert answers(told(rig), PROMPT) == first
        rig.ask([9, 9, 9], agent="b").answer()
        assert answers(told(rig), [9, 9, 9]) is None


def test_one_that_has_no_name_is_found_by_the_same_prompt_only() -> None:
    with EngineRig(runner=HashRunner(max_drafts=6)) as rig:
        first = ids_of(rig, rig.ask(PROMPT, agent="anon-1", anonymous=True, max_tokens=30).answer())
        rig.ask(PROMPT, agent="anon-1", anonymous=True, max_tokens=30).answer()
        text = told(rig)
        assert answers(text, PROMPT) == first
        assert text is not None
        assert text.find(first[:3]) is None, "whoever begins alike would feel what others were told"


def test_a_cancelled_answer_helps_the_next_try() -> None:
    with EngineRig(runner=HashRunner(max_drafts=6)) as rig:
        ask, submission = rig.submission(PROMPT, max_tokens=10_000)
        ask.on_update = lambda update: (
            rig.engine.cancel(ask.request_id)
            if isinstance(update, SequenceText) and len(ask.text) > 20
            else None
        )
        rig.engine.submit(submission)
        assert isinstance(ask.error(), CancelledByCallerError)
        rig.ask(PROMPT, max_tokens=30).answer()
        known = answers(told(rig), PROMPT)
    assert known is not None
    assert rig.tokenizer.decode(known).startswith(ask.text)


def test_after_a_restart_and_in_a_fork_the_last_answer_is_known() -> None:
    warm, archive = MemoryWarmStore(), MemoryAgentArchive()
    with EngineRig(runner=HashRunner(max_drafts=6), warm=warm, archive=archive) as rig:
        first = ids_of(rig, rig.ask(PROMPT, max_tokens=30).answer())
        agent = rig.agents.get(AgentId("a"))
        rig.agents.save(replace(agent, agent_id=AgentId("fork")))
        rig.ask(PROMPT, agent="fork").answer()
        assert answers(told(rig), PROMPT) == first
    with EngineRig(runner=HashRunner(max_drafts=6), warm=warm, archive=archive) as rig:
        rig.ask(PROMPT, max_tokens=30).answer()
        assert answers(told(rig), PROMPT) == first


def test_a_record_with_ids_that_no_table_holds_is_not_drafted_from() -> None:
    archive = MemoryAgentArchive()
    with EngineRig(runner=HashRunner(max_drafts=6), archive=archive) as rig:
        rig.ask(PROMPT, max_tokens=30).answer()
        agent = rig.agents.get(AgentId("a"))
        prompt, answer = agent.transcript.segments
        forged = Segment(answer.text, (*answer.token_ids[:3], 2_000_000, *answer.token_ids[4:]))
        rig.agents.save(replace(agent, agent_id=AgentId("forged"), transcript=Transcript((prompt, forged))))
        rig.ask(PROMPT, agent="forged").answer()
        assert told(rig) is None


def test_a_delete_while_the_record_is_read_leaves_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    warm, archive = MemoryWarmStore(), MemoryAgentArchive()
    with EngineRig(runner=HashRunner(max_drafts=6), warm=warm, archive=archive) as rig:
        rig.ask(PROMPT, max_tokens=30).answer()
    with EngineRig(runner=HashRunner(max_drafts=6), warm=warm, archive=archive) as rig:
        find, look_up = rig.agents.find, rig.cache.answers.of
        looked_up: list[AgentId] = []
        deletions: list[threading.Thread] = []

        def noting(agent_id: AgentId, model: tuple[ModelFingerprint, str]) -> EarlierText | None:
            looked_up.append(agent_id)
            return look_up(agent_id, model)

        def find_and_delete(agent_id: AgentId) -> Agent | None:
            agent = find(agent_id)
            if looked_up and not deletions:
                deletions.append(threading.Thread(target=rig.agents.delete, args=(agent_id,)))
                deletions[0].start()
                # It waits for the lock meanwhile.
                deletions[0].join(0.5)
            return agent

        monkeypatch.setattr(rig.cache.answers, "of", noting)
        monkeypatch.setattr(rig.agents, "find", find_and_delete)
        rig.ask([9, 9, 9]).answer()
        deletions[0].join()
        assert answers(look_up(AgentId("a"), rig.model.content), PROMPT) is None


def test_another_model_is_told_nothing() -> None:
    with EngineRig(runner=HashRunner(max_drafts=6)) as rig:
        other = HashRunner(fingerprint="cd" * 32, seed=1, max_drafts=6)
        rig.add_model(loaded_model(other, model_id="other"))
        first = ids_of(rig, rig.ask(PROMPT, max_tokens=30).answer())
        rig.ask(PROMPT, model="other", max_tokens=30).answer()
        assert list(other.earlier.values()) == [None]
        rig.ask(PROMPT, model="other").answer()
        known = answers(list(other.earlier.values())[-1], PROMPT)
        assert known is not None
        assert known != first
        rig.ask(PROMPT).answer()
        assert answers(told(rig), PROMPT) == first, "as it was"
        for runner in (rig.runner, other):
            wait_until(lambda runner=runner: runner.num_open == 0)  # type: ignore[misc]
        assert other.num_open == 0


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["ann", "bob"]), st.sampled_from(["tiny", "twin", "other"]), st.integers(0, 2),
                  st.integers(0, 12)),
        max_size=10,
    )
)  # fmt: skip
def test_each_agent_is_told_what_it_was_answered_by_an_equal_model(
    steps: list[tuple[str, str, int, int]],
) -> None:
    """Agents, an equal twin, another model, deletes (length 0), in any order."""
    prompts = [[n + 1] * 20 for n in range(3)]
    known: dict[tuple[str, str], dict[int, list[int]]] = {}
    with EngineRig(runner=HashRunner(max_drafts=6)) as rig:
        runners = {"tiny": rig.runner, "twin": HashRunner(max_drafts=6)}
        runners["other"] = HashRunner(fingerprint="cd" * 32, seed=1, max_drafts=6)
        for name in ("twin", "other"):
            rig.add_model(loaded_model(runners[name], model_id=name))
        for agent, model, number, length in steps:
            if not length:
                rig.on_engine(lambda agent=agent: rig.agents.delete(AgentId(agent)))  # type: ignore[misc]
                known = {key: value for key, value in known.items() if key[0] != agent}
                continue
            said = rig.ask(prompts[number], agent=agent, model=model, max_tokens=length).answer()
            text = list(runners[model].earlier.values())[-1]
            mine = known.setdefault((agent, model.replace("twin", "tiny")), {})
            assert {n: answers(text, prompt) for n, prompt in enumerate(prompts)} == {
                n: mine.get(n) for n in range(3)
            }
            ids = ids_of(rig, said)
            # A shorter answer is the beginning of the longer one: it is greedy.
            mine[number] = max(mine.get(number, []), ids, key=len)


@pytest.mark.parametrize("runner", [HashRunner(), HashRunner(max_drafts=6, has_state=True)])
def test_where_nothing_is_guessed_nothing_is_kept(runner: HashRunner) -> None:
    with EngineRig(runner=runner) as rig:
        rig.ask(PROMPT, max_tokens=30).answer()
        rig.ask(PROMPT, max_tokens=30).answer()
        assert told(rig) is None
        assert rig.cache.answers.num_bytes == 0


async def said(rig: ServiceRig, agent: str) -> None:
    await rig.say([Message.of("user", f"hello, I am {agent}")], agent=agent)


def keeps(rig: ServiceRig, agent: str) -> bool:
    """Whether an agent's answers are in memory."""
    model = next(iter(rig.engine.models.values()))
    return rig.engine_rig.cache.answers.of(AgentId(agent), model.content) is not None


async def test_who_is_deleted_rewound_or_expired_leaves_no_answers() -> None:
    async with ServiceRig(max_drafts=6) as rig:
        await rig.agents.create("expired", AgentConfig(ttl_s=10.0))
        for agent in ("deleted", "rewound", "expired", "kept"):
            await said(rig, agent)
            assert keeps(rig, agent)
        await rig.agents.delete("deleted")
        await rig.agents.rewind("rewound")
        rig.clock.advance(11.0)
        assert await rig.agents.expire() == 1
        assert [keeps(rig, one) for one in ("deleted", "rewound", "expired")] == [False] * 3
        assert keeps(rig, "kept")
        await rig.cache.clear()
        assert not keeps(rig, "kept")


async def test_what_a_request_left_that_has_no_record_can_be_deleted() -> None:
    async with ServiceRig(max_drafts=6) as rig:
        stream = await rig.begin([Message.of("user", "hi")], agent="a")
        async for event in stream:
            if getattr(event, "text", ""):
                break
        await stream.aclose()
        await rig.agents.cancel("a")
        wait_until(lambda: keeps(rig, "a"))
        with pytest.raises(AgentNotFoundError):
            await rig.agents.delete("a")
        assert not keeps(rig, "a")


# The real runner.


def steps_of(rig: MlxRig, agent: str) -> int:
    return rig.agents.get(AgentId(agent)).turns[-1].decode_steps


@pytest.mark.parametrize("family", ["llama", "qwen3", "deepseek_v2", "gemma3_text", "mamba2", "qwen3_next"])
def test_a_question_asked_again_has_the_same_answer_in_fewer_steps(family: str) -> None:
    prompt, found = prompt_of(60, 1), []
    cuts = family in {"llama", "qwen3", "deepseek_v2"}
    for max_drafts in (0, 12):
        with MlxRig(family, max_drafts=max_drafts) as rig:
            texts, steps = [], []
            for agent in ("a", "a", "b"):
                texts.append(rig.ask(prompt, agent=agent, max_tokens=80, sampling=WITHOUT_END).answer().text)
                steps.append(steps_of(rig, agent))
            found.append(texts)
            accepted = rig.metrics.counters["accepted_tokens_total", "earlier"]
            if max_drafts and cuts:
                assert steps[1] <= 80 / 13 + 5
                assert accepted > 50
                assert steps[2] == steps[0], "another agent gains nothing"
            else:
                assert steps == [80] * 3
                assert accepted == 0
    assert len({text for texts in found for text in texts}) == 1


def test_a_batch_of_two_agents_is_drafted_for_each_from_its_own() -> None:
    prompts = {"a": prompt_of(60, 1), "b": prompt_of(45, 2)}
    found, steps = [], []
    for max_drafts in (0, 12):
        with MlxRig("llama", max_drafts=max_drafts) as rig:
            for _ in range(2):
                with rig.held():
                    asks = [
                        rig.ask(prompt, agent=agent, max_tokens=90, sampling=WITHOUT_END)
                        for agent, prompt in prompts.items()
                    ]
                found.append([ask.answer().text for ask in asks])
            steps.append([steps_of(rig, agent) for agent in prompts])
    assert found[0] == found[1] == found[2] == found[3]
    assert all(one < 40 for one in steps[1])
    assert all(one > 80 for one in steps[0])


SAMPLINGS = {
    "stopped": SamplingParams(temperature=0, ignore_eos=True, stop=("?",)),
    "scored": SamplingParams(temperature=0, ignore_eos=True, logprobs=True, top_logprobs=2),
    "sampled": SamplingParams(temperature=0.8, top_p=0.9, ignore_eos=True),
    "penalized": SamplingParams(temperature=0.7, ignore_eos=True, repetition_penalty=1.3),
}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_asked_again_in_another_way_it_is_what_it_is_without_drafts(name: str) -> None:
    """The former answer is greedy, so that most of the drafts are wrong at some place."""
    prompt, found = prompt_of(60, 1), []
    for max_drafts in (0, 12):
        with MlxRig("llama", max_drafts=max_drafts) as rig:
            before = rig.ask(prompt, max_tokens=60, sampling=WITHOUT_END).answer().text
            # The text stops in the middle of a draft.
            sampling = SAMPLINGS[name]
            sampling = replace(sampling, stop=(before[30:32],)) if sampling.stop else sampling
            seen = []
            for _ in range(2):
                answer = rig.ask(prompt, max_tokens=60, sampling=sampling, seed=3).answer()
                scores = [round(one.logprob, 3) for one in answer.logprobs]
                seen.append((answer.text, answer.reason, answer.stop_sequence, scores))
            assert seen[0][:3] == seen[1][:3]
            # What was kept serves the next turn.
            longer = [*prompt, *rig.tokenizer.encode(seen[1][0]), *prompt_of(9, 4)]
            after = rig.ask(longer, max_tokens=20, sampling=WITHOUT_END).answer()
            found.append((seen, after.text, after.cache.cached_tokens))
            drafted = rig.metrics.counters["drafted_tokens_total", "earlier"]
    assert found[0] == found[1]
    assert drafted > 0


def test_one_that_is_set_back_goes_on_with_its_former_answer() -> None:
    prompt = prompt_of(60, 1)
    with MlxRig("llama", max_drafts=12) as rig:
        first = rig.ask(prompt, max_tokens=150, sampling=WITHOUT_END).answer().text
        ask, submission = rig.submission(prompt, max_tokens=150, sampling=WITHOUT_END)
        seen: Counter[str] = Counter()

        def set_back(_: object) -> None:
            if len(ask.text) > 40 and not seen["set back"]:
                seen["set back"] += 1
                preempt = rig.engine._completion.preempt  # noqa: SLF001 (nothing else sets one back that is alone)
                rig.engine.call(lambda: list(map(preempt, rig.engine.running())))

        ask.on_update = set_back
        rig.engine.submit(submission)
        assert ask.answer().text == first
        assert seen["set back"]
        assert rig.metrics.counters["preemptions_total",] == 1
        assert steps_of(rig, "a") < 40


def test_a_turn_that_left_the_prompt_is_drafted_from() -> None:
    """As where a client summarizes: the answer comes again, behind a prompt that has nothing of the first."""
    bias = dict.fromkeys(range(30, 34), 60.0)
    sampling = SamplingParams(temperature=0, ignore_eos=True, logit_bias=bias, repetition_penalty=1.02)
    found = []
    for agent in ("a", "b"):
        with MlxRig("llama", max_drafts=12) as rig:
            rig.ask(prompt_of(50, 1), agent="a", max_tokens=100, sampling=sampling).answer()
            answer = rig.ask(prompt_of(50, 2), agent=agent, max_tokens=100, sampling=sampling).answer()
            found.append(answer.text)
            assert (rig.metrics.counters["accepted_tokens_total", "earlier"] > 0) == (agent == "a")
    assert found[0] == found[1]


@pytest.mark.parametrize("ends", ["eos", "max_tokens", "stop", "cancel", "preempt"])
@pytest.mark.parametrize("family", ["llama", "deepseek_v2"])
def test_what_is_kept_of_an_answer_that_ends_inside_a_draft_is_right_after_a_restart(
    family: str, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some drafts are wrong, and the right ones go on behind the end: neither may be in a block."""
    prompt, more = prompt_of(60, 1), prompt_of(9, 5)
    warm, archive = MemoryWarmStore(), MemoryAgentArchive()
    with MlxRig(family, max_drafts=0) as rig:
        whole, _ = rig.tell(prompt, max_tokens=90)
    # The first time that this one comes.
    place = next(n for n in range(44, 90) if whole[n] not in whole[:n])
    end = whole[place]
    if ends == "eos":
        monkeypatch.setattr(IdTokenizer, "eos_token_ids", frozenset([end]))
    with MlxRig(family, warm=warm, archive=archive) as rig:
        former = list(whole)
        former[7:30:11] = [token % 200 + 7 for token in former[7:30:11]]
        rig.cache.answers.remember(AgentId("a"), rig.model.content, prompt=prompt, answer=former)
        ask, submission = rig.submission(
            prompt,
            max_tokens=place + 1 if ends == "max_tokens" else 90,
            sampling=SamplingParams(
                temperature=0, ignore_eos=ends != "eos", stop=(rig.tokenizer.decode([end]),) if ends == "stop" else ()
            ),
        )  # fmt: skip

        def interrupt(_: object) -> None:
            if len(ask.text) != place or rig.metrics.counters["preemptions_total",]:
                return
            if ends == "cancel":
                rig.engine.cancel(ask.request_id)
            elif ends == "preempt":
                preempt = rig.engine._completion.preempt  # noqa: SLF001 (nothing else sets one back that is alone)
                rig.engine.call(lambda: list(map(preempt, rig.engine.running())))

        ask.on_update = interrupt
        rig.engine.submit(submission)
        ask.wait()
        rig.idle()
        said = rig.tokenizer.encode(ask.text)
        counts = rig.engine.drafts.earlier
    assert said == whole[: len(said)]
    assert len(said) >= place
    assert 0 < counts.num_accepted < counts.num_drafted
    longer = [*prompt, *said, *more]
    with MlxRig(family, warm=warm, archive=archive) as rig:
        answer = rig.ask(longer, agent="b", max_tokens=20, sampling=WITHOUT_END).answer()
    assert answer.cache.restored_warm_tokens >= len(prompt) + place - 1
    with MlxRig(family, max_drafts=0) as cold:
        assert answer.text == cold.ask(longer, max_tokens=20, sampling=WITHOUT_END).answer().text
