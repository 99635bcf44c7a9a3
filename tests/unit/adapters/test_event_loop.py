"""The daemon's event loop is uvloop's, and asyncio's where uvloop is not installed."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
{before}
from semanticd.adapters.event_loop import new_event_loop
loop = new_event_loop()
print(type(loop).__module__, loop.run_until_complete(__import__("asyncio").sleep(0, "ran")))
loop.close()
"""


def loop_made(before: str = "") -> str:
    program = PROGRAM.format(before=before)
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_the_daemons_loop_is_uvloops() -> None:
    assert loop_made() == "uvloop ran\n"


def test_without_uvloop_the_daemon_has_asyncios_loop() -> None:
    assert loop_made("sys.modules['uvloop'] = None") == "asyncio.unix_events ran\n"
