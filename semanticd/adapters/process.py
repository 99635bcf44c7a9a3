"""The daemon as a process: one at a time, in the background if wanted, known to its supervisor.

Rule: whether a daemon runs is decided by a lock that the kernel drops with its process, never by a pid alone, which
may by now belong to another process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from semanticd.control.address import APP, SOCKET_NAME
from semanticd.control.private_files import (
    UMASK,
    open_private,
    prepare_private_folder,
    prepare_runtime_folder,
)
from semanticd.domain.errors import DaemonError

PID_FILE = "semanticd.pid"
_BACKLOG = 512
_LOCK_ATTEMPTS = 5
_LOCK_PAUSE_S = 0.02
_NOTIFY_LIMIT_S = 1.0
"""A supervisor that does not read must not stop the event loop; a busy one must not miss that we are ready."""
_RUNTIME_FILES = (SOCKET_NAME, PID_FILE)
_LOG_FILES = ("semanticd.",)


def prepare_runtime_dir(folder: Path) -> None:
    """Make the runtime folder, or check that only this user can open it.

    Raises:
        DaemonError: The folder cannot be made, or is open to other users.
    """
    try:
        prepare_runtime_folder(folder, ours=_RUNTIME_FILES)
    except OSError as error:
        raise DaemonError(
            f"cannot use the runtime folder {folder}: {error.strerror or error}; "
            "set SEMANTIC_RUNTIME_DIR to a folder of your own"
        ) from error


@dataclass(slots=True)
class PidFile:
    """A locked file that holds this process's id for as long as the process lives."""

    path: Path
    _descriptor: int

    @classmethod
    def acquire(cls, path: Path) -> PidFile:
        """Take the lock and write our pid, in a folder that is this user's alone.

        Raises:
            DaemonError: Another daemon has the lock, others can reach the folder, or it cannot be written.
        """
        prepare_runtime_dir(path.parent)
        try:
            while True:
                descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
                try:
                    _lock(descriptor)
                except BlockingIOError:
                    pid = _read(descriptor)
                    os.close(descriptor)
                    raise DaemonError(
                        f"cannot start: a daemon is running already (pid {pid or 'unknown'}, lock {path}); "
                        "`semanticd status` shows it, `semanticd stop` ends it"
                    ) from None
                if _is_still_at(descriptor, path):
                    break
                os.close(descriptor)  # its last owner removed the file while we waited to lock it
            try:
                _write_pid(descriptor)
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            raise DaemonError(
                f"cannot write the pid file {path}: {error.strerror or error}; "
                "make room or set SEMANTIC_RUNTIME_DIR to a folder that can be written"
            ) from error
        return cls(path, descriptor)

    def release(self) -> None:
        """Remove the file and drop the lock. Idempotent."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            if _is_still_at(self._descriptor, self.path):
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = -1


def _write_pid(descriptor: int) -> None:
    """Write our pid into a file that we have locked.

    On a full disk the file stays empty: a record lock is put on it too, whose holder the system names (`_holder`).
    """
    text = f"{os.getpid()}\n".encode()
    try:
        os.pwrite(descriptor, text, 0)
        os.ftruncate(descriptor, len(text))
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        os.ftruncate(descriptor, 0)
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock(descriptor: int) -> None:
    """Take the lock; `running_pid` of another process may hold it for an instant, which is not a daemon."""
    attempts = 0
    while not _try_lock(descriptor):
        attempts += 1
        if attempts > _LOCK_ATTEMPTS:
            raise BlockingIOError
        time.sleep(_LOCK_PAUSE_S)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def running_pid(path: Path) -> int | None:
    """Return the pid of the daemon that holds the lock; None if no process does, even if the file names one.

    None too if the file was overwritten with something else than a pid: see `is_locked`. Another user's file, or
    a link, says nothing: what it names may be sent a signal.
    """
    return _look(path)[1]


def is_locked(path: Path) -> bool:
    """Return whether a daemon holds the lock, whatever its file says."""
    return _look(path)[0]


def _look(path: Path) -> tuple[bool, int | None]:
    """Return whether the lock is held, and the pid in the file if it is."""
    try:
        descriptor = open_private(path, os.O_RDONLY)
    except OSError:
        return False, None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True, _read(descriptor)
    else:
        return False, None
    finally:
        os.close(descriptor)


def runs_daemon(pid: int) -> bool:
    """Return whether a process of this user's was started as `semanticd serve`, by its command line."""
    import psutil

    try:
        process = psutil.Process(pid)
        words = process.cmdline()
        return process.uids().effective == os.geteuid() and "serve" in words[_program_at(words) :]
    except psutil.Error:
        return False


def _program_at(words: Sequence[str]) -> int:
    """Return where `semanticd` stands in a command line: the script, or the module after Python's `-m`."""
    return next((at for at, word in enumerate(words) if Path(word).name == APP), len(words))


def _daemon_at(port: int) -> int | None:
    """Return the daemon of this user's, other than this process, that listens on a TCP port."""
    import psutil

    for process in psutil.process_iter():
        if process.pid == os.getpid() or not runs_daemon(process.pid):
            continue
        with contextlib.suppress(psutil.Error):
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN and one.laddr.port == port:
                    return process.pid
    return None


def _read(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    if not text:
        return _holder(descriptor)
    return int(text) if text.isdigit() else None


def _holder(descriptor: int) -> int | None:
    """Return the process that has a record lock on an open file; None: no process has."""
    # `struct flock`: (type, whence, start, length, pid), or (start, length, pid, type, whence) as on BSD.
    if sys.platform == "linux":
        names, form = ("type", "whence", "start", "length", "pid"), "hhqqi4x"
    else:
        names, form = ("start", "length", "pid", "type", "whence"), "qqihh"
    asked = {"type": fcntl.F_RDLCK, "whence": os.SEEK_SET, "start": 0, "length": 0, "pid": 0}
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(form, *(asked[name] for name in names)))
    except OSError:
        return None
    found = dict(zip(names, struct.unpack(form, answer), strict=True))
    return None if found["type"] == fcntl.F_UNLCK else found["pid"] or None


def _is_still_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def terminate(pid: int) -> bool:
    """Ask a process to end (SIGTERM); returns False if it is gone."""
    return _send(pid, signal.SIGTERM)


def kill(pid: int) -> bool:
    """End a process that does not listen any more; returns False if it is gone."""
    return _send(pid, signal.SIGKILL)


def _send(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def spawn_detached(
    command: Sequence[str], *, output: Path, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that it survives this terminal; what it prints goes to `output`.

    Raises:
        DaemonError: The output file or the program cannot be opened.
    """
    try:
        prepare_private_folder(output.parent, ours=_LOG_FILES)
        # Appending, so that two starts at once do not write over one another.
        with os.fdopen(open_private(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as stream:
            stream.truncate(0)
            return subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=None if environ is None else dict(environ),
                start_new_session=True,
                close_fds=True,
                umask=UMASK,
            )
    except OSError as error:
        raise DaemonError(
            f"cannot start the daemon with its output in {output}: {error.strerror or error}; "
            "make room or set SEMANTIC_LOG_DIR to a folder that can be written"
        ) from error


def bind_listener(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket, so that a taken port is found before a model is loaded; port 0: any free one.

    Raises:
        DaemonError: The address is not this machine's, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise DaemonError(f"cannot listen on {host}: no such address ({error.strerror})") from error
    listener = socket.socket(family, kind, protocol)
    try:
        # Lets a restart bind while the old daemon's connections still time out; a living listener still refuses us.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise DaemonError(f"cannot listen on {host}:{port}: {_why_not(error, port)}") from error
    return listener


def _why_not(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        other = f"choose another port (--port {port + 1 if port < 65535 else 0}, or SEMANTIC_SERVER_PORT)"
        if (pid := _daemon_at(port)) is not None:
            return (
                f"another semanticd (pid {pid}) listens there, with another SEMANTIC_RUNTIME_DIR or without its "
                f"files there; `kill {pid}` ends it, or {other}"
            )
        return f"another program listens there; stop it or {other}"
    if error.errno == errno.EACCES:
        return "this user may not; ports below 1024 are the system's, choose a higher one"
    return error.strerror or str(error)


# The supervisor's side of the story (systemd: sd_notify(3)); without one these do nothing.


def notify_supervisor(state: str, environ: Mapping[str, str] | None = None) -> bool:
    """Send the supervisor `READY=1`, `STOPPING=1`, `WATCHDOG=1` or `STATUS=…`; returns whether there is one."""
    address = (os.environ if environ is None else environ).get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as sender:
            sender.settimeout(_NOTIFY_LIMIT_S)
            sender.connect(address)
            sender.sendall(state.encode())
    except OSError:
        return False
    return True


def is_supervised(launchd_label: str, environ: Mapping[str, str] | None = None) -> bool:
    """Return whether systemd or launchd runs this process as a service and restarts it after a failure.

    systemd gives a service of `Type=notify` a socket. launchd gives a job its label (launchd.plist(5)); programs that
    are started from a terminal have `0` or the label of the terminal's application.
    """
    environ = os.environ if environ is None else environ
    return bool(environ.get("NOTIFY_SOCKET")) or environ.get("XPC_SERVICE_NAME") == launchd_label


def watchdog_interval_s(environ: Mapping[str, str] | None = None) -> float | None:
    """Return how often the supervisor wants `WATCHDOG=1`: half of its limit, in seconds; None if it does not ask."""
    environ = os.environ if environ is None else environ
    limit = environ.get("WATCHDOG_USEC", "")
    if not limit.isdigit() or int(limit) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(limit) / 2_000_000
