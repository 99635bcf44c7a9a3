"""Text on its way to a terminal: what steers it becomes visible, everything else stays."""

from __future__ import annotations

import json
import unicodedata
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanticd.control.terminal_text import many_lines, one_line, safe_json, safe_values
from tests.fakes.hostile_text import ENCODABLE, HOSTILE

ANY_TEXT = st.text(st.characters(exclude_categories=[]))  # also lone surrogates


def steers(text: str) -> list[str]:
    """Return the controls, surrogates and bidirectional controls of a text."""
    kinds = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return [
        character
        for character in text
        if unicodedata.category(character) in ("Cc", "Cs")
        or unicodedata.bidirectional(character) in kinds
        or ord(character) & 0xFFFE == 0xFFFE
    ]


def test_the_corpus_has_its_size_and_each_text_once() -> None:
    assert len(HOSTILE) >= 200
    assert len(set(HOSTILE)) == len(HOSTILE)


@pytest.mark.parametrize("text", HOSTILE, ids=[text.split()[0] + f"-{at}" for at, text in enumerate(HOSTILE)])
def test_nothing_of_a_hostile_text_steers_a_terminal_or_breaks_xml(text: str) -> None:
    assert steers(one_line(text)) == []
    assert set(steers(many_lines(text))) <= {"\n", "\t"}
    # XML's own characters are the business of who writes XML; the others cannot be escaped there.
    shown = many_lines(text).replace("&", "").replace("<", "").replace("]]>", "")
    assert ET.fromstring(f"<a>{shown}</a>").text == shown
    assert many_lines(text).encode()


@given(ANY_TEXT)
def test_any_text_is_safe_after_one_pass_and_a_second_changes_nothing(text: str) -> None:
    assert steers(one_line(text)) == []
    assert one_line(one_line(text)) == one_line(text)
    assert many_lines(many_lines(text)) == many_lines(text)


def test_an_escape_says_which_character_it_was() -> None:
    assert one_line("a\x1b[2Jb\x9bc\u202ed\ud800e\U000e0041f\n\r\tg") == (
        r"a\x1b[2Jb\x9bc\u202ed\ud800e\U000e0041f\n\r\tg"
    )
    assert many_lines("a\r\nb\rc\td") == "a\nb\\rc\td"


@pytest.mark.parametrize(
    "text",
    ["", "plain", "naïve 日本語 שלום العربية ไทย", "👩‍👩‍👧 ✅️", "e\u0301", "a b", r"\x1b", "\U0001f600"],
)
def test_text_of_every_script_stays_as_it_is(text: str) -> None:
    assert one_line(text) == many_lines(text) == safe_values(text) == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | ANY_TEXT, lambda inner: st.lists(inner, max_size=4)
    )
)
def test_json_keeps_its_value_and_loses_what_steers(value: object) -> None:
    document = safe_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(document) == json.loads(json.dumps(value))
    assert steers(document) == []


def test_facts_are_made_safe_wherever_they_hold_text() -> None:
    told = {"a\x1b": ["\x9b", {"b": "\u202e"}, 1, None, 2.5, True], "n": "one\ntwo", "t": ("\x07",)}
    assert safe_values(told) == {
        r"a\x1b": [r"\x9b", {"b": r"\u202e"}, 1, None, 2.5, True],
        "n": "one\ntwo",
        "t": [r"\x07"],
    }
    for text in ENCODABLE:
        assert set(steers(safe_values({"x": [text]})["x"][0])) <= {"\n", "\t"}
