"""ControlServer: the Unix socket in its private folder, and the clients on it.

Rule: only this user gets in. The folder is 0700 and this user's, the socket 0600, and the kernel is asked for
each peer's user id. While the daemon lives, its socket is at its path: one that was removed is made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from semanticd.adapters.control.connection import Connection, ControlLimits, Identity
from semanticd.adapters.control.services import Services
from semanticd.adapters.control.snapshots import publish_snapshots
from semanticd.application.ports.telemetry import Log, Metrics
from semanticd.control import messages as m
from semanticd.control.address import MAX_SOCKET_PATH_BYTES, SOCKET_NAME
from semanticd.control.framing import frame
from semanticd.control.peer import HasDescriptor, peer_uid
from semanticd.control.private_files import prepare_runtime_folder
from semanticd.domain.errors import DaemonError

_OURS = (SOCKET_NAME, "semanticd.pid")
_CLOSE_GRACE_S = 2.0
_PROBE_TIMEOUT_S = 2.0
_LOOK_EVERY_S = 2.0
"""Interval of looking whether the socket is still there, which a cleaner of temporary files may have removed."""


class ControlServer:
    """Listens for control clients; one per daemon, on the event loop's thread."""

    def __init__(
        self,
        *,
        path: Path,
        services: Services,
        identity: Identity,
        log: Log,
        limits: ControlLimits | None = None,
        uid_of: Callable[[HasDescriptor], int] = peer_uid,
        metrics: Metrics | None = None,
    ) -> None:
        """`uid_of` returns the user at the other end of a connection."""
        self.path = path
        self._services = services
        self._identity = identity
        self._log = log
        self._limits = limits or ControlLimits()
        self._uid_of = uid_of
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self._inode: int | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._snapshots: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def num_clients(self) -> int:
        """Connected clients."""
        return len(self._clients)

    async def start(self) -> None:
        """Listen.

        Raises:
            DaemonError: The folder is unfit, or another daemon is listening there.
        """
        await self._listen()
        self._keeping = asyncio.create_task(self._keep_listening())
        self._snapshots = asyncio.create_task(
            publish_snapshots(self._services, interval_s=self._limits.snapshot_interval_s, log=self._log)
        )

    async def _listen(self) -> None:
        """Listen at the path, in place of the socket that was there before; clients that are connected stay."""
        prepare_folder(self.path.parent)
        await asyncio.to_thread(remove_stale_socket, self.path)
        listener = _bind(self.path)
        self._inode = self.path.stat().st_ino
        before = self._server
        self._server = await asyncio.start_unix_server(self._accept, sock=listener)
        if before is not None:
            before.close()

    async def _keep_listening(self) -> None:
        """Make the socket again whenever it is gone; what lies there instead and is in use stays."""
        failure = ""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if self._is_there():
                continue
            try:
                await self._listen()
            except (OSError, DaemonError) as error:
                if failure != str(error):
                    failure = str(error)
                    self._log.error("control_socket_lost", reason=failure)
            else:
                failure = ""
                self._log.warning("control_socket_made_anew", path=str(self.path))

    def _is_there(self) -> bool:
        # The number is given to no other file as long as we listen.
        try:
            return self.path.lstat().st_ino == self._inode
        except OSError:
            return False

    async def close(self) -> None:
        """Take no new clients, let running commands answer for a moment, close all connections. Idempotent."""
        if self._server is None:
            return
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        self._server.close()
        self._server = None
        self._remove_socket()
        if self._background:
            await asyncio.wait(self._background, timeout=_CLOSE_GRACE_S)
        tasks = [*self._background, *self._clients, *([self._snapshots] if self._snapshots else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _remove_socket(self) -> None:
        # Only our own: another daemon may have bound the name since. One that cannot be removed is stale, as after a
        # crash, and the next daemon removes it.
        with contextlib.suppress(OSError):
            if self._is_there():
                self.path.unlink()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        self._count_clients()
        try:
            if (refusal := self._refusal(writer)) is not None:
                await _turn_away(writer, refusal)
                return
            connection = self._connections[task] = Connection(
                reader,
                writer,
                services=self._services,
                identity=self._identity,
                limits=self._limits,
                log=self._log,
                background=self._background,
            )
            await connection.serve()
        except asyncio.CancelledError:
            # Ends quietly: asyncio would otherwise report the cancellation that `close` asked for.
            writer.close()
        finally:
            self._clients.discard(task)
            self._connections.pop(task, None)
            self._count_clients()

    def _count_clients(self) -> None:
        if self._metrics is not None:
            self._metrics.gauge("control_clients", len(self._clients))

    def _refusal(self, writer: asyncio.StreamWriter) -> m.ErrorInfo | None:
        try:
            uid = self._uid_of(writer.get_extra_info("socket"))
        except OSError as error:
            self._log.warning("control_peer_unknown", error=str(error))
            return m.ErrorInfo(m.NOT_ALLOWED, f"cannot determine the user id of the client: {error}")
        if uid != os.getuid():
            self._log.warning("control_peer_refused", uid=uid)
            return m.ErrorInfo(m.NOT_ALLOWED, f"this daemon belongs to user {os.getuid()}, not to {uid}")
        if len(self._connections) >= self._limits.max_clients and not self._one_leaves():
            return m.ErrorInfo(
                m.TOO_MANY_CLIENTS,
                f"{self._limits.max_clients} clients are connected already, and each waits for something",
            )
        return None

    def _one_leaves(self) -> bool:
        """Disconnect the least important client; returns False if all clients wait for something."""
        idle = {task: one.worth for task, one in self._connections.items() if not one.is_busy}
        if not idle:
            return False
        connection = self._connections.pop(min(idle, key=idle.__getitem__))
        self._log.info("control_client_dropped", num_clients=self._limits.max_clients)
        connection.make_room(
            m.ErrorInfo(
                m.TOO_MANY_CLIENTS,
                "closed to make room for another client: this one was idle for the longest time",
            )
        )
        return True


async def _turn_away(writer: asyncio.StreamWriter, error: m.ErrorInfo) -> None:
    with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
        writer.write(frame(m.encode(m.Reply(None, error=error))))
        await asyncio.wait_for(writer.drain(), _PROBE_TIMEOUT_S)
    writer.close()


def prepare_folder(folder: Path) -> None:
    """Make the runtime folder this user's own, closed to others.

    Raises:
        DaemonError: The folder cannot be made, or other users can open it.
    """
    try:
        prepare_runtime_folder(folder, ours=_OURS)
    except OSError as error:
        raise DaemonError(
            f"cannot use the runtime folder {folder}: {error.strerror or error}; "
            "set SEMANTIC_RUNTIME_DIR to a folder of your own"
        ) from error


def remove_stale_socket(path: Path) -> None:
    """Remove a socket that no process listens on.

    Raises:
        DaemonError: A daemon or another program is listening on the socket, or the path is not a socket.
    """
    try:
        info = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(info.st_mode):
        raise DaemonError(f"cannot listen on {path}: there is a file that is not a socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise DaemonError(f"cannot determine whether a daemon is listening on {path}: {error}") from error
    raise DaemonError(
        f"a daemon, or another program, is listening on {path} already; `semanticd status` says which"
    )


def _bind(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise DaemonError(
            f"cannot listen on {path}: the path is longer than {MAX_SOCKET_PATH_BYTES} bytes, which is what Unix "
            "sockets allow; set SEMANTIC_RUNTIME_DIR to a shorter folder"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise DaemonError(f"cannot listen on the control socket {path}: {error.strerror or error}") from error
    return listener
