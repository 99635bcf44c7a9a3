"""Calls that are written as elements stream, say what the family's own parser says, and are valid JSON throughout."""

from __future__ import annotations

import json
from typing import Any

import pytest

from semanticd.adapters.mlx.text.output_parser import Markup, MlxOutputParser
from semanticd.adapters.mlx.text.tool_families import family_of
from semanticd.domain.generation import GenerationEvent, TextDelta, ToolCallDelta, ToolCallStarted

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "write",
            "parameters": {
                "type": "object",
                "properties": {
                    "path": {"type": "string"},
                    "text": {"type": "string"},
                    "mode": {"type": "integer"},
                    "lines": {"type": "array"},
                },
            },
        },
    }
]
PROGRAM = 'def f(a):\n    return "<p>" + a < 3 and "\\n"\n\n'
CALLS = {
    "qwen3_coder": (
        "<tool_call>\n<function=write>\n<parameter=path>\n/a b.py\n</parameter>\n<parameter=text>\n"
        f"{PROGRAM}\n</parameter>\n<parameter=mode>\n7\n</parameter>\n<parameter=lines>\n[1, 2]\n</parameter>\n"
        "</function>\n</tool_call>"
    ),
    "glm47": (
        "<tool_call>write\n<arg_key>path</arg_key>\n<arg_value>/a b.py</arg_value>\n<arg_key>text</arg_key>\n"
        f"<arg_value>{PROGRAM}</arg_value>\n<arg_key>mode</arg_key>\n<arg_value>7</arg_value>\n"
        "<arg_key>lines</arg_key>\n<arg_value>[1, 2]</arg_value>\n</tool_call>"
    ),
    "minimax_m2": (
        '<minimax:tool_call>\n<invoke name="write">\n<parameter name="path">/a b.py</parameter>\n'
        f'<parameter name="text">{PROGRAM}</parameter>\n<parameter name="mode">7</parameter>\n'
        '<parameter name="lines">[1, 2]</parameter>\n</invoke>\n</minimax:tool_call>'
    ),
    "deepseek_v32": (
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="write">\n'
        '<｜DSML｜parameter name="path" string="true">/a b.py</｜DSML｜parameter>\n'
        f'<｜DSML｜parameter name="text" string="true">{PROGRAM}</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="mode" string="false">7</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="lines" string="false">[1, 2]</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜function_calls>"
    ),
}
PARSED = {"path": "/a b.py", "text": PROGRAM, "mode": 7, "lines": [1, 2]}


def parser(family: str) -> MlxOutputParser:
    forms = family_of(hint=family, inferred=None, template="", vocabulary=()).forms
    return MlxOutputParser(Markup(None, None, forms), tools=TOOLS)


def fed(family: str, text: str, size: int, *, cut: bool = False) -> list[GenerationEvent]:
    reading = parser(family)
    events = [event for at in range(0, len(text), size) for event in reading.feed(text[at : at + size])]
    return events + reading.finish(cut=cut)


def arguments(events: list[GenerationEvent], index: int = 0) -> str:
    return "".join(e.arguments for e in events if isinstance(e, ToolCallDelta) and e.index == index)


def names(events: list[GenerationEvent]) -> list[str]:
    return [event.name for event in events if isinstance(event, ToolCallStarted)]


@pytest.mark.parametrize("family", CALLS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_a_call_says_what_the_familys_parser_says_wherever_its_tokens_end(family: str, size: int) -> None:
    form = family_of(hint=family, inferred=None, template="", vocabulary=()).forms[0]
    events = fed(family, CALLS[family], size)
    inner = CALLS[family].removeprefix(form.start).removesuffix(form.end or "").strip()
    assert form.parse is not None
    whole = form.parse(inner, TOOLS)
    expected = (whole[0] if isinstance(whole, list) else whole)["arguments"]
    assert names(events) == ["write"]
    assert json.loads(arguments(events)) == expected
    assert {**expected, "text": expected["text"].strip()} == {**PARSED, "text": PROGRAM.strip()}
    assert not any(isinstance(event, TextDelta) and event.text.strip() for event in events)


@pytest.mark.parametrize("family", CALLS)
def test_long_text_is_handed_on_while_it_is_written(family: str) -> None:
    reading = parser(family)
    before, _, _ = CALLS[family].partition(PROGRAM)
    events = reading.feed(before)
    assert names(events) == ["write"], "the name is known as soon as it is written"
    for line in range(100):
        told = arguments(reading.feed(f"line {line}\n"))
        assert f"line {line}" in told
    assert arguments(events).startswith('{"path": "/a b.py"')


@pytest.mark.parametrize("family", CALLS)
def test_a_call_that_is_cut_stays_cut_and_invents_nothing(family: str) -> None:
    text = CALLS[family]
    for end in range(text.index("return"), len(text), 5):
        events = fed(family, text[:end], 4, cut=True)
        raw = arguments(events)
        assert names(events) == ["write"]
        whole: dict[str, Any] = {}
        try:
            whole = json.loads(raw)
        except ValueError:
            continue
        assert whole == json.loads(arguments(fed(family, text, 4)))


def test_a_call_whose_last_markers_are_forgotten_is_closed() -> None:
    text = "<tool_call>\n<function=write>\n<parameter=path>\n/a\n</parameter>\n<parameter=text>\nhello\n</tool_call>"
    for size in (1, 100):
        assert json.loads(arguments(fed("qwen3_coder", text, size))) == {"path": "/a", "text": "hello"}


@pytest.mark.parametrize(
    ("written", "value"),
    [("null", None), ("Null", None), ("nullable", "nullable"), ("", ""), ("\n\n", "\n\n")],
)
def test_a_word_for_nothing_is_nothing_where_the_family_says_so(written: str, value: str | None) -> None:
    text = (
        f"<tool_call>\n<function=write>\n<parameter=text>\n{written}\n</parameter>\n</function>\n</tool_call>"
    )
    for size in (1, 100):
        assert json.loads(arguments(fed("qwen3_coder", text, size))) == {"text": value}


def test_values_that_do_not_fit_their_type_are_kept_as_the_model_wrote_them() -> None:
    text = "<tool_call>\n<function=write>\n<parameter=mode>\nseven\n</parameter>\n</function>\n</tool_call>"
    assert json.loads(arguments(fed("qwen3_coder", text, 3))) == {"mode": "seven"}


def test_json_in_a_block_of_elements_is_read_as_json() -> None:
    text = '<tool_call>\n{"name": "write", "arguments": {"path": "/a"}}\n</tool_call>'
    for size in (1, 100):
        events = fed("qwen3_coder", text, size)
        assert (names(events), json.loads(arguments(events))) == (["write"], {"path": "/a"})


def test_several_calls_of_a_block_are_told_apart() -> None:
    calls = "".join(
        f'<invoke name="write"><parameter name="path">/{n}</parameter></invoke>\n' for n in range(3)
    )
    events = fed("minimax_m2", f"<minimax:tool_call>\n{calls}</minimax:tool_call>", 3)
    assert [json.loads(arguments(events, index))["path"] for index in range(3)] == ["/0", "/1", "/2"]
