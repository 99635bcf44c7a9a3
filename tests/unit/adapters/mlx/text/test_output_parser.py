"""What clients see of an answer does not depend on where its tokens ended, and nothing a model writes breaks it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from semanticd.adapters.mlx.text.output_parser import Markup, MlxOutputParser
from semanticd.adapters.mlx.text.tool_families import family_of
from semanticd.application.generation.stream import AnswerBuilder
from semanticd.domain.generation import (
    GenerationEvent,
    TextDelta,
    ThinkingDelta,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallStarted,
)

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}, "n": {"type": "integer"}}},
    },
}


def markup(family: str) -> Markup:
    found = family_of(hint=family, inferred=None, template="", vocabulary=())
    return Markup("<think>", "</think>", found.forms)


JSON = markup("json")
FAMILIES = {
    "json": JSON,
    "xml": markup("qwen3_coder"),
    "glm": markup("glm47"),
    "minimax": markup("minimax_m2"),
    "dsml": markup("deepseek_v32"),
    "python": markup("pythonic"),
    "mistral": markup("mistral"),
    "llama": markup("llama"),
    "gemma": markup("gemma3"),
    "deepseek": markup("deepseek_v3"),
    "kimi": markup("kimi_k2"),
}

Seen = tuple[list[tuple[str, ...]], int]


def read(
    pieces: Iterable[str],
    form: Markup = JSON,
    *,
    tools: bool = True,
    thinking: bool = False,
    cut: bool = False,
) -> Seen:
    """Return what a client puts together, neighbours of a kind joined, and the number of failures."""
    ids = count(1)
    parser = MlxOutputParser(
        form, tools=[TOOL] if tools else [], begins_thinking=thinking, new_id=lambda: f"c{next(ids)}"
    )
    events: list[GenerationEvent] = []
    for piece in pieces:
        events += parser.feed(piece)
    events += parser.finish(cut=cut)
    seen: list[tuple[str, ...]] = []
    num_broken = 0
    for event in events:
        if isinstance(event, TextDelta):
            entry: tuple[str, ...] = ("text", event.text)
        elif isinstance(event, ThinkingDelta):
            entry = ("thinking", event.text)
        elif isinstance(event, ToolCallDelta):
            entry = ("arguments", event.arguments)
        elif isinstance(event, ToolCallBroken):
            num_broken += 1
            continue
        else:
            assert isinstance(event, ToolCallStarted)
            seen.append(("call", str(event.index), event.call_id, event.name))
            continue
        if seen and seen[-1][0] == entry[0]:
            entry = (entry[0], seen.pop()[1] + entry[1])
        seen.append(entry)
    assert parser.num_tool_calls == sum(entry[0] == "call" for entry in seen) - num_broken
    return seen, parser.num_parse_failures


CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "the \\"sky\\"", "n": 2}}\n</tool_call>'
ARGUMENTS = '{"at": "the \\"sky\\"", "n": 2}'

ANSWERS = [
    "Plain text with < signs, <too and </tool_call> that mean nothing.",
    "<think>\nHm, é✓🎉.\n</think>\n\nThe answer.",
    f"Let me look.\n{CALL}\nAnd again.\n{CALL}",
    '<tool_call>{"name": "look", "arguments": {"at": "raw\nbreak"}}</tool_call>',
    '<tool_call>{"name": "look", "arguments": {at: 1}}</tool_call>after',
    '<tool_call>{"name": "look", "arguments": {"n": 1}',
    '<tool_call>{"name": "\\x", "arguments": {}}</tool_call>',
    '<tool_call>{"arguments": {"n": 1}, "name": "look"}</tool_call>',
    "<tool_call>look(at=1)</tool_call>",
    "<tool_call>\n<function=look>\n<parameter=at>\nsky\n</parameter>\n</function>\n</tool_call>done",
    '<|tool_call_start|>[look(at="sky", n=2)]<|tool_call_end|> ok',
    '[TOOL_CALLS]look[ARGS]{"at": "sky"}look[ARGS]{"n": 2}',
    '[TOOL_CALLS][{"name": "look", "arguments": {"at": "sky"}}]',
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_reads_the_same_in_one_piece_and_letter_by_letter(answer: str, family: str) -> None:
    form = FAMILIES[family]
    whole = read([answer], form)
    assert read(answer, form) == whole
    for at in range(len(answer)):
        assert read([answer[:at], answer[at:]], form) == whole


XML_CALL = "<function=look>\n<parameter=at>\nsky\n</parameter>\n</function>"
SKY, TWO = '{"name": "look", "arguments": {"at": "sky"}}', '{"name": "look", "arguments": {"n": 2}}'
DEEPSEEK_SKY = (
    '<｜tool▁call▁begin｜>function<｜tool▁sep｜>look\n```json\n{"at": "sky"}\n```<｜tool▁call▁end｜>'
)
SKY_SEEN = [("call", "0", "c1", "look"), ("arguments", '{"at": "sky"}')]
TWO_SEEN = [("call", "1", "c2", "look"), ("arguments", '{"n": 2}')]

LEFT = {
    "text between elements": (
        "qwen3_coder",
        f"<tool_call>\n{XML_CALL}\nand\n{XML_CALL.replace('at', 'n').replace('sky', '2')}\n</tool_call>",
        [*SKY_SEEN, ("text", "and"), *TWO_SEEN],
        1,
    ),
    "text before and after elements": (
        "qwen3_coder",
        f"<tool_call>Sure:\n{XML_CALL}\ndone</tool_call>",
        [("text", "Sure:"), *SKY_SEEN, ("text", "done")],
        2,
    ),
    "JSON after an element": (
        "qwen3_coder", f"<tool_call>\n{XML_CALL}\n{TWO}\n</tool_call>", [*SKY_SEEN, *TWO_SEEN], 0,
    ),
    "JSON and a word after an element": (
        "qwen3_coder",
        f"<tool_call>\n{XML_CALL}\nand {TWO}\n</tool_call>",
        [*SKY_SEEN, ("text", "and"), *TWO_SEEN],
        1,
    ),
    "text after the last argument": (
        "glm47",
        "<tool_call>look<arg_key>at</arg_key><arg_value>sky</arg_value> as asked\n</tool_call>",
        [*SKY_SEEN, ("text", "as asked")],
        1,
    ),
    "a word between two calls": (
        "deepseek_v3",
        f"<｜tool▁calls▁begin｜>{DEEPSEEK_SKY} and {DEEPSEEK_SKY}<｜tool▁calls▁end｜>",
        [*SKY_SEEN, ("text", "and"), ("call", "1", "c2", "look"), SKY_SEEN[1]],
        1,
    ),
    "text after a list that nothing ends": (
        "mistral", f"[TOOL_CALLS][{SKY}] I will look.\nThen {{this}}.",
        [*SKY_SEEN, ("text", "I will look.\nThen {this}.")], 0,
    ),
    "a list after a list": (
        "mistral", f"[TOOL_CALLS][{SKY}] [TOOL_CALLS][{TWO}]", [*SKY_SEEN, *TWO_SEEN], 0,
    ),
    "a named call after a word": (
        "mistral", '[TOOL_CALLS]look[ARGS]{"at": "sky"} and look[ARGS]{"n": 2}',
        [*SKY_SEEN, ("text", "and"), *TWO_SEEN], 0,
    ),
    "text after a call that nothing ends": (
        "granite", f"<|tool_call|>[{SKY}]\nI will look.", [*SKY_SEEN, ("text", "I will look.")], 0,
    ),
    "text after Llama's marker": (
        "llama", f"<|python_tag|>{SKY}\nI will look.", [*SKY_SEEN, ("text", "I will look.")], 0,
    ),
    "text after JSON": (
        "json", f"<tool_call>\n{SKY}\nI will look.\n</tool_call>\nNow.",
        [*SKY_SEEN, ("text", "I will look.\nNow.")], 1,
    ),
    "a call behind keys that mean nothing": (
        "json", f'<tool_call>{SKY[:-1]}, "why": "{{"}}\n{TWO}</tool_call>', [*SKY_SEEN, *TWO_SEEN], 0,
    ),
    "a call in another order behind a word": (
        "json", f'<tool_call>{SKY} or {{"arguments": {{"n": 2}}, "name": "look"}}</tool_call>',
        [*SKY_SEEN, ("text", 'or {"arguments": {"n": 2}, "name": "look"}')], 1,
    ),
    "brackets too many": ("json", f"<tool_call>{SKY}}}]\n</tool_call>", SKY_SEEN, 0),
    "a second call that is broken": (
        "json", f'<tool_call>{SKY} and {{"name": "look", "arguments": {{"n": ?}}}}</tool_call>',
        [*SKY_SEEN, ("text", "and"), ("call", "1", "c2", "look"), ("arguments", '{"n": '), ("text", "?}}")], 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LEFT)
def test_what_stands_between_calls_and_after_them_is_a_call_or_text(what: str) -> None:
    family, answer, seen, num_failures = LEFT[what]
    assert read([answer], markup(family)) == (seen, num_failures)
    assert read(answer, markup(family)) == (seen, num_failures)


@pytest.mark.parametrize(
    ("family", "answer", "text"),
    [
        ("mistral", f"[TOOL_CALLS][{SKY}] I will lo", "I will lo"),
        ("mistral", f"[TOOL_CALLS][{SKY}", ""),
        ("mistral", '[TOOL_CALLS]look[ARGS]{"at": "sky"} lo', ""),
        ("granite", f'<|tool_call|>[{SKY}, {{"name": "lo', ""),
        ("json", f"<tool_call>{SKY}\n</tool_ca", ""),
        ("qwen3_coder", f"<tool_call>{XML_CALL}\n<function=lo", ""),
        ("qwen3_coder", f"<tool_call>{XML_CALL}\n</tool_ca", ""),
    ],
)
def test_after_a_whole_call_the_beginning_of_another_that_is_cut_is_no_text(
    family: str, answer: str, text: str
) -> None:
    seen = [*SKY_SEEN, ("text", text)] if text else SKY_SEEN
    assert read([answer], markup(family), cut=True) == (seen, 0)
    assert read(answer, markup(family), cut=True) == (seen, 0)


MARKED = st.lists(
    st.one_of(
        st.sampled_from(
            [*ANSWERS, "<think>", "</think>", "<tool_call>", "</tool_call>", '{"name": "look", "arguments": ']
        ),
        st.sampled_from(
            [
                "```json",
                "```tool_code\n",
                "```",
                "<tools>",
                "</tools>",
                "<|python_tag|>",
                "<function=",
                "[look(",
                ")]",
            ]
        ),
        st.sampled_from(
            [
                'look(at="sky")',
                "<｜tool▁calls▁begin｜>",
                "<｜tool▁call▁begin｜>look<｜tool▁sep｜>{}",
                "look[ARGS]{}",
                "; ",
            ]
        ),
        st.sampled_from(
            ["{", "}", "[", "]", '"', "\\", "\\u", ":", ",", "-0", "1e", "tru", "null", "\n", "<"]
        ),
        st.text(max_size=8),
    ),
    max_size=12,
).map("".join)


@given(
    text=MARKED,
    cuts=st.lists(st.integers(0, 400), max_size=8),
    family=st.sampled_from(sorted(FAMILIES)),
    thinking=st.booleans(),
)
@example(
    text='<tool_call>{"name": "look", "arguments": {"a": {1, 2}}}', cuts=[], family="json", thinking=False
)
@example(
    text='<tool_call>{"name": "look", "arguments": {"a": "\ud800"}', cuts=[5], family="json", thinking=False
)
def test_whatever_a_model_writes_is_read_the_same_however_it_is_cut(
    text: str, cuts: list[int], family: str, thinking: bool
) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    form = FAMILIES[family]
    assert read(pieces, form, thinking=thinking) == read([text], form, thinking=thinking)


@given(text=MARKED)
def test_without_tools_nothing_is_a_call_and_nothing_is_lost(text: str) -> None:
    form = Markup(None, None, JSON.forms)
    seen, failures = read([text], form, tools=False)
    assert failures == 0
    assert "".join(entry[1] for entry in seen) == text
    assert all(entry[0] == "text" for entry in seen)


@given(
    arguments=st.dictionaries(
        st.text(max_size=6),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=10),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    ),
    spaced=st.booleans(),
    ascii_only=st.booleans(),
)  # fmt: skip
def test_every_json_object_passes_as_arguments(
    arguments: dict[str, Any], spaced: bool, ascii_only: bool
) -> None:
    text = json.dumps(arguments, indent=2 if spaced else None, ensure_ascii=ascii_only)
    seen, failures = read(f'<tool_call>{{"name": "look", "arguments": {text}}}</tool_call>')
    assert failures == 0
    assert seen == [("call", "0", "c1", "look"), ("arguments", text)]


def test_arguments_are_handed_on_while_they_come() -> None:
    parser = MlxOutputParser(JSON, tools=[TOOL], new_id=lambda: "c")
    assert parser.feed('<tool_call>\n{"name": "look", "arguments": ') == []
    assert parser.feed('{"at"') == [ToolCallStarted(0, "c", "look"), ToolCallDelta(0, '{"at"')]
    assert parser.feed(': "s') == [ToolCallDelta(0, ': "s')]


def test_text_calls_and_text_keep_their_order() -> None:
    seen, failures = read([f"One. {CALL}\nTwo. {CALL}"])
    assert failures == 0
    assert seen == [
        ("text", "One. "),
        ("call", "0", "c1", "look"),
        ("arguments", ARGUMENTS),
        ("text", "Two. "),
        ("call", "1", "c2", "look"),
        ("arguments", ARGUMENTS),
    ]


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("xml", ANSWERS[9].removesuffix("done")),
        ("python", '<|tool_call_start|>[look(at="sky")]<|tool_call_end|>'),
        ("mistral", '[TOOL_CALLS]look[ARGS]{"at": "sky"}'),
        ("mistral", ANSWERS[12]),
        ("json", '<tool_call>{"name": "look", "parameters": {"at": "sky"}}</tool_call>'),
        ("json", '<tool_call>{"name": "look", "arguments": "{\\"at\\": \\"sky\\"}"}</tool_call>'),
        ("json", '<tool_call>{"arguments": {"at": "sky"}, "name": "look"}</tool_call>'),
        ("xml", '<tool_call>{"name": "look", "arguments": {"at": "sky"}}</tool_call>'),
    ],
)
def test_each_family_calls_in_its_own_form(family: str, text: str) -> None:
    seen, failures = read(text, FAMILIES[family])
    assert failures == 0
    assert seen == [("call", "0", "c1", "look"), ("arguments", '{"at": "sky"}')]


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="mlx-lm 0.31, the last for Python 3.10, parses this form more loosely"
)
def test_one_block_of_markup_can_hold_several_calls() -> None:
    seen, _ = read([ANSWERS[11]], FAMILIES["mistral"])
    assert [entry[1] for entry in seen if entry[0] == "arguments"] == ['{"at": "sky"}', '{"n": 2}']


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("look at the sky", "look at the sky"),
        ('{"name": 3, "arguments": {}}', '{"name": 3, "arguments": {}}'),
        ('{"name": "look", "arguments": [1]}', '{"name": "look", "arguments": [1]}'),
        ('{"name": "look", "arguments": "not json"}', '{"name": "look", "arguments": "not json"}'),
        ('{"arguments": {"n": NaN}, "name": "look"}', '{"arguments": {"n": NaN}, "name": "look"}'),
        ('[{"name": "look"}, 7]', '[{"name": "look"}, 7]'),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_a_call_that_cannot_be_read_is_shown_as_text_and_counted(body: str, shown: str) -> None:
    assert read([f"<tool_call>{body}</tool_call>"]) == ([("text", shown)], 1)


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="mlx-lm 0.31, the last for Python 3.10, parses this form more loosely"
)
def test_values_that_json_cannot_say_are_no_call() -> None:
    text = "<|tool_call_start|>[look(at={1, 2})]<|tool_call_end|>"
    assert read([text], FAMILIES["python"]) == ([("text", "[look(at={1, 2})]")], 1)


def test_arguments_stop_at_the_character_that_breaks_them() -> None:
    seen, failures = read(['<tool_call>{"name": "look", "arguments": {"n": 1, at: 2}}</tool_call>'])
    assert failures == 1
    assert seen == [("call", "0", "c1", "look"), ("arguments", '{"n": 1, '), ("text", "at: 2}}")]


@pytest.mark.parametrize(
    "broken", ["{1}", '{"a" 1}', '{"a": 01}', '{"a": tru}', '{"a": [1,]}', '{"a": "\\x"}', "{,}"]
)
def test_no_piece_of_arguments_is_more_than_the_beginning_of_json(broken: str) -> None:
    seen, failures = read([f'<tool_call>{{"name": "look", "arguments": {broken}}}</tool_call>'])
    assert failures == 1
    taken = "".join(entry[1] for entry in seen if entry[0] == "arguments")
    assert taken != broken
    assert broken.startswith(taken)


@pytest.mark.parametrize(
    ("answer", "num_whole", "text"),
    [
        (
            '<tool_call>\n{"name": "look", "arguments": {"at": "Par',
            0,
            '{"name": "look", "arguments": {"at": "Par',
        ),
        (
            'Well.<tool_call>{"name": "look", "arguments": {"n": 1, at: 2}}</tool_call>',
            0,
            'Well.{"name": "look", "arguments": {"n": 1, at: 2}}',
        ),
        (f'{CALL}<tool_call>{{"name": "look", "arguments": {{"at"', 1, '{"name": "look", "arguments": {"at"'),
        (
            '<tool_call>{"name": "look", "arguments": {}}; {"name": "look", "arguments": {"at": [',
            1,
            '{"name": "look", "arguments": {"at": [',
        ),
    ],
)
@pytest.mark.parametrize("size", [1, 5, 200])
def test_half_a_call_is_text_in_a_whole_answer_and_no_call(
    answer: str, num_whole: int, text: str, size: int
) -> None:
    parser = MlxOutputParser(JSON, tools=[TOOL])
    built = AnswerBuilder(1)
    for at in range(0, len(answer), size):
        for event in parser.feed(answer[at : at + size]):
            built.add(event)
    for event in parser.finish():
        built.add(event)
    assert parser.num_tool_calls == len(built.choices()[0].tool_calls) == num_whole
    assert built.choices()[0].text == text
    assert parser.num_parse_failures == 1


def test_a_raw_line_break_in_an_argument_is_escaped() -> None:
    seen, failures = read([ANSWERS[3]])
    assert failures == 0
    assert json.loads(seen[1][1]) == {"at": "raw\nbreak"}


def test_thinking_is_apart_and_its_line_breaks_belong_to_the_markup() -> None:
    assert read(["<think>\nHm.\n</think>\n\nYes."])[0] == [("thinking", "Hm.\n"), ("text", "Yes.")]
    assert read(["Hm.</think>Yes."], thinking=True)[0] == [("thinking", "Hm."), ("text", "Yes.")]
    assert read(["Hm, no end"], thinking=True)[0] == [("thinking", "Hm, no end")]


def test_text_is_passed_on_unless_it_could_begin_a_marker() -> None:
    parser = MlxOutputParser(JSON, tools=[TOOL])
    assert parser.feed("a <") == [TextDelta("a ")]
    assert parser.feed("b") == [TextDelta("<b")]
    assert parser.feed("<tool_cal") == []
    assert parser.finish() == [TextDelta("<tool_cal")]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (
            '<tool_call>\n{"name": "look", "arguments": {"at": "the s',
            [("call", "0", "c1", "look"), ("arguments", '{"at": "the s')],
        ),
        ('<tool_call>\n{"name": "look", "arguments": ', [("call", "0", "c1", "look")]),
        ('<tool_call>\n{"name": "look"', [("call", "0", "c1", "look")]),
        ('<tool_call>\n{"name": "lo', []),
        ('I look.<tool_call>\n{"na', [("text", "I look.")]),
        ('<tool_call>\n{"name": "swim", "arg', []),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_call_that_is_cut_by_its_room_is_kept_as_far_as_it_came_and_is_no_text(
    text: str, seen: list[tuple[str, ...]], size: int
) -> None:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert read(pieces, cut=True)[0] == seen


def test_a_call_in_another_form_that_is_cut_is_no_text_either() -> None:
    cut = "<tool_call>\n<function=look>\n<parameter=at>\nthe s"
    seen, _ = read([cut], FAMILIES["xml"], cut=True)
    assert seen[0] == ("call", "0", "c1", "look")
    assert not any(entry[0] == "text" for entry in seen)


def test_a_call_that_was_complete_when_its_room_ended_is_whole() -> None:
    seen, failures = read([CALL.removesuffix("\n</tool_call>")], cut=True)
    assert seen == [("call", "0", "c1", "look"), ("arguments", ARGUMENTS)]
    assert failures == 0


@pytest.mark.parametrize("end", range(1, len("<tool_call>") + 1))
def test_an_answer_that_is_cut_in_the_marker_of_its_call_shows_none_of_it(end: int) -> None:
    parser = MlxOutputParser(JSON, tools=[TOOL])
    events = parser.feed("<tool_call>"[:end]) + parser.finish(cut=True)
    assert events == []
    said = MlxOutputParser(JSON, tools=[TOOL])
    events = said.feed("a <") + said.finish(cut=True)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "a <"
