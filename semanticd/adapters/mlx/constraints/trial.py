"""Tries a grammar in a process of its own, which can be ended: the grammar engine cannot be interrupted.

A few hundred bytes (fifteen patterns under `allOf`) make the engine work for hours, or take megabytes for as long as
the form is kept: the process says how many. Plain schemas compile in time and memory that grow with their size and are
not tried. The process is started for the first form that needs it, and kept.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semanticd.domain.errors import RestartNeededError
from semanticd.domain.limits import LIMITS

PROGRAM = Path(__file__).with_name("trial_process.py")
_STARTING_S = 10.0
"""Maximum start time of the process."""
_MAX_REASON_BYTES = 1 << 20
_SIZE = 8
"""Bytes of an answer before the reason: what the form takes."""

_PLAIN = frozenset(
    (
        *("type", "properties", "required", "items", "enum", "const", "anyOf", "additionalProperties"),
        *(
            "$ref",
            "$defs",
            "definitions",
            "minItems",
            "maxItems",
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
        ),
        *(
            "title",
            "description",
            "default",
            "examples",
            "example",
            "$schema",
            "$id",
            "$comment",
            "deprecated",
        ),
        *("nullable", "readOnly", "writeOnly", "x-guidance", "propertyNames", "strict"),
    )
)
"""Words of a schema that compile in time that grows with its size."""
_NAMED = ("properties", "$defs", "definitions")
_DATA = ("enum", "const", "default", "examples", "example", "required", "x-guidance")


class TooComplexError(Exception):
    """The form could not be compiled within the limits."""


def is_plain(schema: Any) -> bool:
    """Return whether a schema has only keywords of known cost."""
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        elif isinstance(part, Mapping):
            if not _PLAIN.issuperset(part):
                return False
            for key, value in part.items():
                if key in _NAMED and isinstance(value, Mapping):
                    left += value.values()
                elif key not in _DATA:
                    left.append(value)
    return True


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of a trial compilation."""

    refusal: str
    """Reason why the grammar does not compile; empty: it compiles."""
    num_bytes: int
    """Memory that the compiled form takes; 0 where the system does not say."""


class TrialProcess:
    """One process that compiles one grammar at a time; callable from any thread."""

    def __init__(
        self, *, timeout_s: float = LIMITS.form_compile_s, max_bytes: int = LIMITS.form_compile_bytes
    ) -> None:
        """Give each grammar `timeout_s` seconds and `max_bytes` of address space; nothing is started yet."""
        self._timeout_s, self._max_bytes = timeout_s, max_bytes
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., Any] | None = None

    def attempt(self, grammar: str) -> Trial:
        """Compile the grammar there; returns whether that works and what it takes.

        Raises:
            TooComplexError: it took too long or too much memory; the process was ended.
            RestartNeededError: the process's program is gone.
        """
        content = grammar.encode()
        with self._lock:
            try:
                child = self._child or self._start()
                deadline = time.monotonic() + self._timeout_s
                answer = _ask(child, content, deadline)
                return Trial(answer[_SIZE:].decode("utf-8", "replace"), int.from_bytes(answer[:_SIZE], "big"))
            except (OSError, EOFError, TimeoutError):
                self.close()
                if not PROGRAM.is_file():
                    raise RestartNeededError(
                        "what tries schemas is gone: restart the daemon, its files changed since it started "
                        "(`semanticd restart`)"
                    ) from None
                raise TooComplexError from None

    def close(self) -> None:
        """End the process, if there is one."""
        self._child, end, self._end = None, self._end, None
        if end is not None:
            end()

    def _start(self) -> subprocess.Popen[bytes]:
        # Settings of the daemon, keys among them, must not reach the child.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SEMANTIC_")}
        child = self._child = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(self._max_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            # A key press that interrupts the daemon is not for it: it ends with its standard input.
            start_new_session=True,
        )
        self._end = weakref.finalize(self, _end, child)
        _receive(child, time.monotonic() + _STARTING_S)
        return child


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    child.wait()


def _ask(child: subprocess.Popen[bytes], content: bytes, deadline: float) -> bytes:
    assert child.stdin is not None
    child.stdin.write(struct.pack(">I", len(content)) + content)
    child.stdin.flush()
    return _receive(child, deadline)


def _receive(child: subprocess.Popen[bytes], deadline: float) -> bytes:
    size: int = struct.unpack(">I", _read(child, 4, deadline))[0]
    if size > _MAX_REASON_BYTES:
        raise EOFError
    return _read(child, size, deadline)


def _read(child: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    content = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while len(content) < size:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            part = os.read(descriptor, size - len(content))
            if not part:
                raise EOFError
            content += part
    return content
