"""The recorded sessions of tests/data/traces, whole or shortened so that a test takes seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from semanticd.bench.trace_file import Trace, load_trace

FOLDER = Path(__file__).resolve().parents[1] / "data" / "traces"
_NUM_TOOLS = 2


def recorded() -> list[Trace]:
    """Return all of them: Claude Code, Codex, opencode."""
    return [load_trace(path) for path in sorted(FOLDER.glob("*.trace.jsonl.xz"))]


def shortened(trace: Trace, *, one_in: int, num_requests: int | None = None) -> Trace:
    """Return a trace whose texts have one word in so many, and whose requests offer two tools.

    Texts are cut at their ends: what began alike still does, as far as it was cut.
    """
    requests = trace.requests[:num_requests]
    return replace(trace, requests=tuple(replace(one, body=_shortened(one.body, one_in)) for one in requests))


def _shortened(value: Any, one_in: int) -> Any:
    if isinstance(value, str):
        words = value.split(" ")
        # Ids, names and the dialect's own words have no spaces.
        return " ".join(words[: max(1 + len(words) // one_in, 3)])
    if isinstance(value, list):
        return [_shortened(one, one_in) for one in value]
    if isinstance(value, dict):
        return {
            name: _shortened(one[:_NUM_TOOLS] if name == "tools" else one, one_in)
            for name, one in value.items()
        }
    return value
