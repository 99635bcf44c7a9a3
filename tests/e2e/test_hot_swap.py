"""Models change under load without a failed request, and a model that cannot be loaded changes nothing.

The daemon is the real one; the models are a few kilobytes each.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from semanticd.adapters.process import running_pid
from semanticd.control.client import CommandFailedError, ControlClient
from tests.fakes.tiny_folder import write_tiny_model

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(600)

NUM_CLIENTS, NUM_REQUESTS, NUM_SWAPS = 8, 200, 5


class Daemon:
    """A daemon in a home of its own, and how to talk to it."""

    def __init__(self, home: Path, model: Path) -> None:
        self.socket = home / "run" / "semanticd.sock"
        environ = {
            "PATH": os.environ["PATH"],
            "SEMANTIC_AGENT_DISK_RESERVE_GB": "0",
            "HOME": str(home),
            "PYTHONPATH": str(REPOSITORY),
            "SEMANTIC_RUNTIME_DIR": str(home / "run"),
            "SEMANTIC_LOG_DIR": str(home / "logs"),
            "SEMANTIC_MODELS_DIR": str(home / "models"),
            "SEMANTIC_MLX_MODEL_ID": str(model),
            "SEMANTIC_MLX_CACHE_BUDGET_MB": "64",
            "SEMANTIC_SERVER_PORT": "0",
        }
        self.starved = home / "starved"
        config = home / "config.toml"
        config.write_text(f'[models.starved]\nsources = ["{self.starved}"]\ntrust_remote_code = true\n')
        environ["SEMANTIC_CONFIG_FILE"] = str(config)
        command = [sys.executable, "-m", "semanticd", "start"]
        ran = subprocess.run(command, cwd=home, env=environ, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr
        self.url = str(self.call("status")["address"])

    def call(self, cmd: str, **args: Any) -> dict[str, Any]:
        with ControlClient.connect(self.socket) as client:
            return client.call(cmd, reply_within_s=120, **args)

    def ask(self, words: str, *, agent: str, history: list[dict[str, str]] | None = None) -> dict[str, Any]:
        messages = [*(history or []), {"role": "user", "content": words}]
        body = {"model": "default", "messages": messages, "max_tokens": 12, "temperature": 0}
        answer = httpx.post(
            f"{self.url}/v1/chat/completions", json=body, headers={"X-Session-ID": agent}, timeout=120
        )
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def last_turn(self, agent: str) -> dict[str, Any]:
        turn: dict[str, Any] = self.call("agents.why", agent=agent)["last"]
        return turn


def said(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return write_tiny_model(folder / "one", seed=1), write_tiny_model(folder / "two", seed=2)


@pytest.fixture
def daemon(short_tmp_path: Path, models: tuple[Path, Path]) -> Iterator[Daemon]:
    made = Daemon(short_tmp_path, models[0])
    yield made
    pid = running_pid(made.socket.with_name("semanticd.pid"))
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def test_two_hundred_requests_survive_five_swaps(daemon: Daemon, models: tuple[Path, Path]) -> None:
    words = [f"question {number}" for number in range(10)]
    expected: dict[tuple[str, str], str] = {}
    for model in (models[1], models[0]):
        daemon.call("models.swap", model=str(model))
        for number, text in enumerate(words):
            answer = daemon.ask(text, agent=f"probe-{model.name}-{number}")
            expected[(answer["model"], text)] = said(answer)
    assert {name for name, _ in expected} == {"one", "two"}

    done = threading.Semaphore(0)
    unready: list[str] = []

    def client(number: int) -> list[tuple[str, str, str]]:
        seen = []
        for turn in range(NUM_REQUESTS // NUM_CLIENTS):
            text = words[(number + turn) % len(words)]
            answer = daemon.ask(text, agent=f"agent-{number}-{turn}")
            seen.append((answer["model"], text, said(answer)))
            done.release()
            if httpx.get(f"{daemon.url}/health/ready", timeout=60).status_code != 200:
                unready.append(f"{number}/{turn}")
        return seen

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        running = [pool.submit(client, number) for number in range(NUM_CLIENTS)]
        for swap in range(NUM_SWAPS):
            # Spread over the load: each swap begins after another share of the answers.
            for _ in range(NUM_REQUESTS // (NUM_SWAPS + 1)):
                assert done.acquire(timeout=120)
            assert (
                daemon.call("models.swap", model=str(models[(swap + 1) % 2]))["id"]
                == models[(swap + 1) % 2].name
            )
        seen = [one for future in running for one in future.result()]
    assert len(seen) == NUM_REQUESTS
    assert {model for model, _, _ in seen} == {"one", "two"}
    wrong = [(model, text) for model, text, answer in seen if answer != expected[(model, text)]]
    assert wrong == []
    assert unready == []


def test_after_swapping_back_an_agent_computes_only_its_new_tokens(
    daemon: Daemon, models: tuple[Path, Path]
) -> None:
    opening = "tell me a long story about the sea. " * 20
    first = daemon.ask(opening, agent="ada")
    history = [{"role": "user", "content": opening}, {"role": "assistant", "content": said(first)}]
    known = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    daemon.call("models.swap", model=str(models[1]))
    daemon.ask("something else", agent="bob")
    daemon.call("models.swap", model=str(models[0]))
    daemon.ask("and then?", agent="ada", history=history)
    cost = daemon.last_turn("ada")
    assert cost["computed_tokens"] <= cost["prompt_tokens"] - known + 1


@pytest.mark.parametrize("broken", ["missing file", "wrong shape", "truncated weights", "no tokenizer"])
def test_a_model_that_cannot_be_loaded_is_rolled_back_with_its_cause(
    daemon: Daemon, models: tuple[Path, Path], tmp_path: Path, broken: str
) -> None:
    folder = write_tiny_model(tmp_path / "broken", seed=3)
    weights = folder / "model.safetensors"
    if broken == "missing file":
        weights.unlink()
    elif broken == "wrong shape":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps({**config, "intermediate_size": 2 * config["intermediate_size"]})
        )
    elif broken == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
    before = daemon.ask("hello", agent="ada")
    with pytest.raises(CommandFailedError) as failed:
        daemon.call("models.swap", model=str(folder))
    assert failed.value.code == "model_load_failed"
    assert str(folder) in failed.value.message
    status = daemon.call("status")
    assert (status["model"], [one["id"] for one in status["models"]]) == ("one", ["one"])
    assert "broken" in status["model_error"]
    after = daemon.ask("hello", agent="eve")
    assert (after["model"], said(after)) == ("one", said(before))


BREAKS = {
    "generation_config.json": "{ not json",
    "config.json": "{ not json",
    "tokenizer.json": "{ not json",
    "model.safetensors": "cut off",
}


@pytest.mark.parametrize("file", BREAKS)
def test_a_loaded_model_whose_files_broke_goes_on_serving_when_it_is_asked_for_again(
    short_tmp_path: Path, tmp_path: Path, file: str
) -> None:
    folder = write_tiny_model(tmp_path / "mine", seed=5)
    daemon = Daemon(short_tmp_path, folder)
    try:
        before = daemon.ask("hello", agent="ada")
        whole = (folder / file).read_bytes() if (folder / file).is_file() else None
        # A file that is replaced, as a download does it: the daemon may have the old one mapped.
        broken = folder / "broken.tmp"
        broken.write_text(BREAKS[file])
        broken.replace(folder / file)
        for command in ("models.swap", "models.load"):
            for name in ("mine", str(folder), "default"):
                with pytest.raises(CommandFailedError):
                    daemon.call(command, model=name)
                status = daemon.call("status")
                assert (status["model"], [one["id"] for one in status["models"]]) == ("mine", ["mine"])
        after = daemon.ask("hello", agent="eve")
        assert (after["model"], said(after)) == ("mine", said(before))
        if whole is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(whole)
        assert daemon.call("models.swap", model="mine")["id"] == "mine"
        assert said(daemon.ask("hello", agent="fay")) == said(before)
    finally:
        pid = running_pid(daemon.socket.with_name("semanticd.pid"))
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


def test_a_model_for_which_memory_runs_out_is_rolled_back_with_that_cause(daemon: Daemon) -> None:
    folder = write_tiny_model(daemon.starved, seed=4)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_file": "greedy.py"}))
    # The machine has memory enough, so the model says that it has not, where MLX would.
    (folder / "greedy.py").write_text(
        "from mlx_lm.models.llama import Model as Llama, ModelArgs\n"
        "class Model(Llama):\n"
        "    def sanitize(self, weights):\n"
        "        raise RuntimeError('[malloc] Unable to allocate 1099511627776 bytes.')\n"
    )
    before = daemon.ask("hello", agent="ada")
    with pytest.raises(CommandFailedError) as failed:
        daemon.call("models.swap", model="starved")
    assert failed.value.code == "model_load_failed"
    assert "not enough memory" in failed.value.message
    assert "1099511627776" in failed.value.message
    assert daemon.call("status")["model"] == "one"
    assert said(daemon.ask("hello", agent="eve")) == said(before)


def test_progress_of_a_swap_is_told_as_it_happens(daemon: Daemon, models: tuple[Path, Path]) -> None:
    stages: list[str] = []
    with ControlClient.connect(daemon.socket) as client:
        client.call("subscribe", topics=["models"])

        def note(event: Any) -> None:
            stages.append(event.data["stage"])

        client.call("models.swap", model=str(models[1]), reply_within_s=120, on_event=note)
        deadline = time.monotonic() + 60
        while "ready" not in stages:
            assert time.monotonic() < deadline, stages
            client.call("ping", on_event=note)
    assert "loading" in stages
    assert "unloaded" in stages
