"""Reads calls that are written as elements (`<function=write><parameter=text>…`) as they come, and hands JSON on.

Text of an argument that the tool's schema declares as a string is handed on piece by piece; other values when they are
whole, converted by the family's own parser. The emitted text is at every moment the beginning of valid JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from semanticd.adapters.mlx.text.json_call import JsonCallReader, Piece

_NULL = "null"
_MAX_HEAD = 1024


@dataclass(frozen=True, slots=True)
class CallElements:
    """Syntax of a model family's calls: patterns of the heads; the group `name` captures the name."""

    call: re.Pattern[str]
    """The beginning of a call, up to its first argument."""
    call_end: str | None
    """Its end; None: the end of the block of calls."""
    argument: re.Pattern[str]
    """The beginning of an argument, up to its value; the group `string` may say that it is a string."""
    argument_end: str
    space: Literal["none", "line", "all"]
    """White space that is not part of a value: one line break on each side, or all of it on both sides."""
    nulls: bool = False
    """Whether the word null, too, is not a string."""


class ElementCallReader:
    """The calls of one block; those in JSON are read as such, others are left to a whole-text parser."""

    def __init__(
        self, elements: CallElements, *, parse: Callable[[str, Any], Any], tools: Sequence[Mapping[str, Any]]
    ) -> None:
        """Begin before the first character; `parse` converts values for these `tools`."""
        self._elements = elements
        self._parse = parse
        self._tools = tools
        self._json: JsonCallReader | None = None
        self._state: Literal["call", "argument", "text", "value"] = "call"
        self._started = self._complete = False
        self._buffer = ""
        self._looked = 0
        """Leading characters of the buffer that contain no beginning of a call."""
        self._call_head = self._argument_head = self._key = ""
        self._strings: frozenset[str] = frozenset()
        self._num_arguments = 0
        self._begun = False
        """Whether the open string has been begun."""
        self._leads = True
        """Whether white space before the value may still come."""

    @property
    def started(self) -> bool:
        """Whether a call has begun."""
        return self._json.started if self._json is not None else self._started

    @property
    def complete(self) -> bool:
        """Whether the last call is complete."""
        return self._json.complete if self._json is not None else self._complete

    @property
    def begun(self) -> str:
        """Text of the last call if its arguments are JSON; calls of other kinds end regardless of what follows."""
        return self._json.begun if self._json is not None else ""

    @property
    def rest(self) -> str:
        """Text that followed the last arguments, or broke them, if they are JSON."""
        return self._json.rest if self._json is not None else ""

    @property
    def left(self) -> str:
        """Text after the last call, once its end was read."""
        return self._json.left if self._json is not None else self._buffer.lstrip()

    def feed(self, text: str) -> list[Piece]:
        """Take more text; return each call's name once, then its arguments' text in pieces.

        Text before a call comes before its name.
        """
        if self._json is None and not self._started and (self._buffer + text).lstrip()[:1] in ("{", "["):
            self._json, text, self._buffer = JsonCallReader(), self._buffer + text, ""
        if self._json is not None:
            return self._json.feed(text)
        self._buffer += text
        pieces: list[Piece] = []
        while self._advance(pieces):
            pass
        return pieces

    def end(self) -> list[Piece]:
        """Process the end of the block: open elements are closed, because models sometimes forget a marker."""
        if self._json is not None or not self._started or self._complete:
            return []
        pieces: list[Piece] = []
        if self._state in ("text", "value"):
            self._end_argument(self._buffer, pieces)
            self._buffer = ""
        pieces.append(("arguments", "}"))
        self._complete = True
        return pieces

    def _advance(self, pieces: list[Piece]) -> bool:
        if self._state == "call":
            return self._begin_call(pieces)
        if self._state == "argument":
            return self._begin_argument(pieces)
        value, found, rest = self._buffer.partition(self._elements.argument_end)
        if found:
            self._end_argument(value, pieces)
            self._buffer, self._state = rest, "argument"
            return True
        if self._state == "text":
            self._pass_on(pieces)
        return False

    def _begin_call(self, pieces: list[Piece]) -> bool:
        found = self._elements.call.search(self._buffer, self._looked)
        if found is None:
            self._looked = max(0, len(self._buffer) - _MAX_HEAD)
            return False
        before = self._buffer[: found.start()]
        if before.strip():
            pieces.append(("text", before))
        self._buffer, self._looked = self._buffer[found.end() :], 0
        self._call_head, self._num_arguments = found[0], 0
        self._strings = _string_arguments(found["name"], self._tools)
        self._started, self._complete, self._state = True, False, "argument"
        pieces += [("name", found["name"]), ("arguments", "{")]
        return True

    def _begin_argument(self, pieces: list[Piece]) -> bool:
        end = self._elements.call_end
        at = self._buffer.find(end) if end else -1
        found = self._elements.argument.search(self._buffer)
        if end and at >= 0 and (found is None or at < found.start()):
            self._buffer, self._state = self._buffer[at + len(end) :], "call"
            self._complete = True
            pieces.append(("arguments", "}"))
            return True
        if found is None:
            return False
        self._buffer = self._buffer[found.end() :]
        self._argument_head, self._key = found[0], found["name"]
        comma = ", " if self._num_arguments else ""
        self._num_arguments += 1
        pieces.append(("arguments", f"{comma}{json.dumps(self._key, ensure_ascii=False)}: "))
        declared = found.groupdict().get("string")
        is_string = self._key in self._strings if declared is None else declared == "true"
        self._state, self._begun, self._leads = "text" if is_string else "value", False, True
        return True

    def _pass_on(self, pieces: list[Piece]) -> None:
        """Hand on what certainly belongs to the open string."""
        self._buffer = self._without_lead(self._buffer)
        end = self._elements.argument_end
        held = next(
            (n for n in range(min(len(end) - 1, len(self._buffer)), 0, -1) if self._buffer.endswith(end[:n])),
            0,
        )
        ready = self._without_tail(self._buffer[: len(self._buffer) - held])
        if not ready or (not self._begun and self._elements.nulls and _NULL.startswith(ready.lower())):
            return
        self._buffer = self._buffer[len(ready) :]
        pieces.append(("arguments", ("" if self._begun else '"') + _escaped(ready)))
        self._begun = True

    def _end_argument(self, value: str, pieces: list[Piece]) -> None:
        if self._state == "value":
            pieces.append(("arguments", self._converted(value)))
            return
        text = self._without_tail(self._without_lead(value))
        if not self._begun and self._elements.nulls and text.lower() == _NULL:
            pieces.append(("arguments", _NULL))
            return
        pieces.append(("arguments", ("" if self._begun else '"') + _escaped(text) + '"'))

    def _without_lead(self, text: str) -> str:
        if not self._leads or not text or self._elements.space == "none":
            return text
        stripped = text.lstrip() if self._elements.space == "all" else text.removeprefix("\n")
        self._leads = self._elements.space == "all" and not stripped
        return stripped

    def _without_tail(self, text: str) -> str:
        if self._elements.space == "none":
            return text
        return text.rstrip() if self._elements.space == "all" else text.removesuffix("\n")

    def _converted(self, value: str) -> str:
        """Return a value as JSON, by way of a whole call that has no other argument."""
        elements = self._elements
        call = (
            f"{self._call_head}{self._argument_head}{value}{elements.argument_end}{elements.call_end or ''}"
        )
        try:
            parsed = self._parse(call, self._tools)
            made = parsed[0] if isinstance(parsed, list) else parsed
            text = json.dumps(made["arguments"][self._key], ensure_ascii=False, allow_nan=False)
            text.encode()
        except Exception:  # noqa: BLE001 (whatever the family's parser trips over: the model's own words are kept)
            return json.dumps(value.strip(), ensure_ascii=False)
        return text


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _string_arguments(name: str, tools: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Return the arguments of a tool that can be nothing but strings."""
    for tool in tools:
        if tool["function"]["name"] == name:
            properties = (tool["function"].get("parameters") or {}).get("properties")
            if isinstance(properties, Mapping):
                return frozenset(
                    key
                    for key, schema in properties.items()
                    if isinstance(schema, Mapping) and schema.get("type") == "string"
                )
    return frozenset()
