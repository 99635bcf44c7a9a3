from __future__ import annotations

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from semanticd.domain.stop_matcher import StopMatcher, VisibleStops
from tests.fakes.tokenizer import TildeParts


def run(stops: list[str] | VisibleStops, pieces: list[str]) -> tuple[str, str | None, list[str]]:
    """Feed pieces until a match or the end; return text, match, and what had been sent after each piece."""
    matcher = StopMatcher(stops)
    sent, steps = "", []
    for piece in pieces:
        result = matcher.feed(piece)
        sent += result.text
        steps.append(sent)
        if result.matched is not None:
            return sent, result.matched, steps
    result = matcher.finish()
    return sent + result.text, result.matched, steps


def naive(stops: list[str], text: str) -> tuple[str, str | None]:
    """The earliest occurrence, of those that begin there the longest."""
    found = [(text.find(stop), -len(stop), stop) for stop in stops if stop and stop in text]
    if not found:
        return text, None
    at, _, stop = min(found)
    return text[:at], stop


def test_without_stop_strings_text_passes_as_it_comes() -> None:
    assert run(["", ""], ["a", "b"]) == ("ab", None, ["a", "ab"])


def test_a_stop_string_is_found_byte_by_byte_and_no_part_of_it_slips_out() -> None:
    text, matched, steps = run(["</end>"], list("abc</en</end>xyz"))
    assert (text, matched) == ("abc</en", "</end>")
    assert steps[:6] == ["a", "ab", "abc", "abc", "abc", "abc"]


def test_a_false_beginning_is_sent_once_it_is_known_to_be_false() -> None:
    matcher = StopMatcher(["STOP"])
    assert matcher.feed("STO").text == ""
    assert matcher.feed("NE").text == "STONE"


def test_a_false_beginning_at_the_end_is_sent_at_the_end() -> None:
    assert run(["STOP"], ["go ", "ST"])[:2] == ("go ST", None)


def test_a_stop_string_inside_a_longer_one_that_began_earlier_waits_for_it() -> None:
    assert run(["abcd", "bc"], list("xabcd"))[:2] == ("x", "abcd")
    assert run(["abcd", "bc"], list("xabce"))[:2] == ("xa", "bc")
    assert run(["abcd", "bc"], list("xabc"))[:2] == ("xa", "bc")


@given(
    stops=st.lists(st.text("ab<", max_size=5), max_size=4),
    text=st.text("ab<", max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
@example(stops=["aab", "b"], text="aab", cuts=[1, 2])
@example(stops=["ab", "abb"], text="abb", cuts=[2])
def test_however_the_text_is_cut_the_earliest_match_wins(
    stops: list[str], text: str, cuts: list[int]
) -> None:
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
    sent, matched, steps = run(stops, pieces)
    expected_text, expected = naive(stops, text)
    assert sent == expected_text
    assert all(expected_text.startswith(step) for step in steps)
    if expected is None:
        assert matched is None
    else:
        # Which of two that begin at one place is completed first may depend on the cuts; where the text ends may not.
        assert matched is not None
        assert text.startswith(matched, len(expected_text))


@given(st.integers(1, 9))
@example(1)
def test_only_text_that_is_seen_is_stopped(size: int) -> None:
    text = "a~STOP ###~b## ~#STOP~c ST~OP~OP ### STOP d"
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    sent, matched, _ = run(VisibleStops(("STOP", "###"), TildeParts), pieces)
    assert (sent, matched) == (text[: text.rindex("###")], "###")


def test_nothing_is_watched_for_without_a_stop_string() -> None:
    assert run(VisibleStops((), TildeParts), ["a~b", "~c"])[:2] == ("a~b~c", None)
