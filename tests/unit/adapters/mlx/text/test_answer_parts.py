"""Stop strings count where the client sees the text, and thinking and calls end where the parser says they do."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from semanticd.adapters.mlx.text.answer_parts import MarkedParts, Part
from semanticd.adapters.mlx.text.call_strings import MOST_HELD
from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer
from semanticd.adapters.mlx.text.tool_families import family_of
from semanticd.domain.chat import ChatPrompt, Message, ToolChoice, ToolSpec
from semanticd.domain.stop_matcher import StopMatcher, VisibleStops
from tests.unit.adapters.mlx.conftest import MakeTokenizer
from tests.unit.adapters.mlx.text.test_marker_in_string import FORMS, HARMONY, MARKERS, VALUES, Form


def run(
    stops: tuple[str, ...] | VisibleStops, pieces: list[str], *, cut: bool = False
) -> tuple[str, str | None]:
    """Return the text up to the stop string, and that."""
    matcher, sent = StopMatcher(stops), ""
    for piece in pieces:
        result = matcher.feed(piece)
        sent += result.text
        if result.matched is not None:
            return sent, result.matched
    result = matcher.finish(cut=cut)
    return sent + result.text, result.matched


def cut_in(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def hidden(stops: tuple[str, ...], *pairs: tuple[str, str], begins: bool = False) -> VisibleStops:
    """Stop outside of these pairs of markers; with `begins` the answer begins in the first one's part."""
    said = Part(is_visible=True)
    for start, end in pairs:
        said.marks[start] = Part(marks={end: said} if end else {})
    return VisibleStops(stops, partial(MarkedParts, said.marks[pairs[0][0]] if begins else said))


HIDDEN = hidden(("STOP", "###"), ("<think>", "</think>"), ("<call>", "</call>"))


@given(st.integers(1, 9))
@example(1)
def test_only_text_that_is_shown_is_stopped(size: int) -> None:
    text = "a<think>STOP ###</think>b<call>{STOP}</call>c ## STOP d"
    assert run(HIDDEN, cut_in(text, size)) == (text[: text.rindex("STOP")], "STOP")


@given(st.integers(1, 9))
def test_an_answer_may_begin_with_what_is_not_shown(size: int) -> None:
    stops = hidden(("STOP",), ("<think>", "</think>"), begins=True)
    assert run(stops, cut_in("STOP it</think>go STOP", size)) == ("STOP it</think>go ", "STOP")


@given(st.lists(st.text(alphabet="ST<think>/#", max_size=8), max_size=8))
def test_nothing_is_lost_where_nothing_stops(pieces: list[str]) -> None:
    stops = hidden(("STOPPED", "####!"), ("<think>", "</think>"), ("[", ""))
    assert run(stops, pieces) == ("".join(pieces), None)


def test_what_has_no_end_is_hidden_to_the_end() -> None:
    assert run(hidden(("STOP",), ("[CALL]", "")), ["a[CA", "LL]{STOP}", " STOP"]) == (
        "a[CALL]{STOP} STOP",
        None,
    )


# Calls with end markers in their strings.

HARMONY_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}<|channel|>final<|message|>"
    "{{ m.content }}<|end|>{% endfor %}"
)
TOOL = ToolSpec("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}})
PROMPT = ChatPrompt((Message.of("user", "?"),), (TOOL,), ToolChoice("auto"))
FOLLOWED = {
    name: form
    for name, form in FORMS.items()
    # A form without an end marker hides all that follows; a guarded one, or one without markers, hides nothing.
    if form.family == HARMONY
    or any(
        f.end and f.guard is None and form.write({"at": "", "in": ""}).startswith(f.start)
        for f in family_of(hint=form.family, inferred=None, template="", vocabulary=()).forms
    )
}


@pytest.fixture(scope="module")
def tokenizer_of(make_tokenizer: MakeTokenizer) -> Callable[[Form], MlxTokenizer]:
    made: dict[str, MlxTokenizer] = {}

    def make(form: Form) -> MlxTokenizer:
        if form.family not in made:
            if form.family == HARMONY:
                markers = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>")
                made[form.family] = make_tokenizer(HARMONY_TEMPLATE, tokens=markers, special=True)
            else:
                made[form.family] = make_tokenizer(tool_parser=form.family)
        return made[form.family]

    return make


def seen_text(form: Form) -> str:
    return "<|end|><|start|>assistant<|channel|>final<|message|>So" if form.family == HARMONY else "So"


@pytest.mark.parametrize("name", FOLLOWED)
@settings(max_examples=15)
@given(at=VALUES, cuts=st.lists(st.integers(0, 4000), max_size=8))
@example(at="a </tool_call>STOP; b", cuts=[])
@example(at="".join(f"{marker}STOP" for marker in MARKERS), cuts=[40, 41, 1100])
@example(at="x" * MOST_HELD + "".join(f"{marker}STOP" for marker in MARKERS), cuts=[])
def test_no_stop_string_stops_inside_of_a_call_and_it_does_behind_one(
    name: str, at: str, cuts: list[int], tokenizer_of: Callable[[Form], MlxTokenizer]
) -> None:
    form = FOLLOWED[name]
    arguments = {"at": at} if "ython" in name and "dict" not in name else {"at": at, "in": "STOP"}
    before = form.write(arguments) + seen_text(form)
    text = f"{before} STOP, and more"
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    stops = tokenizer_of(form).visible_stops(PROMPT, ("STOP",), formed=False)
    assert run(stops, [text[a:b] for a, b in pairwise(edges)]) == (f"{before} ", "STOP")


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("name", ["json, one", "kimi_k2, one", "harmony"])
def test_a_call_that_is_cut_behind_a_marker_in_its_string_is_not_stopped(
    name: str, size: int, tokenizer_of: Callable[[Form], MlxTokenizer]
) -> None:
    form, value = FORMS[name], f"a {''.join(MARKERS)} STOP; b"
    written = form.write({"at": value})
    answer = written[: written.index("; b") + 3]
    stops = tokenizer_of(form).visible_stops(PROMPT, ("STOP",), formed=False)
    assert run(stops, cut_in(answer, size), cut=True) == (answer, None)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_behind_a_quote_that_was_forgotten_the_text_is_seen(
    size: int, tokenizer_of: Callable[[Form], MlxTokenizer]
) -> None:
    call = '<tool_call>{"name": "look", "arguments": {"at": "Paris STOP}}</tool_call>'
    stops = tokenizer_of(Form("json", json.dumps)).visible_stops(PROMPT, ("STOP",), formed=False)
    assert run(stops, cut_in(f"{call} It STOPs.", size)) == (f"{call} It ", "STOP")
    assert run(stops, cut_in(f"{call} It stops.", size)) == (f"{call} It stops.", None)


def test_thinking_of_a_quoted_call_is_thinking(tokenizer_of: Callable[[Form], MlxTokenizer]) -> None:
    """In the channels a marker behind an open quote counts, unless the message is for a tool."""
    answer = '<|channel|>analysis<|message|>Say {"at": "<|end|><|start|>assistant<|channel|>final<|message|>'
    stops = tokenizer_of(FORMS["harmony"]).visible_stops(PROMPT, ("STOP",), formed=False)
    assert run(stops, [f"{answer}STOP"]) == (answer, "STOP")
