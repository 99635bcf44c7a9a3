"""What is left of a request when its content is taken out."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from semanticd.adapters.request_traces.redaction import GROUP, Redaction

KEY = b"k" * 32
SECRET = "the launch code is 0000 and nobody may read it"
TOOL = {
    "name": "open_door",
    "description": SECRET,
    "input_schema": {
        "type": "object",
        "properties": {"door": {"type": "string", "enum": ["front", "back"], "pattern": "^(front|back)$"}},
        "required": ["door"],
        "$defs": {"key": {"type": "string", "title": SECRET}},
    },
}
BODY = {
    "model": "default",
    "max_tokens": 10,
    "system": [{"type": "text", "text": SECRET, "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "metadata": {"user_id": "somebody@example.org"},
    "tools": [TOOL],
    "messages": [
        {"role": "user", "content": SECRET},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "open_door", "input": {"door": "front"}}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": SECRET + " more"}],
        },
    ],
}


def hidden(body: Any, key: bytes = KEY) -> Any:
    return Redaction(key).body(json.dumps(body).encode())


def test_no_text_of_the_user_is_left_and_the_dialects_words_are() -> None:
    made = hidden(BODY)
    text = json.dumps(made)
    for word in ("launch", "0000", "somebody", "example", "door", "front", "t1"):
        assert word not in text
    assert made["model"] == "default"
    assert made["messages"][1]["role"] == "assistant"
    assert made["messages"][2]["content"][0]["type"] == "tool_result"
    assert made["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}


def test_lengths_equality_and_common_beginnings_are_kept() -> None:
    made = hidden(BODY)
    first, last = made["messages"][0]["content"], made["messages"][2]["content"][0]["content"]
    assert len(first) == len(SECRET)
    assert first == made["system"][0]["text"], "equal texts are equal wherever they stand"
    whole = len(SECRET) // GROUP * GROUP
    assert last[:whole] == first[:whole]
    assert len(last) == len(SECRET) + 5


def test_a_word_that_comes_twice_in_a_text_is_hidden_twice() -> None:
    word = "a" * GROUP
    made = Redaction(KEY).text(word * 3)
    parts = {made[at : at + GROUP] for at in range(0, len(made), GROUP)}
    assert len(parts) == 3


def test_another_key_gives_other_letters() -> None:
    assert hidden(BODY) != hidden(BODY, b"q" * 32)


def test_calls_still_belong_to_their_results_and_to_a_valid_schema() -> None:
    made = hidden(BODY)
    (tool,) = made["tools"]
    call = made["messages"][1]["content"][0]
    assert call["id"] == made["messages"][2]["content"][0]["tool_use_id"]
    assert call["name"] == tool["name"]
    jsonschema.Draft202012Validator.check_schema(tool["input_schema"])
    assert (
        set(call["input"]) == set(tool["input_schema"]["properties"]) == set(tool["input_schema"]["required"])
    )
    jsonschema.validate(call["input"], tool["input_schema"])


def test_arguments_stay_json_and_turns_of_the_responses_api_stay_turns() -> None:
    made = hidden(
        {
            "input": [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": SECRET}]},
                {
                    "type": "function_call",
                    "name": "f",
                    "call_id": "c",
                    "arguments": '{"where": "here", "n": 12}',
                },
            ],
            "tools": [
                {
                    "type": "custom",
                    "name": "p",
                    "format": {"type": "grammar", "syntax": "lark", "definition": "x"},
                }
            ],
        }
    )
    assert made["input"][0]["role"] == "user"
    arguments = json.loads(made["input"][1]["arguments"])
    assert sorted(map(len, arguments)) == [1, 5]
    assert "here" not in arguments.values()
    assert made["tools"][0]["format"]["syntax"] == "lark"


@pytest.mark.parametrize("raw", [b"no json", b"[1, 2]", b'"text"', b"\xff\xfe", b'{"arguments": "{broken"}'])
def test_what_is_no_request_is_hidden_as_well(raw: bytes) -> None:
    made = json.dumps(Redaction(KEY).body(raw))
    assert "json" not in made
    assert "broken" not in made
