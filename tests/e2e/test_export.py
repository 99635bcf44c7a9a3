"""An agent taken from one real daemon to another, over HTTP and by the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.daemon_process import DaemonProcess, text_of
from tests.fakes.tiny_folder import write_tiny_model

pytestmark = pytest.mark.timeout(600)

QUESTIONS = ["What is in the water? " * 30, "And how?"]


@pytest.fixture
def daemons(short_tmp_path: Path) -> Iterator[tuple[DaemonProcess, DaemonProcess]]:
    model = str(write_tiny_model(short_tmp_path / "tiny"))
    pair = []
    for name in ("here", "there"):
        (short_tmp_path / name).mkdir()
        pair.append(
            DaemonProcess(
                short_tmp_path / name, models_dir=short_tmp_path / "models", SEMANTIC_MLX_MODEL_ID=model
            )
        )
    try:
        for daemon in pair:
            daemon.start()
        yield pair[0], pair[1]
    finally:
        for daemon in pair:
            daemon.kill()


def talk(daemon: DaemonProcess, messages: list[dict[str, str]], *, agent: str) -> dict[str, Any]:
    return daemon.chat(messages, agent=agent, model="tiny")


def command(daemon: DaemonProcess, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "semanticd", "agents", *words],
        env=daemon.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_agent_goes_on_where_it_was_on_another_daemon(
    daemons: tuple[DaemonProcess, DaemonProcess], short_tmp_path: Path
) -> None:
    here, there = daemons
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    first = talk(here, messages, agent="ada")
    messages += [
        {"role": "assistant", "content": text_of(first)},
        {"role": "user", "content": QUESTIONS[1]},
    ]
    file = httpx.get(f"{here.url}/v1/agents/ada/export", timeout=60).raise_for_status().content
    taken = httpx.post(f"{there.url}/v1/agents/import", content=file, timeout=60)
    assert taken.status_code == 201, taken.text
    answer = talk(there, messages, agent="ada")
    known = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert there.last_turn("ada")["restored_warm_tokens"] >= known
    assert text_of(answer) == text_of(talk(here, messages, agent="ada"))

    damaged = bytearray(file)
    damaged[len(file) // 2] ^= 1
    refused = httpx.post(f"{there.url}/v1/agents/import?id=eve", content=bytes(damaged), timeout=60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "agent_file_refused")
    assert httpx.get(f"{there.url}/v1/agents/eve", timeout=60).status_code == 404

    path = short_tmp_path / "ada.agent"
    written = command(here, "export", "ada", str(path))
    assert written.returncode == 0, written.stderr
    read = command(there, "import", str(path), "--as", "bob")
    assert read.returncode == 0, read.stderr
    assert httpx.get(f"{there.url}/v1/agents/bob", timeout=60).json()["shared_with"] == []
    for name in ("carol", "dave"):
        assert command(there, "import", str(path), "--as", name, "--trust").returncode == 0
    assert httpx.get(f"{there.url}/v1/agents/dave", timeout=60).json()["shared_with"] == ["carol"]
    again = command(there, "import", str(path), "--as", "bob")
    assert again.returncode == 1
    assert "exists already" in again.stderr
