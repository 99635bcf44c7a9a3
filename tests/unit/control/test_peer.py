"""Who is at the other end of a socket, on both kinds of platform."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from typing import Any

import pytest

from semanticd.control import peer


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's answer on Linux")
def test_linux_asks_the_kernel() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer.peer_uid(one) == os.getuid()


class FakeLibc:
    """`getpeereid` as macOS has it."""

    def __init__(self, uid: int, status: int) -> None:
        self.uid, self.status = uid, status

    def getpeereid(self, descriptor: Any, uid: Any, gid: Any) -> int:
        ctypes.cast(uid, ctypes.POINTER(ctypes.c_uint32)).contents.value = self.uid
        return self.status


def test_elsewhere_libc_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer.sys, "platform", "darwin")
    one, other = socket.socketpair()
    with one, other:
        monkeypatch.setattr(peer.ctypes, "CDLL", lambda *_, **__: FakeLibc(4242, 0))
        assert peer.peer_uid(one) == 4242
        monkeypatch.setattr(peer.ctypes, "CDLL", lambda *_, **__: FakeLibc(0, -1))
        with pytest.raises(OSError):
            peer.peer_uid(one)
