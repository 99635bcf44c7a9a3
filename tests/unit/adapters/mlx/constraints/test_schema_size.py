"""What begins inside a form is counted with all that it needs to be complete."""

from __future__ import annotations

from typing import Any

import pytest

from semanticd.adapters.mlx.constraints.call_spelling import json_spelling
from semanticd.adapters.mlx.constraints.schema_size import largest_opening
from semanticd.adapters.mlx.constraints.tool_grammar import tool_grammar
from semanticd.domain.chat import ToolSpec
from semanticd.domain.generation import OutputConstraint

UUID = {"type": "string", "format": "uuid"}
ITEM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": UUID,
        "level": {"enum": ["low", "highest"]},
        "extra": {"type": "string", "minLength": 500},
    },
    "required": ["id", "level"],
}
ITEM_BYTES = len('{"id": "00000000-0000-0000-0000-000000000000", "level": "highest"}')


def opening(schema: Any) -> int:
    found = largest_opening(OutputConstraint("json_schema", schema=schema))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": ITEM},
        {
            "type": "object",
            "properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/i"}}},
            "$defs": {"i": ITEM},
        },
        {"type": "object", "additionalProperties": {"anyOf": [{"type": "null"}, ITEM]}},
        {"type": "array", "items": {"type": "array", "items": ITEM, "minItems": 1}},
    ],
)
def test_an_items_required_members_count(schema: Any) -> None:
    # An optional member counts too: it can be begun when the item is open.
    assert opening(schema) >= max(ITEM_BYTES, 500)


def test_nothing_can_be_begun_where_all_is_required_and_small() -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    assert opening(schema) < 20


def test_a_schema_that_contains_itself_has_an_end() -> None:
    tree = {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}},
        "required": ["left"],
    }
    assert opening(tree) < 1000


def test_a_further_call_counts_where_there_may_be_one() -> None:
    tools = [ToolSpec("a", parameters=ITEM), ToolSpec("b", parameters=ITEM)]

    def size(parallel: bool) -> int:
        found = largest_opening(tool_grammar(tools, spelling=json_spelling("<", ">"), parallel=parallel))
        assert found is not None
        return found

    small = {**ITEM, "properties": {"id": UUID, "level": {"type": "null"}}}
    tools[:] = [ToolSpec("a", parameters=small), ToolSpec("b")]
    assert size(parallel=True) > size(parallel=False) + 40


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/nowhere"},
        {"properties": []},
        {"enum": 5},
        {"required": [5], "type": "object"},
        {"type": 5},
        True,
    ],
)
def test_what_is_not_understood_counts_as_short(schema: Any) -> None:
    assert opening({"type": "array", "items": schema}) < 20


def test_forms_without_a_schema_are_not_known() -> None:
    assert largest_opening(OutputConstraint("regex", grammar="a+")) is None
    assert largest_opening(OutputConstraint("json_object")) is None
