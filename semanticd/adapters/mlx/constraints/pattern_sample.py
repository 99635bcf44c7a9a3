"""Makes short texts that match the patterns and formats of a form, to end a string that must have one of them.

A pattern such as `@` or `foo$` lets a string continue forever and end only after the right letters. Knowing one text
that matches, and its endings, is enough: whatever was written so far, one of them usually completes it.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from semanticd.domain.generation import OutputConstraint

_FORMATS = {
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "date-time": "2000-01-01T00:00:00Z",
    "duration": "P1D",
    "email": "a@b.cc",
    "hostname": "a.b",
    "ipv4": "1.1.1.1",
    "ipv6": "::1",
    "uri": "http://a.b",
    "uuid": "00000000-0000-0000-0000-000000000000",
}
_CATEGORIES = {"DIGIT": "0", "NOT_DIGIT": "a", "SPACE": " ", "NOT_SPACE": "a", "WORD": "a", "NOT_WORD": "-"}
_COMMON = "a0A -_.@/~"
_MAX_CHARS = 256
_MAX_PATTERN = 1024
_MAX_SAMPLES = 16
_MAX_KEYS = 64


def samples(constraint: OutputConstraint) -> tuple[str, ...]:
    """Return a text for each pattern and format in the form, as written in JSON; omits unsupported ones."""
    found: dict[str, None] = {}
    known = (text for schema in schemas(constraint) for text in texts(schema))
    for text in known:
        found[json.dumps(text, ensure_ascii=False)[1:-1]] = None
        if len(found) == _MAX_SAMPLES:
            break
    return tuple(found)


def keys(constraint: OutputConstraint) -> tuple[str, ...]:
    """Return the keys in the form as written in JSON, without the first quote; best first.

    Members come in the order of their schema, so the last one that may come skips the most.
    """
    found = [name for schema in schemas(constraint) for name in _keys(schema)]
    return tuple(json.dumps(name, ensure_ascii=False)[1:] for name in dict.fromkeys(reversed(found)))[
        :_MAX_KEYS
    ]


def _keys(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        properties = schema.get("properties")
        if isinstance(properties, Mapping):
            yield from (name for name in properties if isinstance(name, str))
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from _keys(part)


def schemas(constraint: OutputConstraint) -> Iterator[Any]:
    """Give the JSON schemas that a form is made of."""
    if constraint.schema is not None:
        yield constraint.schema
    elif constraint.grammar and constraint.kind in ("tool_call", "optional_call"):
        for line in constraint.grammar.splitlines():
            _, found, schema = line.partition(": %json ")
            if found:
                yield json.loads(schema)


def with_schemas(constraint: OutputConstraint, change: Callable[[Any], Any]) -> OutputConstraint:
    """Return a form with each of its JSON schemas changed."""
    if constraint.schema is not None:
        return replace(constraint, schema=change(constraint.schema))
    if not constraint.grammar or constraint.kind not in ("tool_call", "optional_call"):
        return constraint
    lines = []
    for line in constraint.grammar.splitlines():
        head, found, schema = line.partition(": %json ")
        lines.append(f"{head}{found}{json.dumps(change(json.loads(schema)))}" if found else line)
    return replace(constraint, grammar="\n".join(lines) + "\n")


def texts(schema: Any) -> Iterator[str]:
    """Give a text for each pattern and format anywhere in a schema."""
    if isinstance(schema, Mapping):
        pattern, form = schema.get("pattern"), schema.get("format")
        if isinstance(pattern, str) and (text := sample(pattern)) is not None:
            yield text
        if isinstance(form, str) and form in _FORMATS:
            yield _FORMATS[form]
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from texts(part)


def sample(pattern: str) -> str | None:
    """Return a short text that matches a regular expression; None if the expression is not supported.

    Whether it matches is not tried here: a client's pattern could take forever, and the grammar engine finds out.
    """
    if len(pattern) > _MAX_PATTERN:
        return None
    try:
        return _write(_parser().parse(pattern))
    except (re.error, LookupError, RecursionError, OverflowError, StopIteration):
        return None


def _parser() -> Any:
    try:
        return importlib.import_module("re._parser")
    except ImportError:
        # Python 3.10 has it under its old name.
        return importlib.import_module("sre_parse")


def _write(parsed: Any) -> str:
    text = ""
    for operation, argument in parsed:
        text += _WRITERS[str(operation)](argument)
        if len(text) > _MAX_CHARS:
            raise OverflowError(len(text))
    return text


def _repeat(argument: Any) -> str:
    least, _, repeated = argument
    text = _write(repeated) if least else ""
    if len(text) * least > _MAX_CHARS:
        raise OverflowError(least)
    return text * least


def _one_of(members: Any) -> str:
    kinds = [str(kind) for kind, _ in members]
    if kinds[0] == "NEGATE":
        return next(character for character in _COMMON if not any(_holds(m, character) for m in members[1:]))
    kind, argument = members[0]
    if str(kind) == "CATEGORY":
        return _CATEGORIES[str(argument).removeprefix("CATEGORY_")]
    return chr(argument[0] if str(kind) == "RANGE" else argument)


def _holds(member: Any, character: str) -> bool:
    kind, argument = str(member[0]), member[1]
    if kind == "RANGE":
        return bool(argument[0] <= ord(character) <= argument[1])
    if kind == "CATEGORY":
        classes = {
            "DIGIT": r"\d",
            "SPACE": r"\s",
            "WORD": r"\w",
            "NOT_DIGIT": r"\D",
            "NOT_SPACE": r"\S",
            "NOT_WORD": r"\W",
        }
        return re.match(classes[str(argument).removeprefix("CATEGORY_")], character) is not None
    return bool(argument == ord(character))


_WRITERS: Mapping[str, Any] = {
    "LITERAL": chr,
    "NOT_LITERAL": lambda code: "b" if code == ord("a") else "a",
    "ANY": lambda _: "a",
    "AT": lambda _: "",
    "IN": _one_of,
    "MAX_REPEAT": _repeat,
    "MIN_REPEAT": _repeat,
    "SUBPATTERN": lambda argument: _write(argument[-1]),
    "BRANCH": lambda argument: _write(argument[1][0]),
}
