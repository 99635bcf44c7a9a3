"""An answer in channels reads as thinking, text and calls, however it is cut."""

from __future__ import annotations

import json
from itertools import count, pairwise

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanticd.adapters.mlx.text.harmony import MARKERS, HarmonyParser
from semanticd.domain.chat import ChatPrompt, Message, ToolChoice, ToolSpec
from semanticd.domain.generation import (
    GenerationEvent,
    TextDelta,
    ThinkingDelta,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallStarted,
)
from tests.unit.adapters.mlx.conftest import MakeTokenizer

TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}<|channel|>final<|message|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}{# tools #}"
)
ANALYSIS = "<|channel|>analysis<|message|>They want rain.<|end|><|start|>assistant"


def read(pieces: list[str], *names: str) -> tuple[str, str, list[tuple[str, str]], int]:
    ids = count()
    parser = HarmonyParser(names=names, new_id=lambda: f"c{next(ids)}")
    events: list[GenerationEvent] = [event for piece in pieces for event in parser.feed(piece)]
    events += parser.finish()
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    thinking = "".join(event.text for event in events if isinstance(event, ThinkingDelta))
    calls = [[event.name, ""] for event in events if isinstance(event, ToolCallStarted)]
    for event in events:
        if isinstance(event, ToolCallDelta):
            calls[event.index][1] += event.arguments
    return text, thinking, [(name, arguments) for name, arguments in calls], parser.num_parse_failures


@pytest.mark.parametrize(
    ("answer", "text", "thinking", "calls"),
    [
        (ANALYSIS + "<|channel|>final<|message|>It rains.", "It rains.", "They want rain.", []),
        (
            ANALYSIS + '<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"at": "sky"}',
            "",
            "They want rain.",
            [("look", '{"at": "sky"}')],
        ),
        (' to=functions.look<|channel|>commentary json<|message|>{"at": 1}', "", "", [("look", '{"at": 1}')]),
        ("<|channel|>commentary<|message|>I look now.<|end|>", "I look now.", "", []),
        ('{"a": "<|"}', '{"a": "<|"}', "", []),
        ("together", "together", "", []),
        ("", "", "", []),
    ],
)
def test_every_channel_is_read_for_what_it_is(
    answer: str, text: str, thinking: str, calls: list[tuple[str, str]]
) -> None:
    assert read([answer], "look") == (text, thinking, calls, 0)
    assert read(list(answer), "look") == (text, thinking, calls, 0)


def test_a_call_of_nobody_we_know_is_text_and_counted() -> None:
    answer = "<|channel|>commentary to=python <|constrain|>code<|message|>print(1)"
    assert read([answer], "look") == ("print(1)", "", [], 1)
    assert read([" to=functions.look<|channel|>commentary json<|message|>{}"])[2] == []


def test_a_call_that_is_cut_is_counted_and_its_arguments_are_a_beginning() -> None:
    _, _, calls, failures = read([' to=functions.look<|channel|>commentary json<|message|>{"at": "s'], "look")
    assert (calls, failures) == ([("look", '{"at": "s')], 1)


@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from(
                [*MARKERS, "analysis", "final", "commentary to=functions.look", "{", '"a"', "<|", " "]
            ),
            st.text(max_size=5),
        ),
        max_size=20,
    ),
    cuts=st.lists(st.integers(0, 80), max_size=5),
)
def test_nothing_a_model_writes_raises_and_cuts_make_no_difference(parts: list[str], cuts: list[int]) -> None:
    answer = "".join(parts)
    edges = [0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]
    assert read([answer[a:b] for a, b in pairwise(edges)], "look") == read([answer], "look")


def test_a_required_call_is_made_and_read(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(TEMPLATE, tokens=MARKERS, special=True)
    tool = ToolSpec(
        "look", "", {"type": "object", "properties": {"at": {"enum": ["sky"]}}, "required": ["at"]}
    )
    prompt = ChatPrompt((Message.of("user", "?"),), (tool,), ToolChoice("required"))
    constraint = tokenizer.tool_constraint(prompt)
    assert constraint is not None
    process = tokenizer.constraints.processor(constraint, num_context=1)
    wishes, ids = np.random.default_rng(0), [0]
    decoder, parser = tokenizer.stream_decoder(), tokenizer.output_parser(prompt)
    events: list[GenerationEvent] = []
    for _ in range(200):
        row = process(mx.array(ids), mx.array(wishes.standard_normal((1, tokenizer.vocab_size))))
        ids.append(int(mx.argmax(row).item()))
        if ids[-1] in tokenizer.eos_token_ids:
            break
        events += parser.feed(decoder.add(ids[-1]))
    events += [*parser.feed(decoder.finish()), *parser.finish()]
    assert isinstance(events[0], ToolCallStarted)
    arguments = "".join(event.arguments for event in events if isinstance(event, ToolCallDelta))
    assert json.loads(arguments) == {"at": "sky"}
    assert parser.num_parse_failures == 0


def test_half_a_call_is_text_and_no_call_but_for_its_room() -> None:
    half = ' to=functions.look<|channel|>commentary json<|message|>{"at": "Par'
    parser = HarmonyParser(names=("look",))
    events = parser.feed(half) + parser.finish()
    assert events[-1] == ToolCallBroken(0, '{"at": "Par')
    assert parser.num_tool_calls == 0
    cut = HarmonyParser(names=("look",))
    assert not any(isinstance(event, ToolCallBroken) for event in cut.feed(half) + cut.finish(cut=True))
    assert cut.num_tool_calls == 1
