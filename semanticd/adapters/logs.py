"""The daemon's log: structured lines in a rotating file, on stderr if wanted, and on the control topic `log`.

Rule: a message is a constant string with variable fields. Messages of libraries in this process (uvicorn, the hub's
client) go to the same files, but a repeated warning is written once a second: a client could fill the log with them.
A log that cannot be written stops nothing.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Protocol

import structlog

from semanticd.control.private_files import open_private, prepare_private_folder
from semanticd.control.terminal_text import many_lines, one_line
from semanticd.domain.errors import DaemonError, InvalidRequestError
from semanticd.domain.packed_lines import PackedLines

LOG_FILE = "semanticd.log"
_LOG_FILES = ("semanticd.",)
_OURS = "semanticd"
_FOREIGN_EVERY_S = 1.0
"""Of one warning of another library, one line in this time is written, with how many were left out."""
_MAX_FOREIGN = 256
"""Different warnings of other libraries that are tracked; at the limit the counts start again."""
LEVELS = ("debug", "info", "warning", "error")
_SECRETS = ("api_key", "admin_key", "authorization", "x_api_key", "x_admin_key", "token", "password")
_LEVEL_NUMBERS = {level: getattr(logging, level.upper()) for level in LEVELS}


class Publishes(Protocol):
    """Destination of log lines in addition to files: the control plane's event hub."""

    def publish(self, topic: str, data: Mapping[str, object]) -> None:
        """Hand an event to the topic's subscribers."""

    def wanted(self, topic: str) -> bool:
        """Return whether a topic has a subscriber."""


@dataclass(frozen=True, slots=True)
class LevelChange:
    """The level from which the log is written now, and the one before."""

    level: str
    previous: str


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Logging options; no file if `folder` is None. Keeps `num_kept` rotated files of `max_bytes` each."""

    level: str = "info"
    format: str = "json"
    folder: Path | None = None
    console: bool = True
    max_bytes: int = 10 * 1024 * 1024
    num_kept: int = 5
    num_recent: int = 2000


def log_context(**fields: str) -> contextlib.AbstractContextManager[None]:
    """Add these fields to every line that is logged inside, in this task and the tasks that it starts."""
    return structlog.contextvars.bound_contextvars(**fields)


class Logs:
    """The process's log while it is open; `close` restores the previous state."""

    def __init__(
        self,
        options: LogOptions,
        *,
        bus: Publishes | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the file and take over the process's logging.

        Raises:
            DaemonError: The folder or file cannot be written.
        """
        self.file = options.folder / LOG_FILE if options.folder is not None else None
        self.level = options.level
        self._recent = _RecentLines(options.num_recent, bus)
        self._handlers: list[logging.Handler] = [self._recent]
        if self.file is not None:
            self._handlers.append(_open(self.file, options))
        if options.console:
            stream = logging.StreamHandler(sys.stderr)
            pretty = options.format == "console" or sys.stderr.isatty()
            stream.setFormatter(_formatter("console" if pretty else "json", colors=sys.stderr.isatty()))
            self._handlers.append(stream)
        repeated = _ForeignRepeats(monotonic)
        for handler in self._handlers:
            handler.addFilter(repeated)
        self._before = (logging.root.handlers[:], logging.root.level, logging.raiseExceptions)
        logging.root.handlers = self._handlers
        logging.raiseExceptions = False  # a full disk must not fill stderr with tracebacks
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                *_PROCESSORS,
                structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=False,
        )
        self._apply(options.level)

    def get(self, name: str = "semanticd") -> Any:
        """Return a logger that fits the application's `Log` port."""
        return structlog.get_logger(name)

    def recent(self) -> list[dict[str, Any]]:
        """Return the last lines, oldest first, as the topic `log` carries them."""
        return self._recent.lines()

    async def set_level(self, level: str) -> LevelChange:
        """Log from this level on.

        Raises:
            InvalidRequestError: There is no such level.
        """
        if level not in LEVELS:
            raise InvalidRequestError(f"log level {level!r} is not one of {', '.join(LEVELS)}", param="level")
        previous, self.level = self.level, level
        self._apply(level)
        return LevelChange(level, previous)

    def _apply(self, level: str) -> None:
        logging.getLogger("semanticd").setLevel(_LEVEL_NUMBERS[level])
        # Info lines of libraries are noise except during debugging.
        logging.root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)

    def close(self) -> None:
        """Close the file and restore the previous logging. Idempotent."""
        if logging.root.handlers is self._handlers:
            logging.root.handlers, level, logging.raiseExceptions = self._before
            logging.root.setLevel(level)
            structlog.reset_defaults()
        for handler in self._handlers:
            with contextlib.suppress(OSError):  # what was not written yet, on a full disk
                handler.close()


class _PrivateFileHandler(RotatingFileHandler):
    """A rotating file that only this user can read, also right after it has rotated."""

    def _open(self) -> io.TextIOWrapper:
        """Open the file; the handler calls this at its start and after each rotation."""
        descriptor = open_private(Path(self.baseFilename), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        return os.fdopen(descriptor, "a", encoding=self.encoding, errors=self.errors)


def _open(file: Path, options: LogOptions) -> logging.Handler:
    try:
        prepare_private_folder(file.parent, ours=_LOG_FILES)
        for older in file.parent.glob(f"{LOG_FILE}.*"):
            # Lines of before this rule; opening closes them to others.
            os.close(open_private(older, os.O_RDONLY))
        handler = _PrivateFileHandler(
            file, maxBytes=options.max_bytes, backupCount=options.num_kept, encoding="utf-8"
        )
    except OSError as error:
        raise DaemonError(
            f"cannot write the log {file}: {error.strerror or error}; "
            "set SEMANTIC_LOG_DIR to a folder that can be written"
        ) from error
    handler.setFormatter(_formatter(options.format, colors=False))
    return handler


def _mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask keys in log fields, whichever code passes them."""
    for name in event:
        if name.lower().replace("-", "_") in _SECRETS:
            event[name] = "********"
    return event


def _made_safe(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Let no field steer the terminal that shows the line, nor look like a line of its own."""
    for name, value in event.items():
        event[name] = many_lines(value) if name in _OF_MANY_LINES else one_line(value)
    return event


_OF_MANY_LINES = ("exception", "stack")
_PROCESSORS: list[Any] = [
    structlog.contextvars.merge_contextvars,  # request ids
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.stdlib.ExtraAdder(),
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.StackInfoRenderer(),
    _mask,
]


def _formatter(form: str, *, colors: bool) -> logging.Formatter:
    render: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if form == "console":
        plain = structlog.dev.plain_traceback
        render += [
            structlog.processors.format_exc_info,
            _made_safe,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain),
        ]
    else:
        render += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_PROCESSORS, processors=render)


class _ForeignRepeats(logging.Filter):
    """Lets one of the same warnings of another library pass in a while; one for all handlers.

    A library writes the same constant message for each bad request of a client, however many there are. Errors that
    come with different exceptions are different lines.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._written_at: dict[tuple[str, str, type[BaseException] | None], float] = {}
        self._left_out: dict[tuple[str, str, type[BaseException] | None], int] = {}
        self._thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide on a line once; the handlers ask one after the other."""
        if record.levelno < logging.WARNING or record.name.partition(".")[0] == _OURS:
            return True
        if getattr(self._thread, "record", None) is not record:
            self._thread.record = record
            self._thread.passes = self._passes(record)
        return bool(self._thread.passes)

    def _passes(self, record: logging.LogRecord) -> bool:
        line = (record.name, str(record.msg), record.exc_info[0] if record.exc_info else None)
        now = self._monotonic()
        with self._lock:
            if now - self._written_at.get(line, now - _FOREIGN_EVERY_S) < _FOREIGN_EVERY_S:
                self._left_out[line] = self._left_out.get(line, 0) + 1
                return False
            if len(self._written_at) >= _MAX_FOREIGN:
                self._written_at.clear()
                self._left_out.clear()
            self._written_at[line] = now
            if num_left_out := self._left_out.pop(line, 0):
                record.num_left_out = num_left_out
        return True


class _RecentLines(logging.Handler):
    """Keeps the last lines in memory and publishes each while there is a subscriber."""

    def __init__(self, num_lines: int, bus: Publishes | None) -> None:
        super().__init__()
        self._lines = PackedLines(num_lines)
        self._bus = bus

    def lines(self) -> list[dict[str, Any]]:
        self.acquire()
        try:
            packed = list(self._lines)
        finally:
            self.release()
        return [json.loads(line) for line in packed]

    def emit(self, record: logging.LogRecord) -> None:
        line = _line(record)
        try:
            self._lines.add(json.dumps(line).encode())
        except ValueError:  # a number with more digits than Python writes
            self.handleError(record)
        if self._bus is not None and self._bus.wanted("log"):
            self._bus.publish("log", line)


def _line(record: logging.LogRecord) -> dict[str, Any]:
    """Return the line as `control.results.LogEvent`: plain values only."""
    if isinstance(record.msg, dict):
        fields = dict(record.msg)
    else:
        # A library's line, written while we served a request: the request's ids are its fields too.
        fields = {**structlog.contextvars.get_contextvars(), "event": record.getMessage()}
        if hasattr(record, "num_left_out"):
            fields["num_left_out"] = record.num_left_out
    known = {name: fields.pop(name, None) for name in ("timestamp", "level", "event", "logger")}
    if record.exc_info and record.exc_info[1] is not None:
        fields["exception"] = repr(record.exc_info[1])
    return {
        "timestamp": known["timestamp"]
        or time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
        "level": known["level"] or record.levelname.lower(),
        "logger": known["logger"] or record.name,
        "event": str(known["event"]),
        "fields": {
            name: _plain(value)
            for name, value in fields.items()
            if not name.startswith("_") and name != "exc_info"
        },
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
