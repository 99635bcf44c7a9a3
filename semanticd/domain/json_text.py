"""JSON inside of texts: what a client or a model wrote as a string, such as a tool call's arguments.

Rule: such text is parsed here and nowhere else, and is nested no deeper than a body may be. What is nested deeper
counts as no JSON: Python's parser accepts many more levels than what walks the value afterwards (templates, keys). So
do NaN and numbers beyond those of floats, which cannot be written back. Integers may have any number of digits that
Python reads, and are written back as they were.
"""

from __future__ import annotations

import json
import math
from typing import Any

from semanticd.domain.limits import LIMITS


def parse_json_text(text: str | bytes, *, max_nesting: int = LIMITS.nesting, finite: bool = True) -> Any:
    """Return the value that a JSON text stands for.

    Raises:
        ValueError: It is no JSON, its objects and arrays are nested deeper than `max_nesting` levels, or it holds a
            number that is not `finite`.
    """
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
