"""The dashboard is put into the background by its key and comes back: the terminal has its whole screen again."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import anyio


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped; asks the parent's own view, which every Unix has."""
    done, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
    return done == pid and os.WIFSTOPPED(status)


async def test_what_was_shown_is_there_again_after_it_was_suspended(socket_path: Path) -> None:
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environ = {**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1", "HOME": str(socket_path.parent)}
    process = subprocess.Popen(  # noqa: ASYNC220 (it starts at once)
        [sys.executable, "-m", "semantic_tui", "--socket", str(socket_path)],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    sent = bytearray()

    def read() -> None:
        try:
            sent.extend(os.read(ours, 65536))
        except OSError:
            loop.remove_reader(ours)

    loop = asyncio.get_running_loop()
    loop.add_reader(ours, read)
    parts = ("Agents (0)", "Block pool", "No daemon is running")
    try:
        with anyio.fail_after(60):
            while not all(part in sent.decode(errors="replace") for part in parts):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            os.write(ours, b"\x1a")
            while not is_stopped(process.pid):  # noqa: ASYNC110 (a process sends no event)
                await asyncio.sleep(0.05)
            sent.clear()
            os.kill(process.pid, signal.SIGCONT)
            while not all(part in sent.decode(errors="replace") for part in parts):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        process.kill()
        process.wait()
        loop.remove_reader(ours)
        os.close(ours)
