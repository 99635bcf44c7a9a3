"""Who is at the other end of a socket, on both kinds of platform."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from semanticd.control import peer


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's answer on Linux")
def test_linux_asks_the_kernel() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer.peer_uid(one) == os.getuid()


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="others do not report it")
def test_the_kernel_names_the_process_that_listens_although_it_does_not_accept(short_tmp_path: Path) -> None:
    path = str(short_tmp_path / "socket")
    listening = (
        "import socket, sys, time; one = socket.socket(socket.AF_UNIX); one.bind(sys.argv[1]); one.listen(); "
        "print('listening', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", listening, path], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                assert peer.peer_pid(connection) == process.pid
        finally:
            process.kill()


class FakeMacSocket:
    """A connection that knows the one option of macOS's `sys/un.h`."""

    def fileno(self) -> int:
        return -1

    def getsockopt(self, level: int, name: int, size: int, /) -> bytes:
        assert (level, name, size) == (0, 2, 4)
        return struct.pack("i", 4711)


def test_elsewhere_the_process_is_an_option_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer.sys, "platform", "darwin")
    assert peer.peer_pid(FakeMacSocket()) == 4711


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
