from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanticd.domain.transcript import Segment, Transcript, TranscriptIndex


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
