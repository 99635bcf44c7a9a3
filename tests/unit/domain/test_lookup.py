"""Drafts from what a sequence said before: what is found, how long drafts are, and what it costs."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanticd.domain.earlier_text import GRAM, EarlierText
from semanticd.domain.lookup import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    SLICE_TOKENS,
    Drafter,
    DraftPolicy,
    GramIndex,
    shared_width,
)


def last_place(ids: Sequence[int], gram: Sequence[int]) -> int | None:
    """Search backwards: what the index must find."""
    places = (n for n in range(len(ids) - 1, GRAM - 1, -1) if list(ids[n - GRAM : n]) == list(gram))
    return next(places, None)


few_ids = st.lists(st.integers(0, 3), max_size=40)


@given(prompt=few_ids, answer=few_ids, data=st.data())
def test_the_index_finds_what_a_search_finds(
    prompt: list[int], answer: list[int], data: st.DataObject
) -> None:
    index = GramIndex()
    ids = list(prompt)
    index.take(ids)
    for token_id in answer:
        ids.append(token_id)
        if data.draw(st.booleans()):
            index.take(ids)
    index.take(ids)
    for start in range(len(ids) - GRAM + 1):
        gram = ids[start : start + GRAM]
        assert index.find(gram) == last_place(ids, gram)


def test_a_long_prompt_is_taken_in_slices_its_end_first() -> None:
    ids = list(range(10 * SLICE_TOKENS))
    index = GramIndex()
    known = []
    for _ in range(12):
        index.take(ids)
        known.append(len(index))
        ids.append(-len(known))
    assert max(after - before for before, after in zip([0, *known], known, strict=False)) <= SLICE_TOKENS + 1
    assert index.find(ids[:GRAM]) == GRAM, "the beginning came last"
    early = GramIndex()
    early.take(ids)
    assert early.find(ids[-GRAM - 1 : -1]) == len(ids) - 1
    assert early.find(ids[:GRAM]) is None


def test_many_new_ids_are_taken_in_slices_too() -> None:
    ids = list(range(8))
    index = GramIndex()
    index.take(ids)
    ids += range(8, 8 + 3 * SLICE_TOKENS)
    index.take(ids)
    assert len(index) <= SLICE_TOKENS + 8
    for _ in range(3):
        index.take(ids)
    assert index.find(ids[-GRAM - 1 : -1]) == len(ids) - 1


def test_an_index_is_bounded_and_goes_on_with_what_is_near() -> None:
    source = random.Random(1)
    ids = [source.randrange(1 << 20) for _ in range(2000)]
    index = GramIndex(max_grams=500)
    for _ in range(3000):
        ids.append(source.randrange(1 << 20))
        index.take(ids)
        assert len(index) <= 501
        assert index.find(ids[-GRAM - 1 : -1]) == len(ids) - 1


@pytest.mark.parametrize(
    ("most", "widths"),
    [(12, [2, 4, 8, 12, 12]), (1, [1, 1]), (2, [2, 2]), (3, [2, 3, 3]), (16, [2, 4, 8, 16, 16])],
)
def test_drafts_get_longer_while_they_are_right(most: int, widths: list[int]) -> None:
    policy, found = DraftPolicy(most), []
    for length in range(len(widths)):
        found.append(policy.width(length))
        policy.note(num_drafted=found[-1], num_accepted=found[-1], length=length)
    assert found == widths
    policy.note(num_drafted=widths[-1], num_accepted=max(widths[-1] - 1, 0), length=9)
    assert policy.width(9) == widths[min(1, len(set(widths)) - 1)], (
        "what is repeated has come to its end, or an edit"
    )


def test_a_short_draft_that_was_all_right_is_no_reason_for_longer_ones() -> None:
    policy = DraftPolicy(12)
    policy.note(num_drafted=1, num_accepted=1, length=1)
    assert policy.width(1) == 2


def test_two_failures_pause_and_each_pause_is_longer() -> None:
    policy, length, pauses = DraftPolicy(12), 0, []
    for _ in range(12):
        while policy.width(length):
            policy.note(num_drafted=2, num_accepted=0, length=length)
        began = length
        while not policy.width(length):
            length += 1
        pauses.append(length - began)
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE
    policy.note(num_drafted=2, num_accepted=1, length=length)
    policy.note(num_drafted=2, num_accepted=0, length=length)
    assert policy.width(length), "one that was right: there may be two failures again"
    policy.note(num_drafted=2, num_accepted=0, length=length)
    assert not policy.width(length + FIRST_PAUSE - 1)
    assert policy.width(length + FIRST_PAUSE)


def repeat(drafter: Drafter, ids: list[int], answer: Sequence[int]) -> tuple[int, int]:
    """Answer with the given tokens and drafts; returns steps, and draft tokens that were wrong."""
    num_steps = num_wrong = place = 0
    while place < len(answer):
        pending = answer[place]
        expected = drafter.expect(ids)
        draft = expected[1:]
        if expected and expected[0] != pending:
            draft = drafter.continue_from(ids, [pending], most=12)
        right = 0
        while right < len(draft) and answer[place + 1 + right : place + 2 + right] == [draft[right]]:
            right += 1
        ids += answer[place : place + 1 + right]
        place += 1 + right
        num_steps += 1
        num_wrong += len(draft) - right
        if draft:
            drafter.note(num_drafted=len(draft), num_accepted=right, length=len(ids))
    return num_steps, num_wrong


def test_a_copied_passage_takes_a_step_for_many_tokens() -> None:
    source = random.Random(3)
    prompt = [source.randrange(5000) for _ in range(600)]
    answer = prompt[100:400]
    num_steps, num_wrong = repeat(Drafter(12), list(prompt), answer)
    # Three tokens to recognise it, one that is waited for, then drafts of 2, 4, 8 and 12.
    assert num_steps <= GRAM + 1 + 3 + 300 // 13 + 1
    assert num_wrong <= 12
    answer[50::50] = [5000 + n for n in range(len(answer[50::50]))]
    num_steps, num_wrong = repeat(Drafter(12), list(prompt), answer)
    assert num_steps < 100, "with a change every 50 tokens"


def test_what_repeats_itself_is_drafted_beyond_its_end() -> None:
    ids = [9, 8, 7, *[1, 2, 3, 4] * 3]
    assert Drafter(12).expect(ids) == [1, 2, 3]
    drafter = Drafter(12)
    num_steps, num_wrong = repeat(drafter, ids, [1, 2, 3, 4] * 25)
    assert num_steps < 15
    assert num_wrong <= 12


def test_a_text_that_never_repeats_has_no_draft() -> None:
    source = random.Random(4)
    ids = [source.randrange(1 << 30) for _ in range(200)]
    num_steps, num_wrong = repeat(Drafter(12), ids, [source.randrange(1 << 30) for _ in range(300)])
    assert (num_steps, num_wrong) == (300, 0)


def test_where_drafts_are_wrong_few_are_made() -> None:
    source = random.Random(5)
    # Three ids that are often followed by another one: each time a draft, and mostly a wrong one.
    ids = [
        token
        for _ in range(300)
        for token in (1, 2, 3, source.randrange(10, 5000), source.randrange(10, 5000))
    ]
    answer = [
        token for _ in range(100) for token in (1, 2, 3, source.randrange(10, 40), source.randrange(5000))
    ]
    _, num_wrong = repeat(Drafter(12), ids, answer)
    assert num_wrong < len(answer) / 5


def test_a_source_is_followed_although_another_one_is_nearer() -> None:
    ids = [1, 2, 3, 4, 5, 1, 2, 3, 9, 9, 9, 0, 1, 2, 3, 4, 5]
    drafter = Drafter(12)
    assert drafter.expect(ids) == [1, 2, 3], "what followed 3, 4, 5"
    ids += [1, 2, 3]
    assert drafter.expect(ids)[:1] == [9], "what comes next there"
    assert Drafter(12).expect(ids)[:1] == [4], "what followed 1, 2, 3 last"


def test_behind_an_edit_two_ids_are_enough_to_go_on() -> None:
    source = random.Random(6)
    passage = [source.randrange(5000) for _ in range(100)]
    ids = [*passage, *passage[10:30]]
    drafter = Drafter(12)
    assert drafter.expect(ids) == passage[30:33]
    ids += [6001, 6002]
    assert drafter.expect(ids) == []
    ids += passage[33:35]
    assert drafter.expect(ids) == passage[35:38], "a token was added and two were replaced"
    far = [*passage, *passage[10:30], 6001, *passage[80:82]]
    assert Drafter(12).expect(far) == []


def test_too_few_ids_have_no_draft() -> None:
    drafter = Drafter(12)
    for ids in ([], [1], [1, 1], [1, 1, 1]):
        assert drafter.expect(ids) == []
    assert drafter.expect([1, 1, 1, 1]) == [1, 1, 1]
    assert drafter.continue_from([], [1], most=4) == []


@given(prompt=few_ids, answer=few_ids, most=st.integers(1, 20))
def test_any_text_comes_out_whole(prompt: list[int], answer: list[int], most: int) -> None:
    ids, drafter = list(prompt), Drafter(most)
    for _ in answer:
        expected = drafter.expect(ids)
        assert len(expected) in range(most + 2)
        assert set(expected) <= set(ids)
    repeat(drafter, ids, answer)
    assert ids == prompt + answer


def test_a_step_of_several_rows_is_as_wide_as_gains_most() -> None:
    assert shared_width([5]) == 5
    assert shared_width([]) == shared_width([0, 0]) == 0
    assert shared_width([12, 0]) == shared_width([12, 12, 0, 0]) == 0, "most rows must have a draft"
    assert shared_width([12, 12, 12, 0]) == 12
    assert shared_width([4, 4, 4, 4]) == 4
    assert shared_width([2, 2, 2, 12]) == 2, "one long draft would cost all rows"


# Earlier answers.


def words(seed: int, length: int) -> list[int]:
    source = random.Random(seed)
    return [source.randrange(5000) for _ in range(length)]


def test_the_same_question_is_drafted_from_its_former_answer_at_once() -> None:
    prompt, answer = words(1, 50), words(2, 200)
    # The end of every prompt is the same, and was followed by another answer in this one.
    prompt = [*prompt, 1, 2, 3, *words(3, 20), 1, 2, 3]
    earlier = EarlierText().with_answer(prompt, answer).with_answer([*prompt, 9], words(4, 50))
    drafter = Drafter(12, earlier=earlier)
    drafter.begin(prompt, [])
    assert drafter.expect(prompt) == answer[:3]
    drafter = Drafter(12, earlier=earlier)
    drafter.begin(prompt, [])
    num_steps, num_wrong = repeat(drafter, list(prompt), answer)
    assert (num_steps, num_wrong) == (3 + (200 - 3 - 5 - 9) // 13 + 1, 0)
    assert repeat(Drafter(12), list(prompt), answer)[0] == 200


def test_an_answer_that_was_begun_goes_on_where_it_is() -> None:
    prompt, answer = words(1, 30), words(2, 60)
    earlier = EarlierText().with_answer(prompt, answer)
    for length in (1, 17, 59, 60):
        drafter = Drafter(12, earlier=earlier)
        drafter.begin(prompt, answer[:length])
        assert drafter.expect([*prompt, *answer[:length]]) == answer[length : length + 3]
    other = Drafter(12, earlier=earlier)
    other.begin(prompt, [*answer[:9], 5001])
    assert other.expect([*prompt, *answer[:9], 5001]) == []


def test_own_text_comes_before_earlier_answers() -> None:
    own, earlier = [1, 2, 3, 4, 5, 9, 9, 1, 2, 3], EarlierText().with_answer([7], [1, 2, 3, 6, 6, 1, 2, 8, 7])
    drafter = Drafter(12, earlier=earlier)
    assert drafter.expect(own) == [4, 5, 9]
    assert drafter.guess == "own"
    assert drafter.continue_from([*own], [2, 1], most=4) == [], "no such run"
    assert drafter.continue_from([*own], [3, 6, 6], most=4) == [1, 2]
    assert drafter.guess == "earlier", "only an earlier answer has it"
    assert drafter.continue_from([*own], [1, 2, 3], most=4)[:1] == [4]
    assert drafter.guess == "own"


def test_a_passage_that_only_an_earlier_answer_has_takes_few_steps() -> None:
    passage = words(2, 300)
    earlier = EarlierText().with_answer(words(1, 9), passage).with_answer(words(3, 9), words(4, 400))
    answer = [*words(5, 20), *passage[100:250], *words(6, 20)]
    num_steps, num_wrong = repeat(Drafter(12, earlier=earlier), words(7, 100), answer)
    assert num_steps <= 40 + GRAM + 1 + 3 + 150 // 13 + 1
    assert num_wrong <= 12
    edited = list(answer)
    edited[60::30] = [5000 + n for n in range(len(edited[60::30]))]
    num_steps, _ = repeat(Drafter(12, earlier=earlier), words(7, 100), edited)
    assert num_steps < 100, "behind an edit it goes on"


def test_a_draft_ends_with_the_earlier_answer() -> None:
    earlier = EarlierText().with_answer([1], [2, 3, 4, 5]).with_answer([9], [8, 7, 6])
    drafter = Drafter(12, earlier=earlier)
    assert drafter.expect([2, 3, 4]) == [5]
    assert drafter.expect([2, 3, 4, 5]) == [], "nothing of the next one"
    assert drafter.expect([2, 3, 4, 5, 8]) == []


def test_wrong_drafts_from_earlier_answers_do_not_stop_those_from_own_text() -> None:
    source = random.Random(5)
    said = [token for _ in range(200) for token in (1, 2, 3, source.randrange(10, 5000))]
    drafter = Drafter(12, earlier=EarlierText().with_answer([0], said))
    ids = [*words(8, 50), *range(6000, 6100)]
    for number in range(40):
        ids += [1, 2, 3] if number % 2 == 0 else [source.randrange(7000, 8000)]
        expected = drafter.expect(ids)
        if expected and drafter.guess == "earlier":
            drafter.note(num_drafted=len(expected) - 1, num_accepted=0, length=len(ids))
        ids.append(source.randrange(8000, 9000))
    ids += range(6010, 6020)
    assert drafter.expect(ids) == [6020, 6021, 6022]
    assert drafter.guess == "own"


@given(
    pairs=st.lists(st.tuples(few_ids, few_ids.filter(bool)), max_size=4),
    prompt=few_ids,
    answer=few_ids,
    asked_before=st.booleans(),
)
def test_any_text_comes_out_whole_with_any_earlier_answers(
    pairs: list[tuple[list[int], list[int]]], prompt: list[int], answer: list[int], asked_before: bool
) -> None:
    earlier = EarlierText()
    for before, said in pairs:
        earlier = earlier.with_answer(before, said)
    if asked_before and answer:
        earlier = earlier.with_answer(prompt, answer)
    ids, drafter = list(prompt), Drafter(12, earlier=earlier)
    drafter.begin(prompt, [])
    num_steps, num_wrong = repeat(drafter, ids, answer)
    assert ids == prompt + answer
    # A longer answer to the same prompt that begins so is kept instead.
    longer = any(before == prompt and said[: len(answer)] == answer != said for before, said in pairs)
    if asked_before and len(prompt) >= GRAM and answer and not longer:
        assert num_wrong == 0
        assert num_steps <= 1 + len(answer) / 3 or len(answer) < 8
