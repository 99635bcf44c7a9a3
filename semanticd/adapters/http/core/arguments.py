"""A tool call's arguments as clients send them back: JSON text, or the object itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from semanticd.domain.chat import ToolCallPart
from semanticd.domain.json_text import is_nested_deeper, parse_json_text
from semanticd.domain.limits import LIMITS


def read_arguments(given: object) -> dict[str, Any]:
    """Return a call's arguments; text that is not a JSON object (models err, clients send it back) is kept."""
    if isinstance(given, Mapping):
        return dict(given)
    parsed: object = None
    if given is None or given == "":
        parsed = {}
    elif isinstance(given, str):
        with suppress(ValueError):
            parsed = parse_json_text(given)
    return parsed if isinstance(parsed, dict) else {"arguments": given}


def written_arguments(call: ToolCallPart) -> dict[str, Any]:
    """Return the arguments that the model wrote; of a call that the answer's end cut, those that are complete."""
    return dict(call.arguments) if call.cut is None else complete_members(call.cut)


def complete_members(text: str) -> dict[str, Any]:
    """Return the members of an object whose text was cut, as far as they are complete; nothing is made up."""
    decoder = json.JSONDecoder()
    members: dict[str, Any] = {}
    position = _after_space(text, 0)
    if text[position : position + 1] != "{":
        return members
    try:
        while True:
            key, position = decoder.raw_decode(text, _after_space(text, position + 1))
            position = _after_space(text, position)
            if not isinstance(key, str) or text[position : position + 1] != ":":
                return members
            value, position = decoder.raw_decode(text, _after_space(text, position + 1))
            position = _after_space(text, position)
            if position == len(text) and isinstance(value, (int, float)) and not isinstance(value, bool):
                # More digits might have come.
                return members
            if is_nested_deeper(value, LIMITS.nesting - 1):
                return members
            members[key] = value
            if text[position : position + 1] != ",":
                return members
    except (ValueError, RecursionError):
        return members


def _after_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\n", "\r"):
        position += 1
    return position
