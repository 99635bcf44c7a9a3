"""The recorded sessions of tests/data/traces."""

from __future__ import annotations

from pathlib import Path

from semanticd.bench.trace_file import Trace, load_trace

FOLDER = Path(__file__).resolve().parents[1] / "data" / "traces"


def recorded() -> list[Trace]:
    """Return all of them: Claude Code, Codex, opencode."""
    return [load_trace(path) for path in sorted(FOLDER.glob("*.trace.jsonl.xz"))]
