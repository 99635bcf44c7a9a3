"""Bounds what one token can cost: how long the shortest value is that a schema lets a model begin.

An answer whose room is nearly used is led to its end; a model that opens one more item of an array just before has to
complete that too. Sizes are bytes, and so bound tokens from above. Unknown parts of a schema count as short.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from semanticd.adapters.mlx.constraints.pattern_sample import schemas, texts
from semanticd.domain.generation import OutputConstraint
from semanticd.domain.limits import LIMITS

_CALL_BYTES = 128
"""Markers, name and braces around a call's arguments."""
_SCALARS = {"string": 2, "integer": 8, "number": 8, "boolean": 5, "null": 4}
_DEEPEST = 8
_ALTERNATIVES = ("anyOf", "oneOf")
_MAX_KINDS = 7
"""JSON has six types, and schemas know integers too."""


def largest_opening(constraint: OutputConstraint, *, max_steps: int = LIMITS.form_steps) -> int | None:
    """Return the maximum over the form's parts of the minimum bytes to complete a part; None if unknown.

    It is not known of a form without a schema, nor of one with more parts than `max_steps`.
    """
    roots = list(schemas(constraint))
    sizes = [0]
    try:
        for root in roots:
            size = _Sizes(root, max_steps)
            sizes += (size.of(part, 0) + len(key) for key, part in size.parts())
            # Only where a further call may follow can one be begun that was not counted yet: such a rule ends with
            # a number.
            if constraint.grammar and constraint.grammar.partition("\n")[0].endswith("}"):
                sizes.append(size.of(root, 0) + _CALL_BYTES)
            max_steps = size.steps_left
    except _TooManyStepsError:
        return None
    return max(sizes) if roots else None


class _TooManyStepsError(Exception):
    pass


class _Sizes:
    """The sizes of one schema's parts; each part is looked at once for each depth."""

    def __init__(self, root: Any, max_steps: int) -> None:
        self._root = root
        self._known: dict[tuple[int, int], int] = {}
        self.steps_left = max_steps

    def parts(self) -> Iterator[tuple[bytes, Any]]:
        """Give every schema inside, with the key it stands under."""
        left: list[tuple[Any, int]] = [(self._root, 0)]
        while left:
            schema, depth = left.pop()
            if not isinstance(schema, Mapping) or depth >= _DEEPEST:
                continue
            inner: list[tuple[bytes, Any]] = []
            for name in ("properties", "$defs", "definitions", "patternProperties"):
                inner += (
                    (json.dumps(key).encode() + b'": , ', part)
                    for key, part in _mapping(schema.get(name)).items()
                )
            others = [schema.get("items"), schema.get("additionalProperties")]
            others += _list(schema.get("prefixItems"))
            others += [part for name in (*_ALTERNATIVES, "allOf") for part in _list(schema.get(name))]
            inner += ((b", ", part) for part in others)
            self._step(len(inner))
            yield from inner
            left += ((part, depth + 1) for _, part in inner)

    def of(self, schema: Any, depth: int) -> int:
        """Return the bytes of a short value of the schema; of alternatives the longest, for any may be taken."""
        if not isinstance(schema, Mapping) or depth > _DEEPEST:
            return 2
        # The root holds every part, so that no other one can get its number.
        name = (id(schema), depth)
        if name not in self._known:
            self._step(1)
            self._known[name] = self._compute(schema, depth)
        return self._known[name]

    def _step(self, count: int) -> None:
        self.steps_left -= count
        if self.steps_left < 0:
            raise _TooManyStepsError

    def _compute(self, schema: Mapping[str, Any], depth: int) -> int:
        if "const" in schema:
            return len(json.dumps(schema["const"], ensure_ascii=False).encode())
        if choices := _list(schema.get("enum")):
            return max(len(json.dumps(choice, ensure_ascii=False).encode()) for choice in choices)
        if isinstance(schema.get("$ref"), str):
            return self.of(_resolved(schema["$ref"], self._root), depth + 1)
        alternatives = [part for name in _ALTERNATIVES for part in _list(schema.get(name))]
        both = _list(schema.get("allOf"))
        self._step(len(alternatives) + len(both))
        most = max((self.of(part, depth + 1) for part in alternatives), default=0)
        most += sum(self.of(part, depth + 1) for part in both)
        kinds = schema.get("type", "object" if "properties" in schema else ())
        for kind in [kinds] if isinstance(kinds, str) else _list(kinds)[:_MAX_KINDS]:
            if not isinstance(kind, str):
                continue
            most = max(most, self._of_kind(kind, schema, depth))
        return most

    def _of_kind(self, kind: str, schema: Mapping[str, Any], depth: int) -> int:
        if kind == "object":
            properties = _mapping(schema.get("properties"))
            required = [key for key in _list(schema.get("required")) if isinstance(key, str)]
            self._step(len(required))
            return 2 + sum(
                len(json.dumps(key, ensure_ascii=False).encode())
                + 4
                + self.of(properties.get(key), depth + 1)
                for key in required
            )
        if kind == "array":
            least = schema.get("minItems", 0)
            each = self.of(schema.get("items"), depth + 1) + 2
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
