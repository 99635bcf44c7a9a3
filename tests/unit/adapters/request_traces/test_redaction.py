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


SCHEMA = {
    "type": ["object", "null"],
    "properties": {"door": {"type": "string", "description": SECRET}},
    "required": ["door"],
    "dependentSchemas": {"door": {"required": ["door"]}},
    "dependencies": {"door": ["door"]},
}


def _hidden_schema(body: Any, *path: str) -> Any:
    made = hidden(body)
    for name in path:
        made = made[name]
    return json.loads(made) if isinstance(made, str) else made


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    "path",
    [
        ("guided_json",),
        ("structured_outputs", "json"),
        ("json_schema",),
        ("response_format", "schema"),
        ("format",),
    ],
)
def test_a_schema_is_hidden_alike_wherever_it_stands(path: tuple[str, ...], as_text: bool) -> None:
    body: Any = json.dumps(SCHEMA) if as_text and path != ("format",) else SCHEMA
    for name in reversed(path):
        body = {name: body}
    made = _hidden_schema(body, *path)
    assert "door" not in json.dumps(made)
    assert "launch" not in json.dumps(made)
    assert made == hidden({"parameters": SCHEMA})["parameters"]
    assert made["type"] == ["object", "null"]
    assert set(made["properties"]) == set(made["required"])


@pytest.mark.parametrize(
    "path",
    [("response_format", "json_schema"), ("text", "format"), ("format",), ("output_config", "format")],
)
def test_what_stands_around_a_schema_keeps_its_form(path: tuple[str, ...]) -> None:
    body: Any = {"type": "json_schema", "name": "door", "strict": True, "schema": SCHEMA}
    for name in reversed(path):
        body = {name: body}
    made = _hidden_schema(body, *path)
    assert "door" not in json.dumps(made)
    assert (made["type"], made["strict"]) == ("json_schema", True)
    assert made["schema"] == hidden({"parameters": SCHEMA})["parameters"]


def test_biases_stay_of_tokens_and_a_grammar_allows_any_text() -> None:
    made = hidden({"logit_bias": {"1234": -100, "door": 5}, "guided_grammar": 'start: "door"'})
    assert made["logit_bias"]["1234"] == -100
    assert "door" not in json.dumps(made)
    assert made["guided_grammar"].startswith("start: ")


def test_a_prompt_of_token_ids_is_hidden_as_a_text_is() -> None:
    first, longer = list(range(1000, 1040)), [*range(1000, 1032), 2000, 2001, 2002]
    made = hidden({"prompt": [first, longer]})["prompt"]
    assert [len(one) for one in made] == [40, 35]
    assert not {*first, *longer} & {*made[0], *made[1]}
    assert made[0][:32] == made[1][:32]
    assert made[0][32:35] != made[1][32:]
    assert hidden({"prompt": first})["prompt"] == made[0]


@pytest.mark.parametrize("raw", [b"no json", b"[1, 2]", b'"text"', b"\xff\xfe", b'{"arguments": "{broken"}'])
def test_what_is_no_request_is_hidden_as_well(raw: bytes) -> None:
    made = json.dumps(Redaction(KEY).body(raw))
    assert "json" not in made
    assert "broken" not in made


@pytest.mark.parametrize("depth", [65, 500, 950, 5_000])
def test_what_is_nested_too_deeply_is_hidden_as_text(depth: int) -> None:
    nested = '{"a":' + "[" * depth + '"s"' + "]" * depth + "}"
    hidden = Redaction(KEY)
    assert hidden.body(nested.encode()) == hidden.text(nested)
    assert hidden.body(json.dumps({"arguments": nested}).encode()) == {"arguments": hidden.text(nested)}
