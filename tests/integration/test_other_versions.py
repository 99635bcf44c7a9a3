"""The command line with a daemon of another version: missing results, or results of other types, are not failures.

Every command is given answers that hold nothing, nothing but nulls, values of other types, and rows without fields.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from semanticd.control.client import ControlClient
from semanticd.control.errors import ConnectionLostError
from semanticd.entrypoints.cli import chat, main
from semanticd.entrypoints.cli.program import program
from tests.fakes.control_daemon import FakeControlDaemon

KEYS = (
    "agents", "cache", "checks", "draft_sources", "engine", "findings", "freed_bytes", "freed_hot_bytes",
    "freed_warm_bytes", "id", "last", "messages", "models", "num_missing_blocks", "num_requests", "outcomes",
    "parts", "peers", "ranks", "requests", "savings", "settings", "sub", "text", "turns", "unsaved", "uptime_s",
    "warning",
)  # fmt: skip
ANSWERS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "nulls": dict.fromkeys(KEYS),
    "texts": dict.fromkeys(KEYS, "x"),
    "numbers": dict.fromkeys(KEYS, -1.5),
    "lists": {key: [[], None, 5, "x", {}] for key in KEYS},
    "maps": {key: {"a": {"b": [None]}} for key in KEYS},
    "empty rows": {key: [{}] for key in KEYS},
    "rows of nulls": {key: [dict.fromkeys(KEYS)] for key in KEYS},
}
COMMANDS = (
    ["status"], ["status", "--json"], ["agents", "list"], ["agents", "list", "--sort", "size"],
    ["agents", "list", "--json"], ["agents", "show", "a"], ["agents", "why", "a", "--last", "3"],
    ["agents", "pin", "a"],
    ["agents", "unpin", "a"], ["agents", "fork", "a"], ["agents", "rewind", "a"], ["agents", "evict", "a"],
    ["agents", "delete", "a"], ["agents", "import", "a.agent"], ["models", "list"], ["models", "info", "a"],
    ["models", "pull", "a"], ["models", "rm", "a"], ["models", "load", "a"], ["models", "unload", "a"],
    ["models", "swap", "a"], ["cache"], ["cache", "--by", "model"], ["cache", "--by", "agent", "--json"],
    ["cache", "prune", "1GB"], ["cache", "clear", "--yes"], ["doctor"], ["config", "--daemon", "--all"],
    ["ctl", "status"], ["launch", "claude", "--print"], ["chat", "--fork", "a"],
)  # fmt: skip
SAID = "hello\n/why\n/fork\n/model\n/model b\n/rewind\n/history\n/agents\n"


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeControlDaemon]:
    """A daemon whose answer to every command is the test's."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    with tempfile.TemporaryDirectory(prefix="smt-") as name:
        folder = Path(os.path.realpath(name))
        monkeypatch.setenv("SEMANTIC_RUNTIME_DIR", str(folder))
        monkeypatch.setenv("SEMANTIC_LOG_DIR", str(folder / "logs"))
        one = FakeControlDaemon(folder / "semanticd.sock")
        asyncio.run_coroutine_threadsafe(one.__aenter__(), loop).result(60)
        yield one
        asyncio.run_coroutine_threadsafe(one.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


class EveryCommand(dict[str, Any]):
    """The same answer, whatever was asked."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__()
        self._answer = answer

    def get(self, key: str, default: Any = None) -> Any:
        """Return the answer; who the daemon is stays as it is."""
        return {} if key == "hello" else self._answer


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_incomplete_or_mistyped_result_is_not_a_crash(
    daemon: FakeControlDaemon,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    answer: str,
) -> None:
    daemon.answers = EveryCommand(ANSWERS[answer])
    monkeypatch.setattr(sys, "argv", ["semanticd", *words])
    monkeypatch.setattr(sys, "stdin", io.StringIO(SAID if words[0] == "chat" else ""))
    status = 0
    try:
        main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    written = capsys.readouterr()
    assert daemon.commands, written.err
    # That it cannot go on is said in a line; whatever else it raises has failed the test.
    assert status in (0, 1), written.err
    assert status == 0 or written.err.strip() or words[0] == "doctor"


def test_all_commands_that_ask_the_daemon_are_tried() -> None:
    # Without those that start or end a daemon, or look at something else.
    elsewhere = {"serve", "worker", "start", "stop", "restart", "logs", "bench", "selftest"}
    elsewhere |= {"completion", "service", "mcp", "trace", "key", "version"}
    context = click.Context(program)
    assert {words[0] for words in COMMANDS} == set(program.list_commands(context)) - elsewhere
    for group in ("agents", "models", "cache"):
        commands = program.get_command(context, group)
        assert isinstance(commands, click.Group)
        tried = {words[1] for words in COMMANDS if words[0] == group and len(words) > 1}
        assert set(commands.commands) - tried <= {"export", "fit"}, group


@pytest.mark.parametrize("number", [None, "x", True, [1]])
def test_a_subscription_without_a_number_is_an_error_that_says_so(
    daemon: FakeControlDaemon, number: Any
) -> None:
    daemon.answers = {"subscribe": {"sub": number}}
    with ControlClient.connect(daemon.path) as client, pytest.raises(ConnectionLostError, match="no number"):
        client.subscribe(["status"])


def test_the_chats_commands_are_those_that_are_tried() -> None:
    tried = {line.split()[0] for line in SAID.splitlines() if line.startswith("/")}
    known = {line.split()[0] for line in chat.HELP.splitlines() if line.startswith("/")}
    assert known - tried <= {"/help", "/exit", "/new"}
