"""RankProcess: a rank's process, started again whenever it ends, until it is refused or closed.

A ring can be formed once in a process, and what waits for a machine that is gone cannot be called off: so a rank lives
as long as its ring. It ends with its link to the daemon, and with the pipe that it was started with.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any

EXIT_REFUSED = 4
"""Exit status of a rank's process that the daemon refused: it would be refused again after a restart."""
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.2, 5.0
_LASTED_S = 10.0
"""A process that lived so long is started again at once."""


class RankProcess:
    """One rank's process and the thread that watches it."""

    def __init__(
        self,
        command: Sequence[str],
        order: Any,
        *,
        monotonic: Callable[[], float],
        on_refused: Callable[[], None],
    ) -> None:
        """Run `command`, and hand it `order` over its standard input; `on_refused` takes the place of a new start."""
        self._command = list(command)
        # Between two processes of one program and one user, over a pipe that they alone have.
        self._order = pickle.dumps(order)
        self._monotonic = monotonic
        self._on_refused = on_refused
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, name="semanticd-rank-process", daemon=True)

    @property
    def pid(self) -> int | None:
        """The process's id; None: there is none at the moment."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the process, and watch it."""
        self._thread.start()

    def renew(self) -> None:
        """End the process, so that a new one is started."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process permanently: first by closing its pipe, which lets it write pending data."""
        self._closing.set()
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        if self._thread.is_alive():
            self._thread.join(timeout=30.0)
        if process is not None and process.poll() is None:
            process.kill()

    def wait(self) -> None:
        """Wait until no process is started any more."""
        self._thread.join()

    def _watch(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while not self._closing.is_set():
            began = self._monotonic()
            status = self._run()
            if status == EXIT_REFUSED:
                self._on_refused()
                return
            backoff_s = _FIRST_BACKOFF_S if self._monotonic() - began > _LASTED_S else backoff_s * 2
            self._closing.wait(min(backoff_s, _MAX_BACKOFF_S))

    def _run(self) -> int:
        """Run a process to its end; returns its exit status."""
        process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=os.environ
        )
        self._process = process
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.write(self._order)
            process.stdin.flush()
        if self._closing.is_set():
            process.kill()
        status = process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()
        return status
