from __future__ import annotations

from collections.abc import Sequence

import pytest

from semanticd.domain.block import LostFile
from semanticd.domain.generation import CacheMiss
from semanticd.domain.miss import explain_miss


def ids(text: str) -> list[int]:
    return [ord(character) for character in text]


def text_of(token_ids: Sequence[int]) -> str:
    return "".join(chr(token) for token in token_ids)


def explain(prompt: str, previous: str | None, *, matched: int, system_tokens: int = 0) -> CacheMiss | None:
    return explain_miss(
        ids(prompt),
        previous_ids=None if previous is None else ids(previous),
        num_matched=matched,
        decode=text_of,
        system_tokens=system_tokens,
    )


def test_a_first_request_that_found_nothing_says_so() -> None:
    miss = explain("a prompt that is long", None, matched=0)
    assert miss == CacheMiss(0, "first_request", "", "a prompt tha")


def test_a_first_request_that_found_somebody_elses_prefix_missed_nothing() -> None:
    assert explain("system text " * 10, None, matched=60) is None
    assert explain("a prompt", None, matched=7) is None, "all of it"


def test_a_first_request_that_found_only_a_templates_tokens_found_nothing() -> None:
    miss = explain("<|im_start|>system\n" + "system text " * 10, None, matched=19)
    assert miss is not None
    assert (miss.position, miss.cause) == (19, "first_request")


def test_a_conversation_that_goes_on_missed_nothing() -> None:
    assert explain("one two three", "one two", matched=7) is None
    assert explain("one two", "one two three", matched=6) is None


def test_what_was_known_and_is_gone_was_evicted() -> None:
    miss = explain("one two three four", "one two three", matched=4)
    assert miss is not None
    assert (miss.position, miss.cause) == (4, "evicted")
    assert "two" in miss.expected


def test_what_was_gone_before_the_start_is_not_said_to_be_evicted() -> None:
    miss = explain_miss(
        ids("one two three four"),
        previous_ids=ids("one two three"),
        num_matched=4,
        is_from_before=True,
        decode=text_of,
    )
    assert miss is not None
    assert miss.cause == "gone_before_start"


def test_a_changed_history_that_was_evicted_besides_says_evicted() -> None:
    miss = explain("one two three four", "one two three five", matched=2)
    assert miss is not None
    assert (miss.position, miss.cause) == (2, "evicted")


@pytest.mark.parametrize(
    ("prompt", "previous", "cause"),
    [
        ("SYSTEM be nice. user: hello", "SYSTEM be rude. user: hello", "system_changed"),
        ('SYSTEM {"name": "b"} user', 'SYSTEM {"name": "a"} user', "tools_changed"),
        ("SYSTEM today is 2026-11-24.", "SYSTEM today is 2026-11-23.", "date_changed"),
        ("SYSTEM it is 12:31 now, work", "SYSTEM it is 12:30 now, work", "date_changed"),
        ("SYSTEM on Monday we do this", "SYSTEM on Friday we do this.", "date_changed"),
    ],
)
def test_the_cause_of_a_change_in_the_system_text_is_named(prompt: str, previous: str, cause: str) -> None:
    shared = next(i for i, (a, b) in enumerate(zip(prompt, previous, strict=False)) if a != b)
    miss = explain(prompt, previous, matched=shared, system_tokens=25)
    assert miss is not None
    assert (miss.position, miss.cause) == (shared, cause)
    assert miss.expected != miss.found


def test_tools_in_another_order_are_told_from_other_tools() -> None:
    one, other = '{"name": "a"} {"name": "b"} hi', '{"name": "b"} {"name": "a"} hi'
    miss = explain(one, other, matched=10, system_tokens=27)
    assert miss is not None
    assert (miss.position, miss.cause) == (10, "tools_reordered")


def test_a_conversation_that_another_model_computed_says_so() -> None:
    miss = explain_miss(
        ids("one two three"), previous_ids=ids("one two"), num_matched=0, decode=text_of, same_model=False
    )
    assert miss is not None
    assert (miss.position, miss.cause) == (0, "model_changed")


def test_a_change_behind_the_system_text_is_the_histories() -> None:
    miss = explain("sys user: hello there", "sys user: hullo there", matched=11, system_tokens=4)
    assert miss is not None
    assert miss.cause == "history_changed"


@pytest.mark.parametrize(
    ("previous", "prompt"),
    [
        ("sys user: hi bot: <think>hm, hi</think>hello", "sys user: hi bot: hello user: more"),
        (
            "sys user: hi bot: <think>\nhm</think>\n\nhello",
            "sys user: hi bot: <think>\n\n</think>\n\nhello user",
        ),
        ("sys user: hi bot: [THINK]hm[/THINK]hello", "sys user: hi bot: hello user: more"),
    ],
)
def test_thinking_that_a_template_leaves_out_is_a_cause_of_its_own(previous: str, prompt: str) -> None:
    shared = next(i for i, (a, b) in enumerate(zip(prompt, previous, strict=False)) if a != b)
    miss = explain(prompt, previous, matched=shared, system_tokens=4)
    assert miss is not None
    assert (miss.position, miss.cause) == (shared, "thinking_dropped")


@pytest.mark.parametrize("thought", ["**Plan** first", "(hm)", "1. look", "\u201cwell"])
def test_a_thought_that_begins_with_a_sign_is_one(thought: str) -> None:
    previous, prompt = f"sys bot: <think>{thought}</think>a", "sys bot: <think></think>a user: more"
    shared = next(i for i, (a, b) in enumerate(zip(prompt, previous, strict=False)) if a != b)
    miss = explain(prompt, previous, matched=shared, system_tokens=4)
    assert miss is not None
    assert miss.cause == "thinking_dropped"


def test_a_few_tokens_at_the_end_of_what_was_known_are_no_loss() -> None:
    history = "one two three four five six seven eight nine ten"

    def cause(matched: int) -> str | None:
        miss = explain_miss(
            ids(history + " and on"),
            previous_ids=ids(history),
            num_matched=matched,
            block_tokens=16,
            decode=text_of,
        )
        return miss and miss.cause

    assert cause(len(history) - 16) is None
    assert cause(len(history) - 17) == "evicted"


def test_thinking_that_was_edited_is_the_histories() -> None:
    miss = explain("sys bot: <think>no</think>a", "sys bot: <think>hm</think>a", matched=16, system_tokens=4)
    assert miss is not None
    assert miss.cause == "history_changed"


def test_a_prompt_that_another_conversation_had_begun_missed_nothing() -> None:
    # The agent's last request was a title; the main conversation was found up to its new words.
    assert explain("sys user: hello there, friend", "title of this talk", matched=24) is None


def test_a_prompt_that_left_its_own_history_but_was_found_entirely_missed_nothing() -> None:
    assert explain("sys user: hello there", "sys user: hullo there", matched=20) is None


def missed(prompt: str, previous: str, *, matched: int, known: int) -> tuple[int, str]:
    miss = explain_miss(
        ids(prompt), previous_ids=ids(previous), num_matched=matched, num_known=known, decode=text_of
    )
    assert miss is not None
    return miss.position, miss.cause


def test_where_blocks_are_there_and_no_snapshot_near_the_nearest_is_named() -> None:
    history = "one two three four five six seven eight nine ten eleven twelve"
    assert missed(f"{history} thirteen", history, matched=8, known=len(history)) == (8, "no_snapshot")
    assert missed(f"{history} thirteen", history, matched=8, known=8) == (8, "evicted")
    assert missed(f"{history[:-6]} thirteen", history, matched=8, known=48) == (8, "no_snapshot")


def test_a_snapshot_close_to_where_the_prompts_part_leaves_the_cause_to_the_prompts() -> None:
    history = "a history that has been told before, and then this"
    prompt = f"{history[:-4]}that"
    shared = len(history) - 4 + 2
    assert missed(prompt + " and more", history, matched=shared - 14, known=shared) == (
        shared,
        "history_changed",
    )


def test_a_snapshot_close_to_the_history_s_end_missed_nothing() -> None:
    history = "a history that has been told before"
    assert (
        explain_miss(
            ids(history + " and goes on"),
            previous_ids=ids(history),
            num_matched=len(history) - 10,
            num_known=len(history),
            decode=text_of,
        )
        is None
    )


@pytest.mark.parametrize(
    ("what", "cause"), [("missing", "files_missing"), ("damaged", "files_damaged"), ("pruned", "evicted")]
)
@pytest.mark.parametrize("is_from_before", [False, True])
def test_blocks_whose_files_were_lost_are_told_from_evicted_ones(
    what: LostFile, cause: str, is_from_before: bool
) -> None:
    miss = explain_miss(
        ids("one two three four"),
        previous_ids=ids("one two three"),
        num_matched=4,
        lost_file=what,
        is_from_before=is_from_before,
        decode=text_of,
    )
    assert miss is not None
    assert (miss.position, miss.cause) == (4, cause)


@pytest.mark.parametrize(
    ("num_shared", "named"),
    [(1464, None), (1300, None), (1200, "history_changed"), (200, "history_changed")],
)
def test_where_all_but_a_block_of_a_long_prompt_was_reused_no_fault_is_named(
    num_shared: int, named: str | None
) -> None:
    num_tokens = 1477 if num_shared > 256 else 300
    miss = explain_miss(
        [1] * num_shared + [2] * (num_tokens - num_shared),
        previous_ids=[1] * num_shared + [3] * 500,
        num_matched=num_shared,
        block_tokens=256,
        decode=lambda part: "",
    )
    assert (miss and miss.cause) == named


def test_what_was_lost_shows_the_text_at_the_miss_and_not_where_the_prompts_part() -> None:
    history = " ".join(f"w{n}" for n in range(60))
    miss = explain(f"{history} end", f"{history} other", matched=0)
    assert miss is not None
    assert (miss.position, miss.cause) == (0, "evicted")
    assert miss.expected.startswith("w0 w1")
    assert miss.found == ""
