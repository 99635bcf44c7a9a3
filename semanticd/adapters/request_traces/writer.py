"""Writes traces: one file per run of the daemon, JSON lines, owner only, rotated within a cap for the whole folder.

Rule: recording never holds up a request. Lines are made and written on a thread of their own; where too much waits for
the disk, requests are left out and counted. docs/formats/trace.md has the format.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from semanticd.adapters.request_traces.redaction import Redaction
from semanticd.application.ports.request_traces import RecordedRequest
from semanticd.application.ports.telemetry import Log, Metrics
from semanticd.control.private_files import open_private, prepare_private_folder
from semanticd.domain.errors import DaemonError
from semanticd.domain.generation import Usage
from semanticd.domain.json_text import parse_json_text

FORMAT = 1
SUFFIX = ".trace.jsonl"
_FILES_PER_FOLDER = 8
"""A file is rotated at this share of the cap, so that each removal is small."""
_WAITING_BYTES = 64 * 1024 * 1024

_AGENTS = "/v1/agents/"
"""Prefix of an agent's id in a path."""
_NAMING_HEADERS = ("-id", "-affinity")
"""Suffixes of header names that identify the client."""
_KEPT_QUERIES = frozenset(["beta=true", "beta=false"])
"""Parts of a query that programs send; any other may identify a person."""


class TraceWriter:
    """A `RequestTraces` that writes files; `close` flushes the queue."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        redacted: bool,
        server: str,
        metrics: Metrics,
        log: Log,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Prepare the folder and start the thread; `max_bytes` bounds all traces in the folder together.

        Raises:
            DaemonError: The folder cannot be made, or is not this user's alone.
        """
        try:
            self._folder = prepare_private_folder(folder, ours=("semanticd-",))
        except OSError as error:
            raise DaemonError(
                f"cannot keep traces in {folder}: {error.strerror or error}; set SEMANTIC_TRACE_DIR to another folder"
            ) from error
        self._max_bytes = max_bytes
        self._redaction = Redaction(secrets.token_bytes(32)) if redacted else None
        self._server = server
        self._metrics = metrics
        self._log = log
        self._wall = wall
        self._waiting: deque[RecordedRequest] = deque()
        self._num_waiting_bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self._descriptor: int | None = None
        self._num_written = 0
        self._num_files = 0
        self._thread = threading.Thread(target=self._run, name="semanticd-traces", daemon=True)
        self._thread.start()

    def record(self, request: RecordedRequest) -> None:
        """Queue a request; it is left out and counted where too much waits already."""
        with self._changed:
            if self._closed or self._num_waiting_bytes + len(request.body) > _WAITING_BYTES:
                self._metrics.count("trace_dropped_requests_total", reason="queue")
                return
            self._waiting.append(request)
            self._num_waiting_bytes += len(request.body)
            self._changed.notify_all()

    def close(self) -> None:
        """Flush the queue, then stop. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    # The thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    break
                request = self._waiting.popleft()
                self._num_waiting_bytes -= len(request.body)
            try:
                self._write(request)
            except Exception as error:  # noqa: BLE001 (a trace that cannot be written fails no request)
                self._metrics.count("trace_dropped_requests_total", reason="error")
                self._log.warning("trace_write_failed", folder=str(self._folder), error=repr(error))
                self._end_file()
        self._end_file()

    def _write(self, request: RecordedRequest) -> None:
        line = _line(self._as_row(request))
        if len(line) > self._max_bytes // 2:
            self._metrics.count("trace_dropped_requests_total", reason="size")
            return
        rotate_at = self._max_bytes // _FILES_PER_FOLDER
        if self._descriptor is not None and self._num_written + len(line) > rotate_at:
            self._end_file()
        if self._descriptor is None:
            self._begin_file()
        self._make_room(len(line))
        assert self._descriptor is not None
        _write_all(self._descriptor, line)
        self._num_written += len(line)

    def _begin_file(self) -> None:
        began = self._wall()
        day = time.strftime("%Y%m%dT%H%M%S", time.gmtime(began))
        while self._descriptor is None:
            self._num_files += 1
            path = self._folder / f"semanticd-{day}-{os.getpid()}-{self._num_files:04}{SUFFIX}"
            with contextlib.suppress(FileExistsError):
                self._descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        head = {
            "trace": FORMAT,
            "server": self._server,
            "began_at": round(began, 3),
            "content": "full" if self._redaction is None else "hashed",
        }
        line = _line(head)
        _write_all(self._descriptor, line)
        self._num_written = len(line)

    def _end_file(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _make_room(self, num_bytes: int) -> None:
        """Remove the oldest files, except the one being written, until this number of bytes fits below the cap."""
        files = sorted(self._folder.glob(f"semanticd-*{SUFFIX}"), key=lambda path: path.name)
        sizes = {path: path.lstat().st_size for path in files}
        used = sum(sizes.values())
        for path in files[:-1]:
            if used + num_bytes <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            used -= sizes[path]

    def _as_row(self, request: RecordedRequest) -> dict[str, Any]:
        hide = self._redaction
        row: dict[str, Any] = {
            "id": request.request_id,
            "at": round(request.began_at, 3),
            "dialect": request.dialect,
            "path": request.path,
        }
        if request.query:
            row["query"] = request.query
        row["headers"] = dict(request.headers)
        if request.agent_id is not None:
            row["agent"] = request.agent_id
        if hide is None:
            row["body"] = _parsed(request.body)
        else:
            if request.query:
                row["query"] = "&".join(
                    part if part in _KEPT_QUERIES else hide.name(part) for part in request.query.split("&")
                )
            row["headers"] = {
                name: hide.name(value) if name.endswith(_NAMING_HEADERS) else value
                for name, value in request.headers.items()
            }
            row["agent"] = None if request.agent_id is None else hide.name(request.agent_id)
            row["path"] = _path_without_id(request.path, hide)
            row["body"] = hide.body(request.body)
        row["answer"] = _answer(request)
        return row


def _path_without_id(path: str, hide: Redaction) -> str:
    """Return a path with an agent's id in it hidden, whether or not the agent was known."""
    if not path.startswith(_AGENTS):
        return path
    agent_id, *rest = path[len(_AGENTS) :].split("/")
    return _AGENTS + "/".join([hide.name(agent_id), *rest])


def _answer(request: RecordedRequest) -> dict[str, Any]:
    answer: dict[str, Any] = {"status": request.status, "seconds": round(request.seconds, 4)}
    if request.first_s is not None:
        answer["first_s"] = round(request.first_s, 4)
    if request.usages:
        answer["usage"] = _usage(request.usages)
    causes = [usage.cache.miss for usage in request.usages if usage.cache.miss is not None]
    if causes:
        # The texts on both sides of a miss are content: they can be found again by a replay.
        answer["miss"] = {"cause": causes[0].cause, "position": causes[0].position}
    return answer


def _usage(usages: tuple[Usage, ...]) -> dict[str, int]:
    caches = [usage.cache for usage in usages]
    return {
        "prompt_tokens": sum(usage.prompt_tokens for usage in usages),
        "reused_hot_tokens": sum(cache.reused_hot_tokens for cache in caches),
        "restored_warm_tokens": sum(cache.restored_warm_tokens for cache in caches),
        "computed_tokens": sum(cache.computed_tokens for cache in caches),
        "completion_tokens": sum(usage.completion_tokens for usage in usages),
    }


def _parsed(raw: bytes) -> Any:
    try:
        return parse_json_text(raw)
    except ValueError:
        return raw.decode("utf-8", "replace")


def _line(row: dict[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"


def _write_all(descriptor: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
