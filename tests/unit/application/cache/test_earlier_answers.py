"""Earlier answers belong to one agent and one model, are bounded, and go when they are to go."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from semanticd.application.cache.earlier_answers import EarlierAnswers
from semanticd.domain.ids import AgentId, ModelFingerprint

ONE, OTHER = (ModelFingerprint("11" * 32), ""), (ModelFingerprint("22" * 32), "")
A, B, C = map(AgentId, "abc")
PROMPT, ANSWER = [1, 2, 3], [4, 5, 6, 7]


def test_what_one_agent_said_is_nothing_to_another() -> None:
    answers = EarlierAnswers()
    answers.remember(A, ONE, prompt=PROMPT, answer=ANSWER)
    assert answers.of(B, ONE) is None
    answers.remember(B, ONE, prompt=[7], answer=[8, 9])
    text = answers.of(B, ONE)
    assert text is not None
    assert text.answer_to(PROMPT) is None
    assert text.find([3, 4, 5]) is None


def test_what_one_model_said_is_nothing_to_another() -> None:
    answers = EarlierAnswers()
    answers.remember(A, ONE, prompt=PROMPT, answer=ANSWER)
    assert answers.of(A, OTHER) is None
    assert answers.of(A, (ONE[0], "other settings")) is None
    answers.remember(A, OTHER, prompt=PROMPT, answer=[1])
    one, other = answers.of(A, ONE), answers.of(A, OTHER)
    assert one is not None
    assert other is not None
    assert one.find([3, 4, 5]) is not None
    assert other.find([3, 4, 5]) is None


def test_who_is_forgotten_is_forgotten_with_every_model() -> None:
    answers = EarlierAnswers()
    for agent in (A, B):
        for model in (ONE, OTHER):
            answers.remember(agent, model, prompt=PROMPT, answer=ANSWER)
    half = answers.num_bytes // 2
    answers.forget(A)
    assert (answers.of(A, ONE), answers.of(A, OTHER)) == (None, None)
    assert answers.of(B, ONE) is not None
    assert answers.num_bytes == half
    answers.forget(A)
    answers.forget_all()
    assert answers.of(B, ONE) is None
    assert answers.num_bytes == 0


def test_the_agent_that_answered_least_recently_makes_room() -> None:
    answers = EarlierAnswers(max_bytes=5000)
    source = random.Random(1)

    def say(agent: AgentId) -> None:
        answers.remember(
            agent, ONE, prompt=[source.randrange(9999)], answer=source.choices(range(9999), k=90)
        )

    for agent in (A, B, A, C):
        say(agent)
    assert answers.of(B, ONE) is None
    assert answers.of(A, ONE) is not None
    assert answers.of(C, ONE) is not None
    assert answers.num_bytes <= 5000


def test_an_agents_answers_are_bounded() -> None:
    answers = EarlierAnswers(max_tokens=100)
    for n in range(50):
        answers.remember(A, ONE, prompt=[n], answer=[n] * 10)
    text = answers.of(A, ONE)
    assert text is not None
    assert len(text.ids) <= 100
    assert text.answer_to([49]) is not None
    assert text.answer_to([0]) is None


@given(
    steps=st.lists(
        st.tuples(st.sampled_from([A, B, C]), st.sampled_from([ONE, OTHER]), st.integers(0, 60)), max_size=40
    ),
    max_bytes=st.sampled_from([0, 700, 3000, 9000]),
)
def test_the_books_are_right_whatever_happens(
    steps: list[tuple[AgentId, tuple[ModelFingerprint, str], int]], max_bytes: int
) -> None:
    answers = EarlierAnswers(max_tokens=100, max_bytes=max_bytes)
    for number, (agent, model, length) in enumerate(steps):
        if length:
            answers.remember(agent, model, prompt=[number], answer=[length] * length)
        else:
            answers.forget(agent)
            assert answers.of(agent, ONE) is answers.of(agent, OTHER) is None
        texts = [
            text for one in (A, B, C) for kind in (ONE, OTHER) if (text := answers.of(one, kind)) is not None
        ]
        assert answers.num_bytes == sum(text.num_bytes for text in texts) <= max_bytes
