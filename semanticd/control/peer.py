"""The user at the other end of a Unix socket: only the platform-dependent part."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from typing import Protocol


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
        credentials = struct.Struct("iII")  # struct ucred: pid, uid, gid
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
        return int(credentials.unpack(raw)[1])
    return _getpeereid(connection.fileno())


def _getpeereid(descriptor: int) -> int:
    """Ask `int getpeereid(int, uid_t *, gid_t *)`, as macOS and the BSDs have it over LOCAL_PEERCRED."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = ctypes.c_uint32(), ctypes.c_uint32()
    if libc.getpeereid(ctypes.c_int(descriptor), ctypes.byref(uid), ctypes.byref(gid)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return uid.value
