"""Makes recorded sessions small enough for a model with a short context, with the same parts in common as before.

A text is cut at its end, to one word in so many: what began alike still does, as far as it was cut. So prompts share
about the same part of their tokens, and a replay meets the same hits and misses in less time. A text that is a JSON
object, as a call's arguments are, stays one: the texts in it are cut.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from semanticd.bench.trace_file import Trace

NUM_TOOLS = 2
"""Tools that are left of each request: their names and schemas take more than their descriptions."""
_LEAST_WORDS = 3


def shortened(trace: Trace, *, one_in: int = 1, num_requests: int | None = None) -> Trace:
    """Return the first requests of a trace; with `one_in` above 1 one word in so many of each text, and two tools."""
    requests = trace.requests[:num_requests]
    if one_in > 1:
        requests = tuple(replace(one, body=_cut(one.body, one_in)) for one in requests)
    return replace(trace, requests=requests)


def _cut(value: Any, one_in: int) -> Any:
    if isinstance(value, str):
        if (inner := _object_in(value)) is not None:
            return json.dumps(_cut(inner, one_in))
        words = value.split(" ")
        # Ids, names and the dialect's own words have no spaces.
        return " ".join(words[: max(1 + len(words) // one_in, _LEAST_WORDS)])
    if isinstance(value, list):
        return [_cut(one, one_in) for one in value]
    if isinstance(value, dict):
        return {
            name: _cut(one[:NUM_TOOLS] if name == "tools" and isinstance(one, list) else one, one_in)
            for name, one in value.items()
        }
    return value


def _object_in(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a text is, if it is one."""
    try:
        value = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
