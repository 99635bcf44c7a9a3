"""The words of JSON Schema (2020-12) and what becomes of each; and schemas without the words that cannot be enforced.

The grammar engine compiles most words. A schema with one that it does not know is still worth enforcing for the rest:
`relaxed` leaves such words out and names them. `WORDS` is the table of docs/json-schema.md; a test tries every row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Support = Literal["enforced", "approximated", "left out", "annotation"]

WORDS: Mapping[str, tuple[Support, str]] = {
    "type": ("enforced", "an unknown type is refused"),
    "enum": ("enforced", ""),
    "const": ("enforced", ""),
    "properties": ("enforced", "an answer's members have the order of the schema"),
    "required": ("enforced", ""),
    "additionalProperties": (
        "enforced",
        "if missing next to `properties`: treated as false, so that answers contain no other keys",
    ),
    "patternProperties": ("enforced", "patterns as in `pattern`"),
    "minProperties": ("enforced", "with at most 64 properties"),
    "maxProperties": ("enforced", ""),
    "items": ("enforced", ""),
    "prefixItems": ("enforced", ""),
    "additionalItems": ("enforced", ""),
    "minItems": ("enforced", ""),
    "maxItems": ("enforced", ""),
    "minLength": ("enforced", ""),
    "maxLength": ("enforced", ""),
    "pattern": ("enforced", "left out with lookaround, word boundaries or back-references"),
    "format": ("enforced", "the formats below; other formats of strings are left out"),
    "minimum": ("enforced", ""),
    "maximum": ("enforced", ""),
    "exclusiveMinimum": ("enforced", ""),
    "exclusiveMaximum": ("enforced", ""),
    "multipleOf": ("enforced", ""),
    "anyOf": ("enforced", ""),
    "allOf": ("enforced", ""),
    "oneOf": ("approximated", "treated as `anyOf` if the alternatives may overlap"),
    "$ref": ("enforced", "within the schema; remote references are refused"),
    "$defs": ("enforced", ""),
    "definitions": ("enforced", ""),
    "$anchor": ("enforced", ""),
    "not": ("left out", ""),
    "if": ("left out", ""),
    "then": ("left out", ""),
    "else": ("left out", ""),
    "uniqueItems": ("left out", ""),
    "contains": ("left out", ""),
    "minContains": ("left out", ""),
    "maxContains": ("left out", ""),
    "dependentRequired": ("left out", ""),
    "dependentSchemas": ("left out", ""),
    "dependencies": ("left out", ""),
    "propertyNames": ("left out", ""),
    "unevaluatedProperties": ("left out", ""),
    "unevaluatedItems": ("left out", ""),
    "$dynamicRef": ("left out", ""),
    "$dynamicAnchor": ("left out", ""),
    "$id": ("annotation", ""),
    "$schema": ("annotation", ""),
    "$vocabulary": ("annotation", ""),
    "$comment": ("annotation", ""),
    "title": ("annotation", ""),
    "description": ("annotation", ""),
    "default": ("annotation", ""),
    "examples": ("annotation", ""),
    "deprecated": ("annotation", ""),
    "readOnly": ("annotation", ""),
    "writeOnly": ("annotation", ""),
    "contentEncoding": ("annotation", ""),
    "contentMediaType": ("annotation", ""),
    "contentSchema": ("annotation", ""),
}

FORMATS = (
    "date",
    "time",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uri",
    "uuid",
    "unknown",
)
"""The formats of strings that the grammar engine knows."""

_LEFT_OUT = frozenset(word for word, (support, _) in WORDS.items() if support == "left out")
_DATA = frozenset(("const", "default", "enum", "example", "examples"))
"""Keywords whose values are data, not schemas."""
_NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
"""There the keys are names, not words."""
_COUNTS = frozenset(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"))
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "uniqueItems": (False,),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "propertyNames": (True, {}, {"type": "string"}),
    "minContains": (0,),
    "not": (False,),
}
"""Values without effect, which can be omitted."""
_SHOWN = re.compile(r"[\w-]{1,32}", re.ASCII)


@dataclass(slots=True)
class Relaxation:
    """Removes parts of schemas that cannot be compiled, and records them."""

    one_of: bool = False
    """Whether `oneOf` is read as `anyOf`."""
    patterns: bool = False
    """Whether every pattern is left out, not only those that are known not to compile."""
    names: dict[str, None] = field(default_factory=dict)
    """The words that were left out or changed."""

    def apply(self, schema: Any) -> Any:
        """Return a schema of the words that are enforced."""
        if isinstance(schema, list):
            return [self.apply(part) for part in schema]
        if not isinstance(schema, Mapping):
            return schema
        made: dict[str, Any] = {}
        for word, value in schema.items():
            if word == "$schema":
                # Of a dialect that is not known nothing else would be understood.
                continue
            if word in _LEFT_OUT:
                if value not in _HARMLESS.get(word, ()):
                    self.names[word] = None
            elif (
                word == "format" and isinstance(value, str) and value not in FORMATS and _may_be_text(schema)
            ):
                self._note_format(value)
            elif word == "pattern" and isinstance(value, str) and self._is_hopeless(value):
                self.names["pattern"] = None
            else:
                made[word] = self._value(word, value)
        self._drop_key_patterns(made)
        if self.one_of and "oneOf" in made:
            self.names["oneOf"] = None
            alternatives = {"anyOf": made.pop("oneOf")}
            made["allOf"] = [*made.get("allOf", []), alternatives]
        return made

    def _value(self, word: str, value: Any) -> Any:
        if word in _DATA:
            return value
        if word in _COUNTS and isinstance(value, float) and value.is_integer():
            return int(value)
        if word in _NAMED and isinstance(value, Mapping):
            return {name: self.apply(part) for name, part in value.items()}
        return self.apply(value)

    def _note_format(self, name: str) -> None:
        self.names[f"format:{name}" if _SHOWN.fullmatch(name) else "format"] = None

    def _is_hopeless(self, pattern: str) -> bool:
        return self.patterns or looks_around(pattern)

    def _drop_key_patterns(self, made: dict[str, Any]) -> None:
        by_pattern = made.get("patternProperties")
        if not isinstance(by_pattern, Mapping):
            return
        hopeless = {pattern: part for pattern, part in by_pattern.items() if self._is_hopeless(pattern)}
        if not hopeless:
            return
        self.names["patternProperties"] = None
        made["patternProperties"] = {key: part for key, part in by_pattern.items() if key not in hopeless}
        # Such keys may come: whatever any of the patterns, or the rest, allows their values to be.
        others = made.get("additionalProperties", True)
        made["additionalProperties"] = {
            "anyOf": [*hopeless.values(), *([others] if others is not False else [])]
        }


def _may_be_text(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type", "string")
    return "string" in (kinds if isinstance(kinds, list) else [kinds])


def looks_around(pattern: str) -> bool:
    """Return whether a regular expression has lookaround, word boundaries or back-references: no grammar has these."""
    in_class = False
    position = 0
    while position < len(pattern):
        character = pattern[position]
        following = pattern[position + 1 : position + 2]
        if character == "\\":
            if not in_class and following and following in "bBk123456789":
                return True
            position += 2
            continue
        if character == "[" and not in_class:
            in_class = True
        elif character == "]":
            in_class = False
        elif not in_class and pattern.startswith(("(?=", "(?!", "(?<=", "(?<!"), position):
            return True
        position += 1
    return False
