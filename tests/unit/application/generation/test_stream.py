from __future__ import annotations

from semanticd.application.generation.stream import AnswerBuilder
from semanticd.domain.generation import (
    Finished,
    FinishReason,
    TextDelta,
    ThinkingDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)


def test_events_of_each_choice_add_up_apart() -> None:
    builder = AnswerBuilder(2)
    score = TokenLogprob(1, "a", -0.5)
    for event in (
        TextDelta("a", (score,)),
        TextDelta("x", choice=1),
        ThinkingDelta("hm", choice=1),
        TextDelta("b"),
        Finished(FinishReason.STOP_SEQUENCE, Usage(10, 3), "END"),
        Finished(FinishReason.LENGTH, Usage(10, 4, reasoning_tokens=2), choice=1),
    ):
        builder.add(event)
    first, second = builder.choices()
    assert (first.text, first.logprobs, first.stop_sequence) == ("ab", (score,), "END")
    assert (second.text, second.thinking, second.reason) == ("x", "hm", FinishReason.LENGTH)
    usage = builder.usage()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens) == (10, 7, 2)


def test_calls_are_put_together_from_their_pieces() -> None:
    builder = AnswerBuilder(1)
    builder.add(ToolCallStarted(0, "c0", "look"))
    builder.add(ToolCallDelta(0, '{"at": '))
    builder.add(ToolCallStarted(1, "c1", "wait"))
    builder.add(ToolCallDelta(0, "[1, 2]}"))
    look, wait = builder.choices()[0].tool_calls
    assert (look.call_id, look.name, look.arguments) == ("c0", "look", {"at": [1, 2]})
    assert wait.arguments == {}


def test_arguments_that_are_no_json_object_are_empty() -> None:
    for text in ("{broken", "[1, 2]", "3"):
        builder = AnswerBuilder(1)
        builder.add(ToolCallStarted(0, "c", "look"))
        builder.add(ToolCallDelta(0, text))
        assert builder.choices()[0].tool_calls[0].arguments == {}


def test_arguments_that_are_nested_too_deeply_are_kept_as_they_are() -> None:
    for depth in (65, 500, 5_000):
        text = '{"a": ' + "[" * depth + "]" * depth + "}"
        builder = AnswerBuilder(1)
        builder.add(ToolCallStarted(0, "c", "look"))
        builder.add(ToolCallDelta(0, text))
        call = builder.choices()[0].tool_calls[0]
        assert (call.arguments, call.cut) == ({}, text)


def test_arguments_that_were_cut_are_kept_as_they_are() -> None:
    builder = AnswerBuilder(1)
    builder.add(ToolCallStarted(0, "c", "look"))
    builder.add(ToolCallDelta(0, '{"at": "the s'))
    assert builder.choices()[0].tool_calls[0].cut == '{"at": "the s'


def test_an_answer_that_never_ended_counts_as_cancelled() -> None:
    builder = AnswerBuilder(1)
    builder.add(TextDelta("half"))
    assert builder.choices()[0].reason is FinishReason.CANCELLED
    assert builder.usage() == Usage()
