"""Several tokens from one step end, stop, count and are kept as tokens from as many steps are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semanticd.application.engine.running_sequence import SequenceFailed, SequenceText
from semanticd.domain.errors import CancelledByCallerError
from semanticd.domain.generation import FinishReason, SamplingParams
from tests.fakes.engine_rig import Answer, EngineRig
from tests.fakes.mlx_rig import MlxRig, prompt_of
from tests.fakes.model_runner import HashRunner
from tests.fakes.tokenizer import EOS, CharTokenizer

TOKENS = CharTokenizer()
LONG = 200


def facts(answer: Answer) -> tuple[object, ...]:
    """Return everything of an answer that must not depend on drafts."""
    cache = answer.cache
    return (
        answer.text, answer.reason, answer.stop_sequence, answer.usage.completion_tokens, answer.usage.stored_tokens,
        answer.logprobs, cache.tier, cache.cached_tokens, cache.computed_tokens,
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 70),
    max_tokens=st.integers(1, 90),
    stops=st.lists(st.text("abcdefgh", min_size=1, max_size=2), max_size=3),
    ends_at=st.one_of(st.none(), st.integers(0, 90)),
    ignore_eos=st.booleans(),
    logprobs=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_answers_end_where_they_do_without_drafts(
    length: int,
    max_tokens: int,
    stops: list[str],
    ends_at: int | None,
    ignore_eos: bool,
    logprobs: bool,
    seed: int,
) -> None:
    source = random.Random(seed)
    letters = TOKENS.encode("abcdefgh")
    ids = [source.choice(letters) for _ in range(length)]
    script = [source.choice(letters) for _ in range(LONG)]
    if ends_at is not None:
        script[ends_at] = EOS
    sampling = SamplingParams(
        temperature=0, stop=tuple(stops), ignore_eos=ignore_eos, logprobs=logprobs, top_logprobs=2 * logprobs
    )
    found = []
    for max_drafts in (0, 6):
        runner = HashRunner(max_drafts=max_drafts, script=script)
        with EngineRig(runner=runner) as rig:
            first = rig.ask(ids, max_tokens=max_tokens, sampling=sampling).answer()
            record = rig.agents.get("a")  # type: ignore[arg-type]
            kept = record.transcript.segments[-1].token_ids if record is not None else ()
            # What was kept of it serves the next turn, and is what it should be.
            longer = [*ids, *TOKENS.encode(first.text), *letters]
            second = rig.ask(longer, max_tokens=5).answer()
            found.append((facts(first), kept, facts(second)))
    assert found[0] == found[1]


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 70), updates=st.integers(1, 12), seed=st.integers(0, 1000))
def test_a_cancel_between_tokens_of_a_step_leaves_nothing_behind(
    length: int, updates: int, seed: int
) -> None:
    ids = [random.Random(seed).randrange(90) for _ in range(length)]
    texts, again = [], []
    for max_drafts in (0, 6):
        with EngineRig(runner=HashRunner(max_drafts=max_drafts)) as rig:
            ask, submission = rig.submission(ids, max_tokens=LONG)

            def cancel(_: object, rig: EngineRig = rig, ask: object = ask) -> None:
                if sum(isinstance(one, SequenceText) for one in ask.updates) == updates:  # type: ignore[attr-defined]
                    rig.engine.cancel(ask.request_id)  # type: ignore[attr-defined]

            ask.on_update = cancel
            rig.engine.submit(submission)
            assert isinstance(ask.error(), CancelledByCallerError)
            assert isinstance(ask.updates[-1], SequenceFailed)
            texts.append(ask.text)
            again.append(rig.ask(ids, max_tokens=30).answer().text)
    assert texts[1].startswith(texts[0])
    assert len(texts[1]) - len(texts[0]) <= 6, "no further step"
    assert again[0] == again[1]


@pytest.mark.parametrize("max_drafts", [0, 6])
def test_a_turn_and_the_engine_know_how_many_steps_drafts_saved(max_drafts: int) -> None:
    runner = HashRunner(max_drafts=max_drafts)
    with EngineRig(runner=runner) as rig:
        answer = rig.ask(list(range(40)), max_tokens=LONG).answer()
        (turn,) = rig.agents.get("a").turns  # type: ignore[arg-type, union-attr]
        drafts = rig.engine.drafts
    assert turn.decode_steps == runner.calls["decode"]
    # A step may have brought more than the answer had room for.
    tokens = turn.decode_steps + drafts.num_accepted
    assert answer.usage.completion_tokens <= tokens <= answer.usage.completion_tokens + max_drafts
    assert bool(drafts.num_accepted) == (max_drafts > 0) == (turn.decode_steps < LONG)


def test_a_row_that_fails_on_its_first_token_gives_no_second_one() -> None:
    with EngineRig(runner=HashRunner(max_drafts=6)) as rig:
        seen: list[object] = []

        def breaking(update: object) -> None:
            seen.append(update)
            if isinstance(update, SequenceText):
                raise ValueError("a listener that breaks")

        ask, submission = rig.submission([1, 2, 3], max_tokens=50)
        ask.on_update = breaking
        rig.engine.submit(submission)
        ask.wait()
        rig.idle()
        assert sum(isinstance(update, SequenceText) for update in seen) == 1
        assert rig.ask([1, 2, 3], max_tokens=5).answer().usage.completion_tokens == 5


@pytest.mark.parametrize("family", ["llama", "qwen3", "deepseek_v2", "deepseek_v3", "gemma3_text"])
def test_a_real_model_says_the_same_with_drafts(family: str) -> None:
    """Two turns, and the second again: hot and computed tokens are the same too."""
    # Less than one rewards what was said before.
    sampling = SamplingParams(temperature=0, ignore_eos=True, repetition_penalty=0.8)
    found, accepted = [], 0.0
    for max_drafts in (0, 12):
        with MlxRig(family, max_drafts=max_drafts) as rig:
            words = [prompt_of(5, seed) for seed in range(4)]
            prompt = [token_id for n in range(20) for token_id in words[n * n % 4]]
            first = rig.ask(prompt, max_tokens=120, sampling=sampling).answer()
            longer = [*prompt, *rig.tokenizer.encode(first.text), *words[0]]
            second = rig.ask(longer, max_tokens=90, sampling=sampling).answer()
            third = rig.ask(longer, max_tokens=40, sampling=sampling, agent="b").answer()
            assert first.reason is FinishReason.LENGTH
            found.append([facts(answer) for answer in (first, second, third)])
            accepted = rig.metrics.counters["draft_tokens_total", "accepted"]
    assert found[0] == found[1]
    assert (accepted > 0) == (family != "gemma3_text"), "its windows cannot be cut"


def test_one_that_is_left_alone_and_is_preempted_says_the_same() -> None:
    sampling = SamplingParams(temperature=0.7, ignore_eos=True, repetition_penalty=0.8)
    prompts = [prompt_of(6, seed) * 8 for seed in range(3)]
    found = []
    for max_drafts in (0, 12):
        with MlxRig("llama", max_drafts=max_drafts) as rig:
            asks = [
                rig.ask(prompt, agent=f"a{n}", max_tokens=60 + 40 * n, sampling=sampling, seed=n)
                for n, prompt in enumerate(prompts)
            ]
            ask = asks[2]
            # Whoever is left decodes alone, and is set back once.
            asks[1].answer()
            preempt = rig.engine._completion.preempt  # noqa: SLF001 (nothing else sets one back that is alone)
            rig.on_engine(lambda rig=rig, preempt=preempt: list(map(preempt, rig.engine.running())))  # type: ignore[misc]
            found.append([one.answer().text for one in (*asks[:2], ask)])
    assert found[0] == found[1]


def test_answers_of_a_batch_end_where_they_do_without_drafts() -> None:
    bias = dict.fromkeys((7, 8, 9), 60.0)
    samplings = [
        SamplingParams(temperature=0, ignore_eos=True, logit_bias=bias),
        SamplingParams(temperature=0, ignore_eos=True, logit_bias=bias, logprobs=True, top_logprobs=2),
        SamplingParams(temperature=0.5, ignore_eos=True, logit_bias=bias),
        SamplingParams(temperature=0, ignore_eos=True, logit_bias=bias),
    ]
    found, accepted = [], 0.0
    for max_drafts in (0, 12):
        with MlxRig("llama", max_drafts=max_drafts) as rig:
            with rig.held():
                asks = [
                    rig.ask(
                        [7, 8, 9, n] * 12, agent=f"a{n}", max_tokens=50 + 13 * n, sampling=sampling, seed=n
                    )
                    for n, sampling in enumerate(samplings, 10)
                ]
                # One leaves in the middle of a step's tokens.
                asks[3].on_update = lambda _, rig=rig, ask=asks[3]: rig.engine.cancel(ask.request_id)  # type: ignore[misc]
            answers = [ask.answer() for ask in asks[:3]]
            with pytest.raises(CancelledByCallerError):
                raise asks[3].error()
            found.append(
                [
                    (answer.text, answer.reason, answer.usage.completion_tokens, answer.usage.stored_tokens)
                    for answer in answers
                ]
            )
            accepted = rig.metrics.counters["draft_tokens_total", "accepted"]
    assert found[0] == found[1]
    assert accepted > 60
