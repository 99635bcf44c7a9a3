"""One thread that does all writing, in the order it was asked for.

Order is what makes the store simple: a parent queued before its child is durable before it, an agent's record
never names blocks that were queued before it and are not yet there.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from semanticd.application.ports.telemetry import Log

_T = TypeVar("_T")


class WriteQueue:
    """Runs jobs one by one on its own thread; a failing job is logged and does not stop the next."""

    def __init__(self, *, log: Log, on_idle: Callable[[], None] | None = None, idle_s: float = 2.0) -> None:
        """Start the thread; `on_idle` is called on it when a while passed without a job."""
        self._log = log
        self._on_idle = on_idle
        self._idle_s = idle_s
        self._jobs: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="semanticd-warm-writer", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        with self._changed:
            return len(self._jobs) + self._busy

    def put(self, job: Callable[[], None]) -> bool:
        """Queue a job; returns False if the queue is closed. The caller bounds the memory that jobs hold."""
        with self._changed:
            if self._closed:
                return False
            self._jobs.append(job)
            self._changed.notify_all()
            return True

    def ask(self, job: Callable[[], _T], *, otherwise: _T) -> Future[_T]:
        """Queue a job; the future gets its result, `otherwise` where it raises or the queue is closed."""
        answer: Future[_T] = Future()
        answer.set_running_or_notify_cancel()  # it cannot be cancelled

        def run() -> None:
            result = otherwise
            try:
                result = job()
            finally:
                answer.set_result(result)

        if not self.put(run):
            answer.set_result(otherwise)
        return answer

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything queued before this call has run; False when the time ran out."""
        done = threading.Event()
        if not self.put(done.set):
            return True
        return done.wait(timeout_s)

    def close(self) -> None:
        """Run the queued jobs, then stop. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._jobs and not self._closed:
                    self._changed.wait(self._idle_s)
                if not self._jobs and self._closed:
                    return
                job = self._jobs.popleft() if self._jobs else self._on_idle
                self._busy = True
            try:
                if job is not None:
                    job()
            except Exception as error:  # noqa: BLE001 (this thread must live on)
                self._log.error("warm_write_failed", error=repr(error))
            with self._changed:
                self._busy = False
            del job  # lets go of the block's bytes while the thread waits
