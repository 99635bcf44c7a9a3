"""A string that must match a pattern is ended by the end of a text that matches it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import jsonschema
import mlx.core as mx
import numpy as np
import pytest

from semanticd.adapters.mlx.constraints.pattern_sample import sample, samples
from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer
from semanticd.domain.generation import OutputConstraint


@pytest.mark.parametrize(
    "pattern",
    [
        "^a+b$",
        "foo",
        r"^\S+@\S+\.\w{2,}$",
        r"^\d{4}-\d{2}$",
        "[^a-z]x",
        "^(ab|c)*?d{3}$",
        r"^[\w.-]+/[\w.-]+$",
        "^$",
        ".",
    ],
)
def test_a_sample_matches(pattern: str) -> None:
    text = sample(pattern)
    assert text is not None
    assert re.search(pattern, text)


@pytest.mark.parametrize(
    "pattern",
    [
        "^(?=a)b",
        r"\p{L}",
        "a{9999}",
        "(((a{200}){200}){200}){200}",
        "(",
        r"[^\s\S]",
        "(" * 600 + ")" * 600,
        "a" * 5000,
    ],
)
def test_what_is_not_understood_has_no_sample(pattern: str) -> None:
    assert sample(pattern) is None


def test_a_pattern_that_takes_for_ever_to_match_is_not_tried() -> None:
    assert sample("(a?){100}a{100}") == "a" * 100


def test_samples_come_from_everywhere_in_a_form_and_are_written_as_in_json() -> None:
    schema = {"$defs": {"x": {"items": [{"pattern": 'a"b'}]}}, "properties": {"pattern": {"format": "date"}}}
    assert set(samples(OutputConstraint("json_schema", schema=schema))) == {'a\\"b', "2000-01-01"}
    assert samples(OutputConstraint("json_object")) == ()


@pytest.mark.parametrize(
    "string",
    [
        {"pattern": "foo"},
        {"pattern": r"^\S+@\S+\.\w{2,}$"},
        {"pattern": "^a+b$"},
        {"format": "email"},
        {"pattern": 'x"$'},
    ],
)
def test_an_answer_that_runs_on_in_a_patterned_string_is_brought_to_its_end(
    tokenizer: MlxTokenizer, string: dict[str, Any]
) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", **string}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    constraint = replace(OutputConstraint("json_schema", schema=schema), max_tokens=80)
    process = tokenizer.constraints.processor(constraint, num_context=1)
    wishes, ids, ended = np.random.default_rng(0), [0], False
    quote = tokenizer.encode('"')[0]
    while len(ids) <= 80 and not ended:
        logits = wishes.standard_normal((1, tokenizer.vocab_size)).astype(np.float32)
        # A model that would never end its string.
        logits[0, quote] = -50.0
        ids.append(int(mx.argmax(process(mx.array(ids), mx.array(logits))).item()))
        ended = ids[-1] in tokenizer.eos_token_ids
    assert ended
    answer = json.loads(tokenizer.decode(ids[1:-1]))
    jsonschema.validate(answer, schema)
