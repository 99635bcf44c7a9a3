"""Every row of the table of schema words is true of the grammar engine, and what is left out is named."""

from __future__ import annotations

from typing import Any

import pytest

from semanticd.adapters.mlx.constraints.schema_words import FORMATS, WORDS, Relaxation, looks_around
from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer
from semanticd.domain.errors import UnsupportedError
from semanticd.domain.generation import OutputConstraint

STRING = {"type": "string"}
EXAMPLES: dict[str, Any] = {
    "type": STRING,
    "enum": {"enum": [1]},
    "const": {"const": 1},
    "properties": {"properties": {"a": STRING}},
    "required": {"type": "object", "properties": {"a": STRING}, "required": ["a"]},
    "additionalProperties": {"type": "object", "additionalProperties": STRING},
    "patternProperties": {"type": "object", "patternProperties": {"^a": STRING}},
    "minProperties": {"type": "object", "minProperties": 1},
    "maxProperties": {"type": "object", "maxProperties": 1},
    "items": {"type": "array", "items": STRING},
    "prefixItems": {"type": "array", "prefixItems": [STRING]},
    "additionalItems": {"type": "array", "items": [STRING], "additionalItems": False},
    "minItems": {"type": "array", "minItems": 1},
    "maxItems": {"type": "array", "maxItems": 1},
    "minLength": {**STRING, "minLength": 1},
    "maxLength": {**STRING, "maxLength": 1},
    "pattern": {**STRING, "pattern": "^a+$"},
    "format": {**STRING, "format": "date"},
    "minimum": {"type": "integer", "minimum": 1},
    "maximum": {"type": "integer", "maximum": 1},
    "exclusiveMinimum": {"type": "integer", "exclusiveMinimum": 1},
    "exclusiveMaximum": {"type": "integer", "exclusiveMaximum": 1},
    "multipleOf": {"type": "integer", "multipleOf": 3},
    "anyOf": {"anyOf": [STRING, {"type": "null"}]},
    "allOf": {"allOf": [STRING, {"minLength": 1}]},
    "oneOf": {"oneOf": [STRING, {**STRING, "minLength": 1}]},
    "$ref": {"$ref": "#/$defs/a", "$defs": {"a": STRING}},
    "$defs": {"$defs": {"a": STRING}},
    "definitions": {"$ref": "#/definitions/a", "definitions": {"a": STRING}},
    "$anchor": {"$ref": "#a", "$defs": {"x": {"$anchor": "a", **STRING}}},
    "not": {"not": {"type": "null"}},
    "if": {"if": STRING},
    "then": {"then": STRING},
    "else": {"else": STRING},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "contains": {"type": "array", "contains": STRING},
    "minContains": {"type": "array", "minContains": 1},
    "maxContains": {"type": "array", "maxContains": 1},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {"type": "object", "dependentSchemas": {"a": STRING}},
    "dependencies": {"type": "object", "dependencies": {"a": ["b"]}},
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "^a"}},
    "unevaluatedProperties": {"type": "object", "unevaluatedProperties": False},
    "unevaluatedItems": {"type": "array", "unevaluatedItems": False},
    "$dynamicRef": {"$dynamicRef": "#a"},
    "$dynamicAnchor": {**STRING, "$dynamicAnchor": "a"},
    "$schema": {**STRING, "$schema": "https://json-schema.org/draft/2020-12/schema"},
}


@pytest.mark.parametrize("word", WORDS)
def test_a_word_is_supported_as_the_table_says(tokenizer: MlxTokenizer, word: str) -> None:
    support, _ = WORDS[word]
    schema = EXAMPLES.get(word, {**STRING, word: "text"})
    if support == "annotation":
        assert word not in EXAMPLES or word == "$schema"
    strict = OutputConstraint("json_schema", schema=schema)
    if support in ("enforced", "annotation"):
        assert tokenizer.compile_constraint(strict).not_enforced == ()
        return
    with pytest.raises(UnsupportedError, match=word.removeprefix("$")):
        tokenizer.compile_constraint(strict)
    relaxed = OutputConstraint("json_schema", schema=schema, may_relax=True)
    assert tokenizer.compile_constraint(relaxed).not_enforced == (word,)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_of_the_table_is_enforced(tokenizer: MlxTokenizer, name: str) -> None:
    constraint = OutputConstraint("json_schema", schema={**STRING, "format": name})
    assert tokenizer.compile_constraint(constraint).not_enforced == ()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("byte", "format:byte"), ("uri-reference", "format:uri-reference"), ("a b\n", "format")],
)
def test_another_format_is_left_out_by_a_name_that_can_stand_in_a_header(name: str, shown: str) -> None:
    relaxation = Relaxation()
    assert relaxation.apply({**STRING, "format": name}) == STRING
    assert list(relaxation.names) == [shown]


@pytest.mark.parametrize(
    "pattern", ["(?=a)b", "(?!a)b", "(?<=a)b", "(?<!a)b", r"(a)\1", r"\bfoo", r"foo\B", "a(?=.{1,3}$)"]
)
def test_a_pattern_that_looks_around_is_known(pattern: str) -> None:
    assert looks_around(pattern)


@pytest.mark.parametrize(
    "pattern", ["(?:a)b", "(?P<n>a)", r"\(?=a", "[(?=]+", r"[\b]", r"\\d", r"a\.b", "^a$", r"\d\0"]
)
def test_other_patterns_do_not_look_around(pattern: str) -> None:
    assert not looks_around(pattern)


def test_names_and_data_are_not_taken_for_words() -> None:
    schema = {"properties": {"not": {"enum": [{"if": 1}]}, "if": {"default": {"uniqueItems": True}}}}
    relaxation = Relaxation()
    assert relaxation.apply(schema) == schema
    assert not relaxation.names


def test_values_that_ask_for_nothing_are_left_out_without_a_word() -> None:
    schema = {
        "type": "array",
        "uniqueItems": False,
        "items": {"propertyNames": {"type": "string"}},
        "minItems": 1.0,
    }
    relaxation = Relaxation()
    assert relaxation.apply(schema) == {"type": "array", "items": {}, "minItems": 1}
    assert not relaxation.names


def test_keys_of_a_pattern_that_is_left_out_may_come() -> None:
    schema = {"patternProperties": {"^(?!x)": STRING, "^a": {}}, "additionalProperties": False}
    relaxation = Relaxation()
    assert relaxation.apply(schema) == {
        "patternProperties": {"^a": {}},
        "additionalProperties": {"anyOf": [STRING]},
    }
    assert list(relaxation.names) == ["patternProperties"]
