"""A custom tool's input is given as it comes, and adds up to what the whole object says."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanticd.adapters.http.core.adjustments import Adjustments
from semanticd.adapters.http.openai.responses.render import begin, custom_input
from semanticd.adapters.http.openai.responses.stream import ResponseStream
from semanticd.adapters.http.openai.responses.tools import CustomInput, read_tools
from semanticd.adapters.http.openai.responses.wire import ResponsesRequest, Tool
from semanticd.domain.generation import Finished, FinishReason, ToolCallDelta, ToolCallStarted
from tests.fakes.generator import USAGE


@given(st.text(), st.booleans(), st.integers(1, 9))
def test_pieces_add_up_to_the_text_however_it_is_written(text: str, escapes: bool, size: int) -> None:
    written = json.dumps({"input": text}, ensure_ascii=escapes)
    reader = CustomInput()
    told = "".join(reader.feed(written[at : at + size]) for at in range(0, len(written), size))
    assert told == reader.told == custom_input(written)


@pytest.mark.parametrize(
    "written", ["{}", "", "[1]", '{"other": "x"}', '"plain"', '{"input": 5}', "{'input': 'x'}"]
)
def test_another_form_is_given_at_the_end_only(written: str) -> None:
    reader = CustomInput()
    assert [reader.feed(character) for character in written] == [""] * len(written)


def events(arguments: str, *, reason: FinishReason = FinishReason.TOOL_CALLS) -> list[dict[str, Any]]:
    asked = ResponsesRequest(model="tiny", input="hi")
    stream = ResponseStream(
        begin(asked, response_id="resp_1", created=0, model="tiny", priority="interactive"),
        tools=read_tools([Tool(type="custom", name="patch")], Adjustments()),
        wall=lambda: 0.0,
        on_complete=lambda response: None,
    )
    told = stream.render(ToolCallStarted(0, "call_1", "patch"))
    for character in arguments:
        told += stream.render(ToolCallDelta(0, character))
    told += stream.render(Finished(reason, USAGE))
    return [msgspec.json.decode(line[6:]) for line in told.splitlines() if line.startswith(b"data: ")]


@pytest.mark.parametrize(
    "arguments", ['{"input": "a\\nb \\ud83d\\ude00 \\ud83d c"}', "{}", '{"input": 5}', '{"other": 1}']
)
def test_deltas_and_the_item_say_the_same(arguments: str) -> None:
    seen = events(arguments)
    deltas = [event["delta"] for event in seen if event["type"] == "response.custom_tool_call_input.delta"]
    [done] = [event["input"] for event in seen if event["type"] == "response.custom_tool_call_input.done"]
    assert "".join(deltas) == done == seen[-1]["response"]["output"][0]["input"]


def test_a_long_input_is_given_while_it_is_written() -> None:
    seen = [event["type"] for event in events(json.dumps({"input": "x" * 50}))]
    assert seen.count("response.custom_tool_call_input.delta") == 50


def test_a_cut_input_is_given_as_far_as_it_came() -> None:
    seen = events('{"input": "abc', reason=FinishReason.LENGTH)
    deltas = [event["delta"] for event in seen if event["type"] == "response.custom_tool_call_input.delta"]
    assert "".join(deltas) == "abc" == seen[-1]["response"]["output"][0]["input"]
