"""The running daemon as a process, found even if its pid file or its socket is gone.

Rule: a pid may be sent a signal, so it is not believed without evidence. It is the one in the pid file while a process
has that file's lock. Where the file was removed or overwritten, it is the process that listens on the control socket as
the kernel names it, if it is this user's, and if it says that it is a daemon or, where it hangs, was started as one.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil

from semanticd.adapters.process import PID_FILE, is_locked, running_pid, runs_daemon
from semanticd.control.address import APP
from semanticd.control.client import ControlClient, ControlError, listener_pid
from semanticd.domain.errors import DaemonError

_ANSWER_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """One daemon. Its pid file shows whether it still lives; None: the process itself, which began at `began_at`."""

    pid: int
    pid_file: Path | None
    began_at: float

    def is_alive(self) -> bool:
        """Return whether it has not ended, and no other process has its number."""
        if self.pid_file is not None:
            return running_pid(self.pid_file) == self.pid
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            return process.create_time() == self.began_at and process.status() != psutil.STATUS_ZOMBIE
        return False


def find_daemon(socket: Path) -> RunningDaemon | None:
    """Return the daemon whose control socket has this path; None if there is none.

    Raises:
        DaemonError: One has the lock, but neither its pid file nor its socket names it.
    """
    pid_file = socket.with_name(PID_FILE)
    named = running_pid(pid_file)
    listener = None
    with contextlib.suppress(ControlError):
        listener = listener_pid(socket)
    if listener is not None and listener != named and _is_daemon(listener, socket):
        with contextlib.suppress(psutil.Error):
            return RunningDaemon(listener, None, psutil.Process(listener).create_time())
    if named is not None:
        return RunningDaemon(named, pid_file, 0.0)
    if is_locked(pid_file):
        raise DaemonError(
            f"a daemon is running, but its pid is not in {pid_file} and it does not listen on {socket}; it makes a "
            "socket that was removed again within seconds: try again"
        )
    return None


def _is_daemon(pid: int, socket: Path) -> bool:
    """Ask what listens whether it is a daemon, else, where it hangs, the system for how it was started."""
    try:
        with ControlClient.connect(socket, name="semanticd-cli", timeout_s=_ANSWER_WITHIN_S) as client:
            return (client.daemon.server, client.daemon.pid) == (APP, pid)
    except ControlError:
        return runs_daemon(pid)
