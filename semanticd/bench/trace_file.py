"""Reads traces: files of JSON lines as the daemon writes them, plain or packed with gzip or xz.

docs/formats/trace.md has the format. A line that cannot be read is named with its number; a last line that was cut off
by a full disk or a power cut is left out.
"""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from semanticd.bench.errors import BenchError

FORMAT = 1
_OPENERS = {".gz": gzip.open, ".xz": lzma.open}


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """One request of a trace; `at` is seconds, on any clock that the whole file shares."""

    at: float
    dialect: str
    path: str
    body: Any
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    agent: str | None = None
    answer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace: its header line, and its requests in the order of their start."""

    name: str
    head: Mapping[str, Any]
    requests: tuple[TracedRequest, ...]


def load_trace(path: Path) -> Trace:
    """Read a trace.

    Raises:
        BenchError: The file cannot be read, is not a trace, or has a broken line.
    """
    try:
        with _open(path) as file:
            head, rows = _rows(path, file)
    except OSError as error:
        raise BenchError(
            f"reading the trace {path} failed: {error.strerror or error}; the daemon records traces into the folder "
            "SEMANTIC_TRACE_DIR"
        ) from error
    except (EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
        raise BenchError(f"{path} cannot be unpacked ({error}); record or copy it again") from error
    name = path.name.split(".")[0]
    return Trace(name, head, tuple(sorted(rows, key=lambda request: request.at)))


def _open(path: Path) -> IO[str]:
    opener = _OPENERS.get(path.suffix)
    if opener is None:
        return path.open(encoding="utf-8")
    return opener(path, "rt", encoding="utf-8")  # type: ignore[operator, no-any-return]


def _rows(path: Path, file: IO[str]) -> tuple[Mapping[str, Any], list[TracedRequest]]:
    lines = _objects(path, file)
    _, head = next(lines, (0, None))
    if not isinstance(head, dict) or head.get("trace") != FORMAT:
        raise BenchError(
            f"{path} is not a trace of format {FORMAT}: give a file that the daemon wrote into SEMANTIC_TRACE_DIR"
        )
    return head, [_request(path, number, row) for number, row in lines]


def _objects(path: Path, file: IO[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError as error:
            if not line.endswith("\n"):
                # Cut off where writing ended.
                return
            raise BenchError(f"{path}, line {number} is not JSON ({error}); record it again") from error


def _request(path: Path, number: int, row: Mapping[str, Any]) -> TracedRequest:
    try:
        return TracedRequest(
            at=float(row["at"]),
            dialect=str(row["dialect"]),
            path=str(row["path"]),
            body=row["body"],
            query=str(row.get("query") or ""),
            headers=dict(row.get("headers") or {}),
            agent=row.get("agent"),
            answer=dict(row.get("answer") or {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{path}, line {number}: {error!r} is missing or wrong; record it again") from error
