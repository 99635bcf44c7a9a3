"""`semanticd launch` as a user runs it: a control server that says which model is loaded, and programs on PATH."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.control_daemon import FakeControlDaemon

STATUS = {
    "version": "0",
    "state": "ready",
    "address": "http://0.0.0.0:8123",
    "model": "tiny",
    "models": [{"id": "tiny", "context_length": 8192}, {"id": "long", "context_length": 131_072}],
}
FLAG = "--exclude-dynamic-system-prompt-sections"
SHOWS_WHAT_IT_GOT = f"""#!{sys.executable}
import json, os, sys
if sys.argv[1:] == ["--help"]:
    print(os.environ.get("TEST_HELP", "no flags"))
    sys.exit(0)
print(json.dumps({{"arguments": sys.argv[1:], "environment": dict(os.environ)}}))
sys.exit(7)
"""


class Home:
    """A runtime folder, a folder of programs, and a control server while it is served."""

    def __init__(self, folder: Path) -> None:
        self.runtime = folder / "run"
        self.programs = folder / "bin"
        self.runtime.mkdir()
        self.programs.mkdir()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._daemon: FakeControlDaemon | None = None

    def serve(self, status: dict[str, Any], *, settings: Sequence[dict[str, Any]] = ()) -> None:
        """Serve from now on a daemon of this state, in place of the one before; with these settings, if any."""
        if self._daemon is not None:
            asyncio.run_coroutine_threadsafe(self._daemon.stop(), self._loop).result(60)
        answers = {"status": status} | ({"config.show": {"settings": list(settings)}} if settings else {})
        self._daemon = FakeControlDaemon(self.runtime / "semanticd.sock", answers)
        asyncio.run_coroutine_threadsafe(self._daemon.__aenter__(), self._loop).result(60)

    def install(self, name: str) -> None:
        (self.programs / name).write_text(SHOWS_WHAT_IT_GOT)
        (self.programs / name).chmod(0o755)

    def launch(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "semanticd", "launch", *arguments],
            env={
                **os.environ,
                "SEMANTIC_RUNTIME_DIR": str(self.runtime),
                "PATH": str(self.programs),
                "HOME": str(self.runtime.parent),
                **env,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _end(self) -> None:
        if self._daemon is not None:
            await self._daemon.stop()
        # A connection that had just been made has a task, but the daemon does not know it yet. Its client is gone.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        await asyncio.sleep(0)


@pytest.fixture
def home() -> Iterator[Home]:
    # Not pytest's own folder: a socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="smt-launch-") as folder:
        made = Home(Path(folder))
        yield made
        made.close()


def test_the_program_takes_over_with_the_environment_and_its_own_exit_status(home: Home) -> None:
    home.serve(STATUS)
    home.install("claude")
    done = home.launch(
        "claude", "--", "--bare", "-p", "hi", ANTHROPIC_API_KEY="sk-real", SEMANTIC_API_KEY="k1,k2"
    )
    assert done.returncode == 7, done.stderr
    got = json.loads(done.stdout)
    assert got["arguments"] == ["--bare", "-p", "hi"]
    assert got["environment"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8123"
    assert got["environment"]["ANTHROPIC_AUTH_TOKEN"] == "k1"
    assert got["environment"]["ANTHROPIC_MODEL"] == "tiny"
    assert "ANTHROPIC_API_KEY" not in got["environment"]
    assert "context of 8192 tokens" in done.stderr
    assert "--bare" in done.stderr


def test_changing_parts_of_claudes_prompt_go_behind_its_tools(
    home: Home,
) -> None:
    home.serve(STATUS)
    home.install("claude")
    known = {"TEST_HELP": f"  {FLAG}   Move per-machine sections"}
    got = json.loads(home.launch("claude", "--", "-p", "hi", **known).stdout)
    assert got["arguments"] == [FLAG, "-p", "hi"]
    assert got["environment"]["CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS"] == "1"
    own = home.launch("claude", CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS="0")
    older = json.loads(own.stdout)
    assert older["arguments"] == []
    assert older["environment"]["CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS"] == "0"
    printed = home.launch("claude", "--print", **known).stdout
    assert "export CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS=1" in printed
    assert printed.splitlines()[-1] == f"# claude {FLAG}"


def test_print_shows_what_a_shell_can_evaluate_and_starts_nothing(home: Home) -> None:
    home.serve(STATUS)
    done = home.launch("aider", "--print", "--model", "long", "--", "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "the longer model has room"
    shell = f"{done.stdout}\necho $AIDER_MODEL $OPENAI_API_BASE"
    said = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.split() == ["openai/long", "http://127.0.0.1:8123/v1"]
    assert done.stdout.splitlines()[-1] == "# aider --yes"


@pytest.mark.parametrize("words", [("claude", "--print"), ("claude",)])
def test_no_dummy_is_handed_out_where_the_daemon_asks_for_a_key(home: Home, words: tuple[str, ...]) -> None:
    shown = {"name": "security.api_key", "value": "********", "origin": "environment SEMANTIC_API_KEY"}
    home.serve(STATUS, settings=[shown])
    home.install("claude")
    done = home.launch(*words, SEMANTIC_API_KEY="")
    assert (done.returncode, done.stdout) == (1, "")
    assert "requires an API key and this shell has none" in done.stderr
    assert "SEMANTIC_API_KEY" in done.stderr
    home.serve(STATUS, settings=[{**shown, "value": None}])
    assert "=semanticd" in home.launch("claude", "--print").stdout, "a daemon without keys takes any"


def test_nothing_is_written_into_the_users_home(home: Home) -> None:
    home.serve(STATUS)
    for name in ("claude", "opencode", "codex", "aider", "qwen", "kilo", "goose", "llm", "open-webui"):
        home.install(name)
        assert home.launch(name).returncode == 7
    assert {path.name for path in home.runtime.parent.iterdir()} == {"run", "bin"}


@pytest.mark.parametrize("name", ["zed", "vscode", "crush", "cline"])
def test_settings_are_printed_for_what_reads_only_its_own_files(home: Home, name: str) -> None:
    home.serve(STATUS)
    done = home.launch(name, "--model", "long")
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:8123/v1" in done.stdout
    assert "long" in done.stdout
    assert done.stderr.startswith("semanticd: put this into ")
    refused = home.launch(name, "--", "--flag")
    assert (refused.returncode, refused.stdout) == (2, "")


def test_without_a_daemon_it_says_how_to_start_one(home: Home) -> None:
    home.install("claude")
    done = home.launch("claude")
    assert done.returncode == 3
    assert "semanticd start" in done.stderr


def test_a_program_that_is_not_installed_comes_with_the_command_that_installs_it(home: Home) -> None:
    home.serve(STATUS)
    done = home.launch("codex")
    assert done.returncode == 1
    assert "npm install -g @openai/codex" in done.stderr
    assert done.stdout == ""


def test_a_daemon_that_still_loads_and_a_model_that_is_not_loaded_are_told(home: Home) -> None:
    home.serve({**STATUS, "state": "starting", "model": None, "models": []})
    done = home.launch("claude")
    assert (done.returncode, "semanticd status" in done.stderr) == (1, True)
    home.serve(STATUS)
    done = home.launch("claude", "--model", "gpt-9")
    assert done.returncode == 1
    assert "loaded: long, tiny" in done.stderr
    assert "did you mean" not in done.stderr
    assert "did you mean 'tiny'?" in home.launch("claude", "--model", "tinny").stderr


@pytest.mark.parametrize(
    "address",
    [
        "http://192.0.2.1:8000",
        "http://collector.example.org",
        "ftp://127.0.0.1:21",
        "http://127.0.0.1@192.0.2.1",
    ],
)
def test_a_key_is_only_sent_to_this_machine(home: Home, address: str) -> None:
    home.serve({**STATUS, "address": address})
    home.install("claude")
    done = home.launch("claude", SEMANTIC_API_KEY="hush")
    assert done.returncode == 1
    assert "not this machine's" in done.stderr
    assert "hush" not in done.stdout + done.stderr


def test_a_socket_that_others_may_replace_is_not_talked_to(home: Home) -> None:
    home.serve(STATUS)
    home.install("claude")
    home.runtime.chmod(0o777)
    done = home.launch("claude", SEMANTIC_API_KEY="hush")
    assert done.returncode == 1
    assert "others may replace" in done.stderr


def test_an_unknown_program_is_wrong_usage_and_lists_the_known_ones(home: Home) -> None:
    done = home.launch("emacs")
    assert done.returncode == 2
    assert "'claude', 'opencode', 'codex', 'aider', 'qwen'" in done.stderr
