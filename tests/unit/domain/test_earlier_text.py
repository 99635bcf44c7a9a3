"""What an agent answered before: found as a search finds it, bounded, and never changed under who uses it."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanticd.domain.earlier_text import GRAM, SEPARATOR, EarlierText

few_ids = st.lists(st.integers(0, 2), min_size=1, max_size=9)
turns = st.lists(st.tuples(few_ids, few_ids), max_size=8)


def made(pairs: Sequence[tuple[list[int], list[int]]], *, max_tokens: int = 1000) -> EarlierText:
    text = EarlierText()
    for prompt, answer in pairs:
        text = text.with_answer(prompt, answer, max_tokens=max_tokens)
    return text


def remembered(
    pairs: Sequence[tuple[list[int], list[int]]], *, max_tokens: int
) -> list[tuple[list[int] | None, list[int], list[int]]]:
    """Return prompt, last ids of the prompt, and answer of what must be remembered, oldest first."""
    known: list[tuple[list[int] | None, list[int], list[int]]] = []
    for prompt, answer in pairs:
        kept = [one for one in known if one[0] != prompt]
        former = next((one[2] for one in known if one[0] == prompt), [])
        answer = former if former[: len(answer)] == answer else answer
        head = prompt[-GRAM:]
        if len(head) + len(answer) + 1 > max_tokens:
            known = [(None, [], answer[len(answer) + 1 - max_tokens :])]
            continue
        known = [*kept, (prompt, head, answer)]
        while sum(len(one[1]) + len(one[2]) + 1 for one in known) > max_tokens:
            del known[0]
    return known


@given(pairs=turns, max_tokens=st.sampled_from([6, 12, 20, 1000]))
def test_it_finds_what_a_search_finds(pairs: list[tuple[list[int], list[int]]], max_tokens: int) -> None:
    text, known = made(pairs, max_tokens=max_tokens), remembered(pairs, max_tokens=max_tokens)
    ids = [token for _, head, answer in known for token in (*head, *answer, SEPARATOR)]
    assert list(text.ids) == ids
    assert len(ids) <= max_tokens
    assert list(text.grams) == sorted(text.grams)
    for gram in {(a, b, c) for a in range(4) for b in range(4) for c in range(4)}:
        # What followed it last, within an answer.
        places = [
            place
            for place in range(GRAM, len(ids))
            if tuple(ids[place - GRAM : place]) == gram and ids[place] != SEPARATOR
        ]
        assert text.find(gram) == (places[-1] if places else None)
    for prompt, _ in pairs:
        start = text.answer_to(prompt)
        answers = [answer for one, _, answer in known if one == prompt]
        assert (start is None) == (not answers)
        if start is not None:
            assert text.continuation(start, 100) == answers[0]


@given(pairs=turns, count=st.integers(0, 12))
def test_what_follows_ends_with_its_answer(pairs: list[tuple[list[int], list[int]]], count: int) -> None:
    text = made(pairs)
    for place in range(len(text.ids)):
        found = text.continuation(place, count)
        ids = list(text.ids)
        assert found == ids[place : ids.index(SEPARATOR, place)][:count]


def test_a_truncated_answer_does_not_replace_a_longer_one() -> None:
    text = made([([1, 2, 3], [4, 5, 6, 7]), ([9], [9, 9]), ([1, 2, 3], [4, 5])])
    start = text.answer_to([1, 2, 3])
    assert start is not None
    assert text.continuation(start, 9) == [4, 5, 6, 7]
    assert [one.start for one in text.answers][-1] == start, "it counts as new"
    other = text.with_answer([1, 2, 3], [4, 9])
    start = other.answer_to([1, 2, 3])
    assert start is not None
    assert other.continuation(start, 9) == [4, 9]
    assert len(other.answers) == 2


def test_equal_twins_are_one_and_the_later_of_two_likes_is_found() -> None:
    twin = ([1, 2, 3], [4, 5, 6])
    assert made([twin] * 5).ids == made([twin]).ids
    text = made([([1, 2, 3], [7, 8, 9, 10]), ([3, 2, 1], [7, 8, 9, 11])])
    place = text.find([7, 8, 9])
    assert place is not None
    assert text.ids[place] == 11


def test_what_somebody_uses_does_not_change() -> None:
    text = made([([n], list(range(n, n + 9))) for n in range(5)])
    ids, grams, answers = array("I", text.ids), array("Q", text.grams), text.answers
    text.with_answer([0], [1, 2, 3])
    text.with_answer([77], list(range(30)), max_tokens=40)
    assert (text.ids, text.grams, text.answers) == (ids, grams, answers)


def test_an_answer_that_is_too_long_keeps_its_end() -> None:
    text = EarlierText().with_answer([1, 2, 3], list(range(100)), max_tokens=20)
    assert list(text.ids) == [*range(81, 100), SEPARATOR]
    assert text.answer_to([1, 2, 3]) is None, "how it began is gone"
    assert text.find([90, 91, 92]) == 93 - 81
    assert text.find([2, 3, 0]) is None


def test_runs_of_the_same_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from semanticd.domain import earlier_text

    monkeypatch.setattr(earlier_text, "HASHES", 0)
    text = EarlierText().with_answer([1, 2, 3], [4, 5, 6])
    assert text.find([3, 4, 5]) == 5
    assert text.find([1, 2, 3]) is None, "it is not looked for behind another one"


def test_bytes_grow_with_tokens_and_end_with_the_bound() -> None:
    source = random.Random(1)
    text, sizes = EarlierText(), []
    for _ in range(300):
        text = text.with_answer(
            [source.randrange(1 << 31) for _ in range(5)], [source.randrange(1 << 31) for _ in range(40)],
            max_tokens=2000,
        )  # fmt: skip
        assert len(text.ids) <= 2000
        sizes.append(text.num_bytes)
    assert max(sizes) < 2000 * 12 + 2000 / 44 * 200 + 1024


def test_without_its_runs_only_the_same_prompt_finds_its_answer() -> None:
    text = made([([1, 2, 3], [4, 5, 6, 7])])
    alone = text.only_answers()
    assert text.find([3, 4, 5]) is not None
    assert alone.find([3, 4, 5]) is None
    assert alone.answer_to([1, 2, 3]) == text.answer_to([1, 2, 3])
