"""JSON schemas as tools have them, made from a seed: nested objects, arrays, enums, bounds, references, patterns."""

from __future__ import annotations

import random
from typing import Any

_NAMES = (
    "path",
    "command",
    "limit",
    "options",
    "user-id",
    "größe",
    "with space",
    "a",
    "items",
    "$ref_like",
    'q"uote',
)
_WORDS = ("red", "green", "a b", "ü", "", "null", 'say "hi"')


def random_schema(source: random.Random) -> dict[str, Any]:
    """Return a schema of type object; references, if any, point into its own `$defs`."""
    schema = _object(source, depth=3)
    if source.random() < 0.3:
        schema["$defs"] = {"part": _object(source, depth=1), "level": {"enum": ["low", "high"]}}
        schema["properties"]["part"] = {"$ref": "#/$defs/part"}
        schema["properties"]["levels"] = {"type": "array", "items": {"$ref": "#/$defs/level"}, "maxItems": 3}
        schema["required"] = [*schema.get("required", []), "part"]
    return schema


def _object(source: random.Random, *, depth: int) -> dict[str, Any]:
    names = source.sample(_NAMES, source.randint(0, 4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _value(source, depth=depth - 1) for name in names},
    }
    if source.random() < 0.8:
        schema["required"] = [name for name in names if source.random() < 0.6]
    if source.random() < 0.5:
        schema["additionalProperties"] = False
    elif source.random() < 0.2:
        schema["additionalProperties"] = {"type": "integer"}
    if source.random() < 0.3:
        schema["description"] = "what it is"
    return schema


def _value(source: random.Random, *, depth: int) -> dict[str, Any]:
    kinds = [_string, _number, _choice, _simple]
    if depth > 0:
        kinds += [_array, _nested, _either]
    return source.choice(kinds)(source, depth)


def _string(source: random.Random, _: int) -> dict[str, Any]:
    return source.choice(
        [
            {"type": "string"},
            {"type": "string", "minLength": 2, "maxLength": 12},
            {"type": "string", "maxLength": 0},
            {"type": "string", "pattern": "^[a-z]{1,5}-[0-9]+$"},
            {"type": "string", "format": "date"},
            {"type": "string", "format": "uuid"},
        ]
    )


def _number(source: random.Random, _: int) -> dict[str, Any]:
    low = source.randint(-50, 50)
    return source.choice(
        [
            {"type": "integer"},
            {"type": "number"},
            {"type": "integer", "minimum": low, "maximum": low + source.randint(0, 500)},
            {"type": "number", "exclusiveMinimum": 0},
            {"type": "integer", "multipleOf": 5},
        ]
    )


def _choice(source: random.Random, _: int) -> dict[str, Any]:
    return source.choice(
        [
            {"enum": source.sample(_WORDS, 3)},
            {"const": source.choice(_WORDS)},
            {"enum": [1, "one", None, True]},
        ]
    )


def _simple(source: random.Random, _: int) -> dict[str, Any]:
    return source.choice(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": ["string", "null"]},
            {"type": ["integer", "boolean"]},
        ]
    )


def _array(source: random.Random, depth: int) -> dict[str, Any]:
    schema = {"type": "array", "items": _value(source, depth=depth - 1)}
    if source.random() < 0.5:
        schema |= {"minItems": source.randint(0, 2), "maxItems": source.randint(2, 4)}
    return schema


def _nested(source: random.Random, depth: int) -> dict[str, Any]:
    return _object(source, depth=depth)


def _either(source: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_value(source, depth=depth - 1), {"type": "null"}]}
