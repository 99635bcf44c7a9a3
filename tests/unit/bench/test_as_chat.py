"""Requests of other dialects, asked as a chat."""

from __future__ import annotations

import pytest

from semanticd.bench.as_chat import as_chat
from semanticd.bench.errors import BenchError

SCHEMA = {"type": "object", "properties": {}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "42"},
]


def test_messages_become_a_chat_with_calls_results_and_tools() -> None:
    body = {
        "model": "m",
        "stream": True,
        "system": [{"type": "text", "text": "be brief"}],
        "tools": [
            {"name": "f", "description": "d", "input_schema": SCHEMA},
            {"type": "web_search_1", "name": "w"},
        ],
        "messages": [
            {"role": "user", "content": "hello"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm"},
                    {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "42"}]},
        ],
    }
    assert as_chat("anthropic", body) == {"model": "m", "stream": True, "messages": CHAT, "tools": [TOOL]}


def test_items_of_the_responses_api_become_a_chat() -> None:
    function = {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA}
    body = {
        "model": "m",
        "instructions": "be brief",
        "tools": [{"type": "namespace", "name": "n", "tools": [function]}, {"type": "web_search"}],
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
        ],
    }
    assert as_chat("responses", body) == {"model": "m", "stream": False, "messages": CHAT, "tools": [TOOL]}
    assert as_chat("responses", {"input": "hello"})["messages"] == [{"role": "user", "content": "hello"}]


def test_a_chat_stays_as_it_is_and_a_plain_prompt_cannot_become_one() -> None:
    assert as_chat("chat", {"messages": CHAT, "n": 2}) == {"messages": CHAT, "n": 2}
    with pytest.raises(BenchError):
        as_chat("completions", {"prompt": "x"})
