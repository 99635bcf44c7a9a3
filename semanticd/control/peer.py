"""The user and the process at the other end of a Unix socket: only the platform-dependent part."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from typing import Protocol

_CREDENTIALS = struct.Struct("iII")
"""Linux's `struct ucred`: pid, uid, gid."""
_SOL_LOCAL, _LOCAL_PEERPID = 0, 2
"""Of macOS's `sys/un.h`; Python has no names for them."""


class HasDescriptor(Protocol):
    """A connected socket, or asyncio's stand-in for one."""

    def fileno(self) -> int:
        """Its file descriptor."""

    def getsockopt(self, level: int, name: int, size: int, /) -> bytes:
        """One of its options."""


def peer_uid(connection: HasDescriptor) -> int:
    """Return the user id of the process that connected.

    Raises:
        OSError: The system does not report it.
    """
    if sys.platform == "linux":
        return int(_credentials(connection, socket.SO_PEERCRED)[1])
    return _getpeereid(connection.fileno())


def peer_pid(connection: HasDescriptor) -> int | None:
    """Return the process that listens, or connected, at the other end; None where it is in a container of its own.

    It says so whether or not that process answers.

    Raises:
        OSError: The system does not report it.
    """
    if sys.platform == "linux":
        return int(_credentials(connection, socket.SO_PEERCRED)[0]) or None
    size = struct.calcsize("i")
    return int(struct.unpack("i", connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, size))[0]) or None


def _credentials(connection: HasDescriptor, option: int) -> tuple[int, int, int]:
    raw = connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return pid, uid, gid


def _getpeereid(descriptor: int) -> int:
    """Ask `int getpeereid(int, uid_t *, gid_t *)`, as macOS and the BSDs have it over LOCAL_PEERCRED."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = ctypes.c_uint32(), ctypes.c_uint32()
    if libc.getpeereid(ctypes.c_int(descriptor), ctypes.byref(uid), ctypes.byref(gid)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return uid.value
