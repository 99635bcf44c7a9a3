from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanticd.domain.transcript import Cut, Segment, Transcript, TranscriptIndex


def segments(*texts: str) -> tuple[Segment, ...]:
    return tuple(Segment(text, tuple(ord(c) for c in text)) for text in texts)


def size_of(*texts: str) -> int:
    return sum(segment.num_bytes for segment in segments(*texts))


def test_a_transcript_is_its_segments_in_a_row() -> None:
    transcript = Transcript(segments("ab", "c")).extended(
        Segment("", ()), Segment("d", (9,)), Segment("", (5,))
    )
    assert transcript.text == "abcd"
    assert transcript.token_ids == (97, 98, 99, 9, 5)
    assert transcript.num_tokens == 5
    assert len(transcript.segments) == 4


def test_the_longest_chain_of_whole_segments_is_found() -> None:
    index = TranscriptIndex()
    index.add(segments("hello ", "world", "!"))
    index.add(segments("hello ", "wor"))
    found = index.match("hello world? yes")
    assert [segment.text for segment in found.segments] == ["hello ", "world"]
    assert found.num_chars == 11
    assert index.match("hell").segments == ()
    assert index.match("").num_chars == 0


def test_conversations_that_begin_alike_share_what_they_share() -> None:
    index = TranscriptIndex()
    index.add(segments("system", "one"))
    index.add(segments("system", "two"))
    assert len(index) == 3
    assert index.num_bytes == size_of("system", "one", "two")


def test_the_newest_ids_for_a_text_count() -> None:
    index = TranscriptIndex()
    index.add([Segment("ab", (1, 2))])
    index.add([Segment("ab", (3,))])
    assert index.match("abc").segments == (Segment("ab", (3,)),)
    assert index.num_bytes == Segment("ab", (3,)).num_bytes


def test_a_chain_ends_at_a_segment_without_text() -> None:
    index = TranscriptIndex()
    index.add([Segment("a", (1,)), Segment("", (2,)), Segment("b", (3,))])
    assert [s.text for s in index.match("ab").segments] == ["a"]


def test_the_least_recently_used_conversation_goes_first_and_its_head_stays_while_it_is_shared() -> None:
    index = TranscriptIndex(max_bytes=size_of("system", "one", "two"))
    index.add(segments("system", "one"))
    index.add(segments("system", "two"))
    index.match("systemone")
    index.add(segments("system", "abc"))
    assert index.num_bytes <= size_of("system", "one", "two")
    assert index.match("systemone").num_chars == 9
    assert index.match("systemtwo").num_chars == 6
    assert index.match("systemabc").num_chars == 9


def test_what_is_larger_than_the_bound_is_not_kept() -> None:
    index = TranscriptIndex(max_bytes=5)
    index.add(segments("much too long"))
    assert (len(index), index.num_bytes) == (0, 0)


TEXTS = st.lists(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4), max_size=8)


@given(chains=TEXTS, text=st.text("ab", max_size=16))
def test_a_match_is_a_known_chain_that_the_text_begins_with(chains: list[list[str]], text: str) -> None:
    index = TranscriptIndex()
    for chain in chains:
        index.add(segments(*chain))
    found = index.match(text)
    joined = "".join(segment.text for segment in found.segments)
    assert text.startswith(joined)
    assert found.num_chars == len(joined)
    assert not found.segments or any(
        [s.text for s in found.segments] == chain[: len(found.segments)] for chain in chains
    )


@given(chains=TEXTS, bound=st.integers(0, 1500))
def test_the_bound_holds_and_what_is_held_is_counted(chains: list[list[str]], bound: int) -> None:
    index = TranscriptIndex(max_bytes=bound)
    for chain in chains:
        index.add(segments(*chain))
        assert index.num_bytes <= bound
        assert (index.num_bytes == 0) == (len(index) == 0)


def test_equal_segments_are_held_once() -> None:
    index = TranscriptIndex()
    first = index.add(segments("system", "one"))
    again = index.add(segments("system", "one", "two"))
    assert again[0] is first[0]
    assert again[1] is first[1]
    assert [one.text for one in again] == ["system", "one", "two"]
    after = index.add([*segments("system"), Segment("", (7,)), *segments("rest")])
    assert [one.text for one in after] == ["system", "", "rest"]


def test_a_segment_takes_four_bytes_an_id_and_no_id_of_more_bits() -> None:
    ids = tuple(range(100_000, 101_000))
    segment = Segment("x" * 1000, ids)
    assert segment.token_ids == ids
    assert segment.num_tokens == 1000
    assert segment.num_bytes < 5200
    assert segment == Segment("x" * 1000, ids)
    assert segment != Segment("x" * 1000, ids[::-1])
    assert segment.ends_with(ids[-3:])
    assert not segment.ends_with(ids[:3])
    with pytest.raises(ValueError, match="32 bits"):
        Segment("x", (1 << 31,))


def followed(
    old: tuple[str, ...], new: tuple[str, ...], *, at: int | None = None
) -> tuple[list[str], int, int]:
    start = None if at is None else Cut(at, at)
    found = Transcript(segments(*old)).followed_by(segments(*new), turn_start=start)
    return [segment.text for segment in found.segments], found.num_shared, found.num_before


@pytest.mark.parametrize(
    ("old", "new", "at", "expected"),
    [
        ((), ("ask", "say"), None, (["ask", "say"], 0, 0)),
        (("ask", "say"), ("ask", "say", "more"), 4, (["ask", "say", "more"], 2, 2)),
        # Cut elsewhere.
        (("ask", "say"), ("asks", "aymore", "x"), None, (["ask", "say", "more", "x"], 2, 2)),
        # The answer was rewritten, behind the same beginning or another one.
        (("ask", "say"), ("ask", "sXmore", "x"), 5, (["ask", "sX", "more", "x"], 1, 2)),
        (("ask", "say"), ("asXmore", "x"), 3, (["asX", "more", "x"], 0, 1)),
        # The same question again: the turn starts before what is known.
        (("ask", "say", "more", "x"), ("ask", "say", "more", "y"), 4, (["ask", "say", "more", "y"], 3, 3)),
        (("ask", "say"), ("other", "x"), None, (["other", "x"], 0, 0)),
        (("ask", "say"), ("ask",), None, (["ask"], 1, 1)),
    ],
)
def test_what_follows_a_transcript_is_cut_as_it_is_and_where_the_turn_starts(
    old: tuple[str, ...], new: tuple[str, ...], at: int | None, expected: object
) -> None:
    assert followed(old, new, at=at) == expected


def test_text_with_other_ids_is_not_shared_and_is_not_cut_within_an_id() -> None:
    old = Transcript((Segment("ab", (1, 2)),))
    assert old.followed_by((Segment("abc", (7,)),)).num_shared == 0
    pairs = (Segment("ab", (1,)), Segment("cd", (2,)))
    for cut in (Cut(1, 1), Cut(3, 1), Cut(9, 1), Cut(1, 2)):
        found = old.followed_by(pairs, turn_start=cut)
        assert (found.segments[-1], found.num_before) == (pairs[-1], found.num_shared)


@given(
    old=st.lists(st.text("ab", min_size=1, max_size=3), max_size=4),
    new=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4),
    at=st.integers(0, 20),
)
def test_a_continuation_is_the_new_text_and_shares_what_it_says(
    old: list[str], new: list[str], at: int
) -> None:
    before = Transcript(segments(*old))
    found = before.followed_by(segments(*new), turn_start=Cut(at, at))
    after = Transcript(found.segments)
    assert (after.text, after.token_ids) == ("".join(new), Transcript(segments(*new)).token_ids)
    assert found.segments[: found.num_shared] == before.segments[: found.num_shared]
    assert found.num_shared <= found.num_before <= len(found.segments)
