"""Bounds what one token can cost: how long the shortest value is that a schema lets a model begin.

An answer whose room is nearly used is led to its end; a model that opens one more item of an array just before has to
complete that too. Sizes are bytes, and so bound tokens from above. What is not understood counts as short.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from semanticd.adapters.mlx.constraints.pattern_sample import schemas, texts
from semanticd.domain.generation import OutputConstraint

_CALL_BYTES = 128
"""Markers, name and braces around a call's arguments."""
_SCALARS = {"string": 2, "integer": 8, "number": 8, "boolean": 5, "null": 4}
_DEEPEST = 8
_ALTERNATIVES = ("anyOf", "oneOf")


def largest_opening(constraint: OutputConstraint) -> int | None:
    """Return the most bytes that whatever is begun inside the form takes at least; None when the form has no schema."""
    sizes = [0]
    roots = list(schemas(constraint))
    for root in roots:
        sizes += (_size(part, root, 0) + len(key) for key, part in _parts(root, root, 0))
    # Only where a further call may follow can one be begun that was not counted yet: such a rule ends with a number.
    if roots and constraint.grammar and constraint.grammar.partition("\n")[0].endswith("}"):
        sizes += (_size(root, root, 0) + _CALL_BYTES for root in roots)
    return max(sizes) if roots else None


def _parts(schema: Any, root: Any, depth: int) -> Iterator[tuple[bytes, Any]]:
    """Give every schema inside, with the key it stands under."""
    if isinstance(schema, Mapping) and depth < _DEEPEST:
        for name in ("properties", "$defs", "definitions", "patternProperties"):
            for key, part in _mapping(schema.get(name)).items():
                yield json.dumps(key).encode() + b'": , ', part
                yield from _parts(part, root, depth + 1)
        inner = [schema.get("items"), schema.get("additionalProperties"), *_list(schema.get("prefixItems"))]
        inner += [part for name in (*_ALTERNATIVES, "allOf") for part in _list(schema.get(name))]
        for part in inner:
            yield b", ", part
            yield from _parts(part, root, depth + 1)


def _size(schema: Any, root: Any, depth: int) -> int:
    """Return the bytes of a short value of the schema; of alternatives the longest, for any may be taken."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return 2
    if "const" in schema:
        return len(json.dumps(schema["const"], ensure_ascii=False).encode())
    if choices := _list(schema.get("enum")):
        return max(len(json.dumps(choice, ensure_ascii=False).encode()) for choice in choices)
    if isinstance(schema.get("$ref"), str):
        return _size(_resolved(schema["$ref"], root), root, depth + 1)
    alternatives = [part for name in _ALTERNATIVES for part in _list(schema.get(name))]
    most = max((_size(part, root, depth + 1) for part in alternatives), default=0)
    most += sum(_size(part, root, depth + 1) for part in _list(schema.get("allOf")))
    kinds = schema.get("type", "object" if "properties" in schema else ())
    for kind in [kinds] if isinstance(kinds, str) else _list(kinds):
        most = max(most, _size_of_kind(kind, schema, root, depth))
    return most


def _size_of_kind(kind: str, schema: Mapping[str, Any], root: Any, depth: int) -> int:
    if kind == "object":
        properties = _mapping(schema.get("properties"))
        required = [key for key in _list(schema.get("required")) if isinstance(key, str)]
        return 2 + sum(
            len(json.dumps(key, ensure_ascii=False).encode())
            + 4
            + _size(properties.get(key), root, depth + 1)
            for key in required
        )
    if kind == "array":
        least = schema.get("minItems", 0)
        each = _size(schema.get("items"), root, depth + 1) + 2
        return 2 + each * (least if isinstance(least, int) else 0)
    if kind == "string":
        least = schema.get("minLength", 0)
        own = max(
            (len(text) for text in texts({k: schema[k] for k in ("pattern", "format") if k in schema})),
            default=0,
        )
        return 2 + max(own, least if isinstance(least, int) else 0)
    return _SCALARS.get(kind, 2)


def _resolved(reference: str, root: Any) -> Any:
    """Follow a reference into the schema's own root; None when it leads elsewhere."""
    found = root
    for name in reference.removeprefix("#").strip("/").split("/"):
        found = _mapping(found).get(name.replace("~1", "/").replace("~0", "~")) if name else found
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()
