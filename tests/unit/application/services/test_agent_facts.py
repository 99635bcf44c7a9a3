"""What is shown of an agent."""

from __future__ import annotations

from dataclasses import replace

from semanticd.application.services.agent_facts import (
    ShownText,
    ShownThinking,
    ShownToolCall,
    ShownToolResult,
    shown_message,
)
from semanticd.domain.agent_summary import summary_of
from semanticd.domain.chat import Message
from semanticd.domain.generation import CacheReport, Timings
from tests.fakes.agents import full_agent, make_turn


def test_an_agent_is_summed_up_with_its_last_turn() -> None:
    agent = full_agent()
    cache = CacheReport(prompt_tokens=10, reused_hot_tokens=4, computed_tokens=6)
    turn = replace(make_turn(2), completion_tokens=20, cache=cache, timings=Timings(ttft_ms=5, decode_ms=100))
    nothing = replace(turn, cache=CacheReport(), timings=Timings())
    for turns, expected in (
        ((), (None, None, None)),
        ((make_turn(1), turn), (0.4, 5.0, 200.0)),
        ((nothing,), (None, 0.0, None)),
    ):
        summary = summary_of(replace(agent, turns=turns))
        assert (summary.last_reuse_ratio, summary.last_ttft_ms, summary.last_tokens_per_s) == expected
    assert summary.num_tokens == agent.transcript.num_tokens


def test_a_message_that_is_one_text_is_shown_as_text_and_any_other_by_its_parts() -> None:
    said, answered, found = full_agent().messages
    assert said.text.startswith("hi ")
    # Half a character in it cannot be sent.
    assert shown_message(said).content == "hi \N{REPLACEMENT CHARACTER}"
    assert shown_message(answered).content == (
        ShownThinking("thinking", "hm"),
        ShownText("text", "so"),
        ShownToolCall("tool_call", "call-1", "search", {"q": "x", "n": [1, 2.5, None]}),
    )
    assert shown_message(found).content == (ShownToolResult("tool_result", "call-1", "found", is_error=True),)
    assert shown_message(Message("assistant", ())).content == ()
