"""JSON inside of texts: strings of a client or a model, such as a tool call's arguments.

Rule: such text is parsed here and nowhere else, and is nested no deeper than a body may be. Deeper text does not
count as JSON: Python's parser accepts many more levels than the code that walks the value (templates, keys). So
do NaN and numbers beyond those of floats, which cannot be written back. Integers may have any number of digits that
Python reads, and are written back as they were.
"""

from __future__ import annotations

import json
import math
from typing import Any

from semanticd.domain.limits import LIMITS

SLICE_CHARACTERS = 1024 * 1024


def parse_json_text(text: str | bytes, *, max_nesting: int = LIMITS.nesting, finite: bool = True) -> Any:
    """Return the value that a JSON text stands for.

    Raises:
        ValueError: It is not JSON, its objects and arrays are nested deeper than `max_nesting` levels, or it holds a
            number that is not `finite`, or more values than a body may.
    """
    if has_more_values(text, LIMITS.json_values):
        raise ValueError(f"the text holds more than {LIMITS.json_values} values")
    try:
        value = json.loads(text, parse_constant=_refused, parse_float=_finite) if finite else json.loads(text)
    except RecursionError:
        raise ValueError("the text is nested too deeply") from None
    if is_nested_deeper(value, max_nesting):
        raise ValueError(f"the text is nested deeper than {max_nesting} levels")
    return value


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("the text holds a number that is too large")
    return value


def has_more_values(text: str | bytes, limit: int) -> bool:
    """Return whether JSON holds more values than `limit`: commas, `[` and `{` outside of strings, and one.

    Python's parser keeps the interpreter's lock from other threads while it reads, and so does what frees the result.
    This takes a hundredth of the parser's time, in slices between which other threads may run.
    """
    if len(text) < limit:
        return False
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    number, begin, is_inside = 1, 0, False
    while begin < len(raw):
        part = raw[begin : begin + SLICE_CHARACTERS]
        if (len(part) - len(part.rstrip(b"\\"))) % 2:
            part += raw[begin + len(part) : begin + len(part) + 1]  # what the last backslash escapes
        begin += len(part)
        if b"\\" in part:
            part = part.replace(b"\\\\", b"").replace(b'\\"', b"")
        pieces = part.split(b'"')
        outside = b"".join(pieces[is_inside::2])
        is_inside ^= not len(pieces) % 2
        number += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        if number > limit:
            return True
    return False


def is_nested_deeper(value: Any, limit: int) -> bool:
    """Return whether the objects and arrays of parsed JSON are nested deeper than `limit` levels."""
    level = [value] if isinstance(value, (dict, list)) else []
    depth = 0
    while level:
        depth += 1
        if depth > limit:
            return True
        below: list[Any] = []
        for container in level:
            children = container.values() if isinstance(container, dict) else container
            below.extend(child for child in children if isinstance(child, (dict, list)))
        level = below
    return False
