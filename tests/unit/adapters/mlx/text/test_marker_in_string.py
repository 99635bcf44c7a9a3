"""A marker inside of a string of a call does not end it; behind a quote that was forgotten the first marker does."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlx_lm import tool_parsers

from semanticd.adapters.mlx.text import harmony
from semanticd.adapters.mlx.text.call_strings import MOST_HELD, CallStrings, HeldText
from semanticd.adapters.mlx.text.harmony import HarmonyParser
from semanticd.adapters.mlx.text.output_parser import Markup, MlxOutputParser
from semanticd.adapters.mlx.text.tool_families import ToolFamily, family_of
from semanticd.application.generation.stream import AnswerBuilder
from semanticd.application.ports.inference import OutputParser
from semanticd.domain.generation import ToolCallDelta

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}, "in": {"type": "string"}}},
    },
}
OWN = (
    "json",
    "llama",
    "deepseek_v3",
    "deepseek_v31",
    "deepseek_v32",
    "gemma3",
    "nemotron",
    "granite",
    "phi4_mini",
)
NAMES = sorted({*OWN, *(module.name for module in pkgutil.iter_modules(tool_parsers.__path__))})


def row(name: str) -> ToolFamily:
    return family_of(hint=name, inferred=None, template="", vocabulary=())


FAMILIES = {name: row(name) for name in NAMES if name != "json_tools"}
HARMONY = "harmony"
MARKERS = sorted(
    {marker for family in FAMILIES.values() for marker in family.markers}
    | {*harmony.MARKERS, "<think>", "</think>"}
)


@dataclass(frozen=True)
class Form:
    """How a call with these arguments may be written, and by which family."""

    family: str
    write: Callable[[dict[str, str]], str]

    def parser(self) -> OutputParser:
        if self.family == HARMONY:
            return HarmonyParser(names=["look"])
        return MlxOutputParser(Markup("<think>", "</think>", FAMILIES[self.family].forms), tools=[TOOL])


def as_json(arguments: object) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def spelled(family: ToolFamily, num_calls: int) -> Callable[[dict[str, str]], str]:
    return lambda arguments: family.spelling.written([("look", as_json(arguments))] * num_calls)


def between(start: str, body: Callable[[dict[str, str]], str], end: str) -> Callable[[dict[str, str]], str]:
    return lambda arguments: f"{start}{body(arguments)}{end}"


def named(arguments: dict[str, str]) -> str:
    return f'{{"name": "look", "arguments": {as_json(arguments)}}}'


def other_order(arguments: dict[str, str]) -> str:
    return f'{{"arguments": {as_json(arguments)}, "name": "look"}}'


def two(arguments: dict[str, str]) -> str:
    return f"[{named(arguments)}, {named(arguments)}]"


def wrapped(arguments: dict[str, str]) -> str:
    return f'[{{"type": "function", "function": {named(arguments)}}}]'


def quoted_twice(arguments: dict[str, str]) -> str:
    return f'{{"name": "look", "arguments": {as_json(as_json(arguments))}}}'


def fenced(arguments: dict[str, str]) -> str:
    return f"\n{named(arguments)}\n"


def tagged(arguments: dict[str, str]) -> str:
    return f"look>{as_json(arguments)}"


def python(arguments: dict[str, str]) -> str:
    return f"look({', '.join(f'{key}={value!r}' for key, value in arguments.items() if key != 'in')})"


def python_list(arguments: dict[str, str]) -> str:
    return f"[{python(arguments)}, {python(arguments)}]"


def python_dict(arguments: dict[str, str]) -> str:
    return repr({"name": "look", "arguments": arguments})


PYTHON_START, PYTHON_END = "<|tool_call_start|>", "<|tool_call_end|>"
FORMS = {
    **{f"{name}, one": Form(name, spelled(family, 1)) for name, family in FAMILIES.items()},
    **{f"{name}, two": Form(name, spelled(family, 2)) for name, family in FAMILIES.items() if family.spelling.end},
    **{
        f"json, {body.__name__}": Form("json", between("<tool_call>", body, "</tool_call>"))
        for body in (named, other_order, two, wrapped, quoted_twice, python_dict)
    },
    **{
        f"{start}, {body.__name__}": Form("json", between(start, body, end))
        for start, end in (("<tools>", "</tools>"), ("<function_call>", "</function_call>"))
        for body in (named, other_order, wrapped)
    },
    "json, bare": Form("json", other_order),
    "nemotron, two in a list": Form("nemotron", between("<TOOLCALL>", two, "</TOOLCALL>")),
    "phi, two in a list": Form("phi4_mini", between("<|tool_call|>", two, "<|/tool_call|>")),
    "llama, a tag": Form("llama", between("<function=", tagged, "</function>")),
    "llama, Python": Form("llama", between("<|python_start|>", python_list, "<|python_end|>")),
    "llama, bare Python": Form("llama", between("", python_list, "")),
    "gemma, a fence of JSON": Form("gemma3", between("```json", fenced, "```")),
    "gemma, a fence in one line": Form("gemma3", between("```json ", named, "```")),
    "gemma, a fence of Python": Form("gemma3", between("```tool_code\n", python, "\n```")),
    "pythonic": Form("pythonic", between(PYTHON_START, python_list, PYTHON_END)),
    "mistral, named": Form("mistral", lambda arguments: f"[TOOL_CALLS]look[ARGS]{as_json(arguments)}"),
    "harmony": Form(
        HARMONY, lambda arguments: f" to=functions.look<|channel|>commentary json<|message|>{as_json(arguments)}"
    ),
}  # fmt: skip


def read(parser: OutputParser, pieces: Iterable[str], *, cut: bool = False) -> tuple[list[str], str, int]:
    """Return the arguments of the calls, the text that is shown, and the number of failures."""
    built = AnswerBuilder(1)
    for piece in pieces:
        for event in parser.feed(piece):
            built.add(event)
    for event in parser.finish(cut=cut):
        built.add(event)
    [choice] = built.choices()
    assert all(call.name == "look" for call in choice.tool_calls)
    assert parser.num_tool_calls == len(choice.tool_calls)
    arguments = [call.cut if call.cut is not None else as_json(call.arguments) for call in choice.tool_calls]
    return arguments, choice.text, parser.num_parse_failures


VALUES = st.lists(
    st.one_of(
        st.sampled_from(MARKERS),
        st.sampled_from(
            ['"', "\\", "'", "{", "}", "]", ")", "\n", "; ", "```", '"}}', "é✓🎉", "x" * MOST_HELD]
        ),
        st.text(max_size=6),
    ),
    max_size=8,
).map("".join)


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=25)
@given(at=VALUES, other=VALUES, cuts=st.lists(st.integers(0, 4000), max_size=8))
@example(at="a </tool_call>; b is ", other="", cuts=[])
@example(at="".join(MARKERS), other="x" * MOST_HELD + "".join(MARKERS), cuts=[40, 41, 1100])
@example(at="}```b", other="\n```\n", cuts=[])
def test_a_string_says_what_it_says_whatever_markers_are_in_it(
    name: str, at: str, other: str, cuts: list[int]
) -> None:
    form, arguments = FORMS[name], {"at": at, "in": other}
    if "ython" in name and "dict" not in name:
        del arguments["in"]
    written = form.write(arguments)
    edges = [0, *sorted(min(cut, len(written)) for cut in cuts), len(written)]
    whole = read(form.parser(), [written])
    assert whole[0]
    assert all(json.loads(call) == arguments for call in whole[0])
    assert whole[1:] == ("", 0)
    assert read(form.parser(), [written[a:b] for a, b in pairwise(edges)]) == whole


OPEN = '<tool_call>{"name": "look", "arguments": {"at": "Paris}}'
BODY = OPEN.removeprefix("<tool_call>")
OTHER = named({"at": "sky"})


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("behind", "calls", "text", "failures"),
    [
        ("", [], "", 1),
        (" It rains.", [], " It rains.", 1),
        ('\nIt "rains", they say.', [], 'It "rains", they say.', 1),
        (f"\n<tool_call>{OTHER}</tool_call>", ['{"at": "sky"}'], "", 1),
        (f"<tool_call>\n{OTHER}\n</tool_call>\nSo", ['{"at": "sky"}'], "So", 1),
        (f"\n{OPEN}</tool_call> and", [], f"{BODY} and", 2),
        ("</tool_call></tool_call>", [], "</tool_call></tool_call>", 1),
    ],
)
def test_behind_a_quote_that_was_forgotten_the_first_marker_ends_the_call(
    behind: str, calls: list[str], text: str, failures: int, size: int
) -> None:
    answer = f"{OPEN}</tool_call>{behind}"
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    seen = read(Form("json", named).parser(), pieces)
    assert seen == (calls, BODY + text, failures)


@pytest.mark.parametrize("size", [1, 50, 10_000])
@pytest.mark.parametrize("family", ["json", HARMONY])
def test_no_more_is_held_than_has_a_bound_and_nothing_is_lost(family: str, size: int) -> None:
    begin, marker = OPEN, "</tool_call>"
    if family == HARMONY:
        begin = ' to=functions.look<|channel|>commentary json<|message|>{"at": "Paris}}'
        marker = "<|end|>"
    answer = f"{begin}{marker}{'so it goes on ' * 300}{marker}and on"
    parser, built, num_given = Form(family, named).parser(), AnswerBuilder(1), 0
    for at in range(0, len(answer), size):
        for event in parser.feed(answer[at : at + size]):
            built.add(event)
            if isinstance(event, ToolCallDelta):
                num_given += len(event.arguments)
        num_read = min(at + size, len(answer)) - answer.index('{"at')
        assert num_given >= num_read - MOST_HELD - size
    for event in parser.finish():
        built.add(event)
    [choice] = built.choices()
    assert not choice.tool_calls
    assert choice.text.endswith("so it goes on and on")
    assert choice.text.count("so it goes on ") == 300


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("name", ["json, one", "deepseek_v3, one", "kimi_k2, one", "gemma4, one", "harmony"])
def test_a_call_that_is_cut_behind_a_marker_in_its_string_is_kept_as_far_as_it_came(
    name: str, size: int
) -> None:
    form, value = FORMS[name], f"a {''.join(MARKERS)}; b"
    written = form.write({"at": value})
    answer = written[: written.index("; b") + 3]
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    arguments, text, _ = read(form.parser(), pieces, cut=True)
    assert (arguments, text) == ([as_json({"at": value}).removesuffix('"}')], "")


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ('{"a": "', True),
        ('[\n{"a": "x"}, {"', True),
        ('{"a": "\\"', True),
        ('{"a": "x"', False),
        ('{"a": "x"s", "', False),
        ("{'a': \"it's", True),
        ("look(at='it", True),
        ("look(at='it\nis", False),
        ("look(at='it', n=(1, 2)) and '", False),
        ("don't", False),
    ],
)
def test_a_string_is_known_by_its_value(text: str, inside: bool) -> None:
    for leading in (False, True):
        whole, slow = CallStrings(leading=leading), CallStrings(leading=leading)
        whole.feed(text)
        for character in text:
            slow.feed(character)
        assert whole.inside == slow.inside == inside


def test_only_a_value_at_the_beginning_counts_where_text_may_come_first() -> None:
    for text in ('<parameter=at>f("', 'Well: {"a": "', "it (isn't"):
        strings = CallStrings(leading=True)
        strings.feed(text)
        assert not strings.inside


def test_what_follows_a_marker_is_held_until_its_value_ends_or_breaks() -> None:
    for behind, left, in_string in (('","b":1}x', "x", True), ('"no', "no", False), ("on", "", None)):
        strings = CallStrings()
        strings.feed('{"a": "')
        held = HeldText(strings)
        assert held.feed(f"</end>{behind}") == (left, in_string)
        assert held.text == f"</end>{behind}".removesuffix(left)
