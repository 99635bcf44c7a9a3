"""A random model that may only say what the form allows says something of that form, whatever room it has."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jsonschema
import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tool_parsers import json_tools

from semanticd.adapters.mlx.constraints.call_spelling import json_spelling
from semanticd.adapters.mlx.constraints.thinking_gate import ThinkingGate
from semanticd.adapters.mlx.constraints.tool_grammar import tool_grammar
from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer
from semanticd.domain.chat import ToolSpec
from semanticd.domain.errors import UnsupportedError
from semanticd.domain.generation import OutputConstraint
from tests.unit.adapters.mlx.conftest import MakeTokenizer

PROMPT = [1, 2, 3]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": "string"},
        "b": {"type": "array", "items": {"$ref": "#/$defs/point"}},
        "c": {"enum": ["red", "green"]},
        "d": {"type": ["integer", "null"]},
    },
    "required": ["a", "b", "c", "d"],
    "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
}


def babble(
    tokenizer: MlxTokenizer, constraint: OutputConstraint, *, seed: int = 0, most: int = 400
) -> tuple[str, bool]:
    """Return what a model of random wishes says under the constraint, and whether it ended its turn."""
    wishes = np.random.default_rng(seed)
    process = tokenizer.constraints.processor(constraint, num_context=len(PROMPT))
    ids = list(PROMPT)
    while len(ids) < len(PROMPT) + most:
        logits = mx.array(wishes.standard_normal((1, tokenizer.vocab_size)).astype(np.float32))
        token = int(mx.argmax(process(mx.array(ids), logits)).item())
        if token in tokenizer.eos_token_ids:
            return tokenizer.decode(ids[len(PROMPT) :]), True
        ids.append(token)
    return tokenizer.decode(ids[len(PROMPT) :]), False


@pytest.mark.parametrize("room", [60, 120, 400])
@pytest.mark.parametrize("seed", range(4))
def test_a_schema_is_kept_and_ended_within_the_room(tokenizer: MlxTokenizer, seed: int, room: int) -> None:
    constraint = OutputConstraint("json_schema", schema=SCHEMA, max_tokens=room)
    text, ended = babble(tokenizer, constraint, seed=seed, most=room)
    assert ended
    jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize("seed", range(3))
def test_a_json_object_is_one(tokenizer: MlxTokenizer, seed: int) -> None:
    text, ended = babble(tokenizer, OutputConstraint("json_object", max_tokens=200), seed=seed, most=200)
    assert ended
    assert isinstance(json.loads(text), dict)


def test_a_pattern_is_matched_in_full(tokenizer: MlxTokenizer) -> None:
    text, ended = babble(tokenizer, OutputConstraint("regex", grammar="(ja|nein)[0-9]{3}"))
    assert ended
    assert re.fullmatch("(ja|nein)[0-9]{3}", text)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= ("yes" | "no") [0-9]\n',
        'start: ("yes" | "no") /[0-9]/\n',
        "start: WORD\nWORD: /(yes|no)[0-9]/",
    ],
)
def test_a_grammar_is_followed_in_either_notation(tokenizer: MlxTokenizer, grammar: str) -> None:
    text, ended = babble(tokenizer, OutputConstraint("lark", grammar=grammar))
    assert ended
    assert re.fullmatch("(yes|no)[0-9]", text)


@pytest.mark.parametrize("grammar", ['root ::= "a', "root ::= (((", "start: nowhere", "{}"])
def test_a_grammar_that_is_none_is_refused_with_the_reason(tokenizer: MlxTokenizer, grammar: str) -> None:
    with pytest.raises(UnsupportedError, match=r"cannot be enforced: ."):
        tokenizer.compile_constraint(OutputConstraint("lark", grammar=grammar))


def test_what_cannot_fit_is_cut_but_never_wrong(tokenizer: MlxTokenizer) -> None:
    text, ended = babble(tokenizer, OutputConstraint("json_schema", schema=SCHEMA, max_tokens=12), most=12)
    assert not ended
    assert '{"a": "", "b": [], "c": "'.startswith(text) or text.startswith('{"a": "", "b": []')


TOOLS = (ToolSpec("look", parameters=SCHEMA), ToolSpec("rest"))


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_calls_are_of_the_tools_and_not_more_than_the_tools(
    tokenizer: MlxTokenizer, seed: int, parallel: bool
) -> None:
    constraint = tool_grammar(TOOLS, spelling=json_spelling("<tool_call>", "</tool_call>"), parallel=parallel)
    text, ended = babble(tokenizer, replace(constraint, max_tokens=300), seed=seed, most=300)
    assert ended
    calls = [
        json_tools.parse_tool_call(body)
        for body in re.findall("<tool_call>(.*?)</tool_call>", text, re.DOTALL)
    ]
    assert 1 <= len(calls) <= (2 if parallel else 1)
    for call in calls:
        assert call["name"] in ("look", "rest")
        jsonschema.validate(call["arguments"], SCHEMA if call["name"] == "look" else {"maxProperties": 0})


def test_markers_that_are_tokens_come_as_tokens(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(tokens=("<|call|>", "<|done|>"))
    special = {text: tokenizer.encode(text)[0] for text in ("<|call|>", "<|done|>")}
    constraint = tool_grammar(
        TOOLS[1:], spelling=json_spelling("<|call|>", "<|done|>"), parallel=False, special=special
    )
    text, _ = babble(tokenizer, constraint)
    assert text == '<|call|>\n{"name": "rest", "arguments": {}}\n<|done|>'


def test_a_family_without_an_end_marker_makes_one_call(tokenizer: MlxTokenizer) -> None:
    constraint = tool_grammar(TOOLS[1:] * 3, spelling=json_spelling("[TOOL_CALLS]", ""), parallel=True)
    assert babble(tokenizer, constraint)[0] == '[TOOL_CALLS]{"name": "rest", "arguments": {}}'


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (OutputConstraint("json_schema", schema={"type": "object", "not": {}}), "not"),
        (OutputConstraint("json_schema", schema={"type": "foo"}), "foo"),
        (OutputConstraint("json_schema", schema={"type": "array", "uniqueItems": True}), "uniqueItems"),
        (OutputConstraint("regex", grammar="(["), "unclosed character class"),
        (OutputConstraint("lark", grammar="start: nowhere"), "nowhere"),
        (
            tool_grammar(
                [ToolSpec("a", parameters={"if": {}})], spelling=json_spelling("<", ">"), parallel=True
            ),
            "if",
        ),
    ],
)
def test_a_form_that_cannot_be_compiled_is_refused_with_the_reason(
    tokenizer: MlxTokenizer, constraint: OutputConstraint, reason: str
) -> None:
    with pytest.raises(UnsupportedError, match=reason) as refusal:
        tokenizer.compile_constraint(constraint)
    assert refusal.value.param == ("tools" if constraint.kind == "tool_call" else "response_format")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (
            {"type": "array", "uniqueItems": True, "contains": {}},
            "its schema asks for contains, uniqueItems; leave them out",
        ),
        ({"if": {}, "then": {}}, "asks for if, then; leave them out"),
        ({"oneOf": [{"type": "string"}, {"type": "string"}]}, "its oneOf may overlap; use anyOf"),
        ({"type": "string", "format": "byte"}, "the format 'byte' is not supported"),
        ({"$ref": "#/nope"}, "its $ref '#/nope' points to nothing; put the definition under $defs"),
        ({"$ref": "http://x/y"}, "its $ref 'http://x/y' points outside the schema"),
        ({"type": "string", "pattern": "(?=.*@).+"}, "one of its patterns is invalid: look-around"),
        ({"type": "string", "pattern": "("}, "one of its patterns is invalid: unclosed group"),
    ],
)
def test_a_refusal_speaks_of_the_schema_and_names_the_field_that_holds_it(
    tokenizer: MlxTokenizer, schema: dict[str, Any], words: str
) -> None:
    for _second in range(2):
        with pytest.raises(UnsupportedError) as refusal:
            tokenizer.compile_constraint(
                OutputConstraint("json_schema", schema=schema, param="format.schema")
            )
        assert words in refusal.value.message
        assert refusal.value.param == "format.schema"
        assert "^" not in refusal.value.message


def test_a_pattern_that_cannot_be_read_is_refused_with_the_reason_alone(tokenizer: MlxTokenizer) -> None:
    with pytest.raises(UnsupportedError) as refusal:
        tokenizer.compile_constraint(OutputConstraint("regex", grammar="(", param="guided_regex"))
    assert refusal.value.message.endswith("one of its patterns is invalid: unclosed group")
    assert refusal.value.param == "guided_regex"


ENDLESS = {
    "type": "object",
    "properties": {"a": {"$ref": "#"}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "schema",
    [
        ENDLESS,
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}]},
        {"allOf": [{"$ref": "#"}]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    ],
)
def test_a_schema_that_no_value_fits_is_refused(tokenizer: MlxTokenizer, schema: dict[str, Any]) -> None:
    for may_relax in (False, True):
        with pytest.raises(UnsupportedError, match="no finite value"):
            tokenizer.compile_constraint(OutputConstraint("json_schema", schema=schema, may_relax=may_relax))


@pytest.mark.parametrize(
    "schema",
    [
        {**ENDLESS, "required": []},
        {
            "type": "object",
            "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
            "required": ["a"],
        },
        {"const": None},
        {"enum": [17]},
        {"type": "array", "maxItems": 0},
    ],
)
def test_a_schema_that_refers_to_itself_or_leaves_one_value_is_taken(
    tokenizer: MlxTokenizer, schema: dict[str, Any]
) -> None:
    constraint = OutputConstraint("json_schema", schema=schema, max_tokens=60)
    text, ended = babble(tokenizer, constraint, most=60)
    assert ended
    jsonschema.validate(json.loads(text), schema)


EMAIL = r"^(?=.{3,9}$)[a-z]+@[a-z]+$"
ODD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "mail": {"type": "string", "pattern": EMAIL, "maxLength": 5},
        "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "uniqueItems": True, "maxItems": 2},
        "blob": {"type": "string", "format": "byte"},
        "num": {"type": "integer", "format": "int64", "not": {"const": 3}},
        "either": {"oneOf": [{"type": "integer"}, {"type": "integer", "minimum": 2}]},
    },
    "required": ["mail", "tags", "blob", "num", "either"],
    "if": {"properties": {"num": {"const": 1}}},
    "then": {"required": ["blob"]},
}
LEFT_OUT = ["pattern", "uniqueItems", "format:byte", "not", "if", "then", "oneOf"]


@pytest.mark.parametrize("seed", range(3))
def test_a_schema_is_enforced_but_for_the_words_that_cannot_be_and_these_are_named(
    tokenizer: MlxTokenizer, seed: int
) -> None:
    wanted = OutputConstraint("json_schema", schema=ODD, max_tokens=300)
    with pytest.raises(UnsupportedError):
        tokenizer.compile_constraint(wanted)
    constraint = tokenizer.compile_constraint(replace(wanted, may_relax=True))
    assert sorted(constraint.not_enforced) == sorted(LEFT_OUT)
    text, ended = babble(tokenizer, constraint, seed=seed, most=300)
    assert ended
    said = json.loads(text)
    assert list(said) == ODD["required"]
    assert len(said["mail"]) <= 5
    assert len(said["tags"]) <= 2
    assert {"x", "y"}.issuperset(said["tags"])
    assert isinstance(said["num"], int)
    assert isinstance(said["either"], int)


def test_a_strict_tools_schema_is_enforced_but_for_the_words_that_cannot_be(tokenizer: MlxTokenizer) -> None:
    wanted = tool_grammar([ToolSpec("a", parameters=ODD)], spelling=json_spelling("<", ">"), parallel=False)
    constraint = tokenizer.compile_constraint(replace(wanted, may_relax=True, max_tokens=300))
    assert sorted(constraint.not_enforced) == sorted(LEFT_OUT)
    again = tokenizer.compile_constraint(replace(wanted, may_relax=True, max_tokens=200))
    assert again.not_enforced == constraint.not_enforced
    text, ended = babble(tokenizer, constraint, most=300)
    assert ended
    call = json.loads(text.removeprefix("<").removesuffix(">"))
    assert list(call["arguments"]) == ODD["required"]


def test_a_form_that_can_be_enforced_whole_is_not_relaxed(tokenizer: MlxTokenizer) -> None:
    constraint = OutputConstraint("json_schema", schema=SCHEMA, may_relax=True)
    assert tokenizer.compile_constraint(constraint).not_enforced == ()
    for schema in ({"type": "foo"}, {"type": "string", "minLength": 2, "maxLength": 1}):
        with pytest.raises(UnsupportedError):
            tokenizer.compile_constraint(OutputConstraint("json_schema", schema=schema, may_relax=True))


def test_a_sequence_that_was_preempted_goes_on_where_it_was(tokenizer: MlxTokenizer) -> None:
    constraint = OutputConstraint("json_schema", schema=SCHEMA)
    said = tokenizer.encode('{"a": "x", "b": [')
    process = tokenizer.constraints.processor(constraint, num_context=len(PROMPT))
    row = process(mx.array([*PROMPT, *said]), mx.zeros((1, tokenizer.vocab_size)))
    allowed = {tokenizer.decode([t]) for t in np.flatnonzero(np.isfinite(np.array(row)[0]))}
    assert {"]", "{"} <= allowed
    assert not allowed & {"a", "}", ","}


START, END = 100, 101


def follow(gate: ThinkingGate, wishes: list[int]) -> list[int]:
    said = []
    for wish in wishes:
        token = wish if gate.forced is None else gate.forced
        gate.take(token)
        said.append(token)
    return said


def test_thinking_is_ended_when_its_budget_is_used() -> None:
    gate = ThinkingGate(start=[START], end=[END], begun=True, budget=3)
    assert follow(gate, [1, 2, 3, 4, 5]) == [1, 2, 3, END, 5]
    assert gate.closed


def test_a_marker_of_several_tokens_is_written_out() -> None:
    gate = ThinkingGate(start=[START, 7], end=[END, 8, 9], begun=False, budget=2)
    assert follow(gate, [5, START, 7, 1, 2, 3, 3, 3, 4]) == [5, START, 7, 1, 2, END, 8, 9, 4]


def test_thinking_that_ends_by_itself_is_left_alone() -> None:
    gate = ThinkingGate(start=[START], end=[END], begun=True, budget=10)
    assert follow(gate, [1, END, *range(20)]) == [1, END, *range(20)]


def test_a_model_that_does_not_think_is_never_interrupted() -> None:
    gate = ThinkingGate(start=[START], end=[END], begun=False, budget=0)
    assert follow(gate, list(range(20))) == list(range(20))


def test_the_form_begins_after_the_thinking(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(tokens=("<think>", "</think>"))
    constraint = OutputConstraint("json_object", max_tokens=60, thinking_budget=20, begins_thinking=True)
    text, ended = babble(tokenizer, constraint, most=60)
    thinking, _, answer = text.partition("</think>")
    assert ended
    assert thinking
    assert isinstance(json.loads(answer), dict)


def test_a_form_of_very_many_keys_is_not_given_up_half_way(tokenizer: MlxTokenizer) -> None:
    many = {f"key{n}": {"type": "string", "maxLength": 3} for n in range(1500)}
    schema = {"type": "object", "properties": many, "additionalProperties": False}
    with pytest.raises(UnsupportedError, match="minProperties"):
        tokenizer.compile_constraint(OutputConstraint("json_schema", schema={**schema, "minProperties": 1}))
    constraint = replace(OutputConstraint("json_schema", schema=schema), max_tokens=40)
    process = tokenizer.constraints.processor(constraint, num_context=1)
    row = process(mx.array([0, *tokenizer.encode('{"')]), mx.zeros((1, tokenizer.vocab_size)))
    assert row[0, tokenizer.encode("k")[0]].item() == 0.0
    assert row[0, min(tokenizer.eos_token_ids)].item() == -float("inf")


def test_many_threads_compile_at_once(tokenizer: MlxTokenizer) -> None:
    forms = [
        OutputConstraint("json_schema", schema={"type": "string", "maxLength": number % 8 + 1})
        for number in range(32)
    ]
    with ThreadPoolExecutor(8) as pool:
        compiled = list(pool.map(tokenizer.compile_constraint, forms))
    assert compiled == forms
    assert len({id(form.compiled) for form in compiled}) == 8


@pytest.mark.parametrize(
    "number",
    [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "number", "exclusiveMinimum": 0.95, "maximum": 1},
        {"type": "integer", "multipleOf": 37},
        {"type": "integer", "minimum": -9000000, "maximum": -1234567},
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_number_of_narrow_choice_is_ended_within_the_room(
    tokenizer: MlxTokenizer, seed: int, number: dict[str, Any]
) -> None:
    schema = {"type": "object", "properties": {"n": number, "rest": {"type": "string"}}, "required": ["n"]}
    constraint = OutputConstraint("json_schema", schema=schema, max_tokens=60)
    text, ended = babble(tokenizer, constraint, seed=seed, most=60)
    assert ended
    jsonschema.validate(json.loads(text), schema)


def test_names_that_are_said_to_be_strings_are_no_reason_to_refuse(tokenizer: MlxTokenizer) -> None:
    schema = {
        "type": "object",
        "properties": {"map": {"type": "object", "propertyNames": {"type": "string"}, "maxProperties": 2}},
        "required": ["map"],
    }
    tool = tool_grammar([ToolSpec("a", parameters=schema)], spelling=json_spelling("<", ">"), parallel=False)
    for constraint in (tool, OutputConstraint("json_schema", schema=schema)):
        tokenizer.compile_constraint(constraint)
    named = {"type": "object", "propertyNames": {"pattern": "^a"}}
    with pytest.raises(UnsupportedError, match="propertyNames"):
        tokenizer.compile_constraint(OutputConstraint("json_schema", schema=named))
    own = {"properties": {"propertyNames": {"type": "string", "maxLength": 2}}, "additionalProperties": False}
    own = {**own, "type": "object", "required": ["propertyNames"]}
    assert '"propertyNames": "' in babble(tokenizer, OutputConstraint("json_schema", schema=own))[0]
    data = {"const": {"propertyNames": {}}}
    assert babble(tokenizer, OutputConstraint("json_schema", schema=data))[0] == '{"propertyNames": {}}'


def test_members_that_need_not_be_are_left_out_when_the_room_is_small(tokenizer: MlxTokenizer) -> None:
    long = {"type": "string", "minLength": 40}
    schema = {
        "type": "object",
        "properties": {
            "many": {"type": "object", "properties": {"a": long}, "required": ["a"]},
            "b": long,
            "c": long,
        },
        "required": ["c"],
    }
    text, ended = babble(tokenizer, OutputConstraint("json_schema", schema=schema, max_tokens=60), most=60)
    assert ended
    assert list(json.loads(text)) == ["c"]


@pytest.mark.parametrize("seed", range(6))
def test_an_item_is_not_begun_where_it_could_not_be_ended(tokenizer: MlxTokenizer, seed: int) -> None:
    members = {name: {"type": "string", "format": "uuid"} for name in ("first", "second", "third")}
    item = {"type": "object", "properties": members, "required": list(members)}
    constraint = OutputConstraint("json_schema", schema={"type": "array", "items": item}, max_tokens=400)
    text, ended = babble(tokenizer, constraint, seed=seed)
    assert ended
    jsonschema.validate(json.loads(text), {"type": "array", "items": item})
