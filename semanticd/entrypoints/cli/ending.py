"""Ending the daemon: asked over its socket, else by a signal; says how many requests are left while it waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from semanticd.control.errors import ControlError
from semanticd.control.results import CacheStats, DrainResult, StatusResult, read
from semanticd.domain.errors import DaemonError
from semanticd.entrypoints.cli.daemon_link import connect, is_socket, socket_path
from semanticd.entrypoints.cli.output import narrate
from semanticd.entrypoints.cli.progress import Progress
from semanticd.entrypoints.cli.status import unsaved_text

_POLL_S = 0.05
_LOOK_EVERY_S = 1.0
ANSWER_WITHIN_S = 10.0
PERSIST_S = 90.0
"""Longer than the daemon lets its own ending take."""
NOW_S = 10.0


def stop_daemon(*, timeout_s: float | None, now: bool) -> bool:
    """End the daemon and wait until its process is gone; returns whether there was one.

    Raises:
        DaemonError: It did not end in time, or nothing names its process.
    """
    from semanticd.adapters.process import kill
    from semanticd.entrypoints.cli.running import find_daemon

    daemon = find_daemon(socket_path())
    if daemon is None:
        return False
    pid = daemon.pid
    patience_s = NOW_S if now else PERSIST_S
    drain_s: float | None = None
    answer = _ask_to_stop(pid, timeout_s=timeout_s, now=now)
    if answer is None:
        narrate(
            f"the daemon (pid {pid}) does not answer on its socket{_condition(pid)}; SIGTERM was sent"
            + (
                ""
                if now
                else f"; waiting up to {patience_s:.0f} s, `semanticd stop --now` kills it after {NOW_S:.0f} s"
            )
        )
    elif not now:
        drain_s = timeout_s if timeout_s is not None else _drain_timeout_s()
        patience_s += drain_s
        _say_what_is_left(read(DrainResult, answer).num_requests, drain_s)
    if (unsaved := unsaved_text(read(CacheStats, answer or {}))) is not None:
        narrate(f"not stored: {unsaved}; they are written once more now, and lost if the disk refuses again")
    began = time.monotonic()
    deadline = began + patience_s
    drained = began + drain_s if drain_s is not None else None
    with _watching(drained=drained) as look:
        while daemon.is_alive():
            if time.monotonic() > deadline:
                if not now:
                    raise DaemonError(
                        f"the daemon (pid {pid}) has not ended after {patience_s:.0f} s{_condition(pid)}; "
                        "`semanticd stop --now` ends it, `semanticd logs` shows its last actions"
                    )
                narrate(f"the daemon (pid {pid}) has not ended after {patience_s:.0f} s; killing it")
                kill(pid)
                deadline = time.monotonic() + patience_s
            look(deadline - time.monotonic())
            time.sleep(_POLL_S)
    narrate(f"stopped (pid {pid})")
    return True


def _say_what_is_left(num_requests: int, drain_s: float) -> None:
    if num_requests:
        narrate(
            f"waiting up to {drain_s:g} s for {num_requests} running request{'s' if num_requests > 1 else ''}; "
            "`semanticd stop --now` cancels them"
        )


@contextmanager
def _watching(*, drained: float | None) -> Iterator[Any]:
    """Give a function that shows, once a second, how many requests are left and for how long we wait at most.

    Requests may run until `drained` on the monotonic clock; None: the daemon does not answer, or does not let them.
    """
    progress = Progress()
    last = [time.monotonic()]

    def look(left_s: float) -> None:
        if time.monotonic() - last[0] < _LOOK_EVERY_S:
            return
        last[0] = time.monotonic()
        num = None if drained is None else _num_requests()
        what = what_is_awaited(num, answered=drained is not None)
        if num and drained is not None and drained > last[0]:
            left_s = drained - last[0]
        progress.line(f"{what}, {left_s:.0f} s at most", what)

    try:
        yield look
    finally:
        progress.end()


def what_is_awaited(num_requests: int | None, *, answered: bool) -> str:
    """Return what a daemon that ends still does: its requests (None: it did not say), else its writing."""
    if not answered:
        return "still running"
    if not num_requests:
        return "writing the cache"
    return f"{num_requests} request{'s' if num_requests > 1 else ''} left"


def _num_requests() -> int | None:
    try:
        with connect(timeout_s=_LOOK_EVERY_S) as client:
            engine = read(StatusResult, client.call("status", reply_within_s=_LOOK_EVERY_S)).engine
            return engine.num_running + engine.num_waiting
    except ControlError:
        return None


def _ask_to_stop(pid: int, *, timeout_s: float | None, now: bool) -> dict[str, Any] | None:
    """Ask over the socket, else by signal; returns the socket's answer.

    None where a signal was sent, an empty answer where the process was gone.
    """
    if is_socket(socket_path()):
        try:
            with connect(timeout_s=ANSWER_WITHIN_S) as client:
                return client.call("shutdown", timeout_s=timeout_s, now=now, reply_within_s=ANSWER_WITHIN_S)
        except ControlError:
            pass
    from semanticd.adapters.process import terminate

    # It may have ended while it was asked: then there is nothing left to say to it.
    return None if terminate(pid) else {}


def _condition(pid: int) -> str:
    """Return what keeps a process from ending, as far as the system reports it, as a clause for a message."""
    import psutil

    try:
        state = psutil.Process(pid).status()
    except psutil.Error:
        return ""
    return {
        psutil.STATUS_STOPPED: f" (its process is suspended; `kill -CONT {pid}` resumes it)",
        psutil.STATUS_DISK_SLEEP: " (its process waits for a disk)",
    }.get(state, "")


def _drain_timeout_s() -> float:
    """Return how long the daemon lets requests run, as far as this shell's settings say."""
    from semanticd.entrypoints.cli.daemon_link import settings_or_defaults

    return settings_or_defaults().server.drain_timeout_s
