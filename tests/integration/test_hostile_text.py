"""Hostile text on its way through the command line, on a pseudo-terminal as a user has it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from semanticd.control.terminal_text import many_lines
from tests.fakes.control_daemon import FakeControlDaemon
from tests.fakes.hostile_text import ENCODABLE

OWN = re.compile(r"\x1b\[H\x1b\[2J|\r\x1b\[K")
"""What the command line itself sends: an emptied screen, a line shown again."""
ALL = "".join(ENCODABLE)


def fact(name: str) -> dict[str, Any]:
    return {"id": ALL, "state": ALL, "description": ALL, "model": ALL, name: ALL, ALL: [ALL, {ALL: ALL}]}


ANSWERS: dict[str, Any] = {
    "status": {**fact("version"), "address": f"http://{ALL}", "model_error": ALL, "models": [fact("x")],
               "model_stage": ALL, "socket": ALL, "uptime_s": 1.0},
    "agents.list": {"agents": [fact("class")]},
    "agents.show": {**fact("tier"), "turns": [fact("finish_reason")]},
    "agents.why": {"turns": [{"miss": {"cause": ALL, "expected": ALL, "found": ALL}}]},
    "models.list": {"models": [fact("path")]},
    "models.info": fact("path"),
    "doctor": {"ok": True, "findings": [{"check": ALL, "state": ALL, "message": ALL, "advice": ALL}]},
    "config.show": {"settings": [{"name": ALL, "value": ALL, "origin": ALL, "meaning": ALL, "env": ALL,
                                  "expected": ALL, "flag": ALL}]},
    "requests.list": {"requests": [{"id": ALL, "agent": ALL, "model": ALL, "state": "waiting", "wait_reason": ALL,
                                    "wait_behind": ALL, "priority": ALL}]},
    "cache.stats": fact("x"),
}  # fmt: skip
COMMANDS = (
    ["status"], ["status", "--json"], ["agents", "list"], ["agents", "list", "--json"], ["agents", "show", "a"],
    ["agents", "why", "a"], ["agents", "pin", "a"], ["models", "list"], ["models", "info", "a"],
    ["models", "swap", "a"], ["doctor"], ["doctor", "--json"], ["config", "--daemon", "--all"], ["ctl", "cache.stats"],
    ["ctl", "cache.stats", "--json"], ["logs"], ["logs", "--json"], ["no-such-\x1b[2Jcommand"], ["launch", "claude"],
)  # fmt: skip
LOG = [
    json.dumps(
        {"timestamp": "t", "level": "info", "event": ALL, "agent": ALL, "exception": ALL}, ensure_ascii=False
    ),
    *(text.replace("\n", " ") for text in ENCODABLE),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A daemon that answers every command with hostile text, and a log full of it."""
    folder = Path(os.path.realpath(tmp_path_factory.mktemp("h", numbered=True)))
    (folder / "logs").mkdir()
    (folder / "logs" / "semanticd.log").write_text("\n".join(LOG))
    # Not pytest's own folder: a socket's path has to be short.
    runtime = Path(tempfile.mkdtemp(prefix="smt-hostile-", dir="/tmp"))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    daemon = FakeControlDaemon(runtime / "semanticd.sock", ANSWERS)
    daemon.failures = {"agents.pin": ("conflict", ALL), "models.swap": ("conflict", ALL)}
    asyncio.run_coroutine_threadsafe(daemon.__aenter__(), loop).result(60)
    (folder / "run").symlink_to(runtime)
    yield folder
    asyncio.run_coroutine_threadsafe(daemon.stop(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(60)
    loop.close()
    runtime.rmdir()


def on_a_terminal(home: Path, *words: str) -> str:
    """Return all that a command sends to its terminal, stdout and stderr."""
    ours, theirs = pty.openpty()
    environ = {
        **os.environ,
        "SEMANTIC_RUNTIME_DIR": str((home / "run").resolve()),
        "SEMANTIC_LOG_DIR": str(home / "logs"),
        "PYTHONUTF8": "1",
        "TERM": "xterm-256color",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "semanticd", *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    )
    os.close(theirs)
    sent = b""
    try:
        while data := os.read(ours, 65536):
            sent += data
    except OSError:
        pass  # what Linux says once the last holder of the other end is gone
    os.close(ours)
    process.wait(60)
    return sent.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    "words", COMMANDS, ids=[" ".join(words).replace("\x1b", "ESC") for words in COMMANDS]
)
def test_what_a_command_sends_to_a_terminal_steers_it_only_as_the_program_wants(
    home: Path, words: list[str]
) -> None:
    sent = on_a_terminal(home, *words)
    assert r"\x1b[2J" in sent or "u001b[2J" in sent, f"the hostile text is not there: {sent[:300]!r}"
    shown = OWN.sub("", sent)
    assert many_lines(shown) == shown


def test_json_keeps_the_text_as_it_was(home: Path) -> None:
    assert json.loads(on_a_terminal(home, "agents", "list", "--json")) == ANSWERS["agents.list"]


def test_only_one_file_of_the_command_line_writes_to_the_terminal() -> None:
    folder = Path(__file__).parents[2] / "semanticd" / "entrypoints" / "cli"
    writes = re.compile(r"(?<![\w_])print\(|\.echo\(|\.secho\(|std(?:out|err)\.write\(")
    assert [path.name for path in folder.glob("*.py") if writes.search(path.read_text())] == ["output.py"]
