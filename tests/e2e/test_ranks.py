"""`semanticd serve --hosts` and `semanticd worker` as people run them: processes, a hostfile, a key, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.fakes.daemon_process import MODEL, DaemonProcess, free_port, text_of
from tests.fakes.ranked_daemon import ring_port
from tests.fakes.tiny_folder import Shape, write_tiny_model

pytestmark = pytest.mark.timeout(600)

KEY = "the-key-of-all-machines"
ENDED_WITHIN_S = 200.0


class Machines:
    """A daemon and its workers on this machine, each with folders of its own."""

    def __init__(self, home: Path, model: str, *, number: int, models_dir: Path) -> None:
        hosts = home / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{ring_port()}"] for _ in range(number)]))
        self.home = home
        self.port = free_port()
        self.daemon = DaemonProcess(
            home,
            models_dir=models_dir,
            command=("-m", "semanticd", "serve", "--hosts", str(hosts)),
            SEMANTIC_MLX_MODEL_ID=model,
            SEMANTIC_DISTRIBUTED_PORT=str(self.port),
            SEMANTIC_DISTRIBUTED_KEY=KEY,
        )
        self.started: list[subprocess.Popen[bytes]] = []
        self.workers = [self.worker(rank) for rank in range(1, number)]

    def worker(self, rank: int, *, key: str = KEY) -> subprocess.Popen[bytes]:
        env = {
            **os.environ,
            "SEMANTIC_DISTRIBUTED_KEY": key,
            "SEMANTIC_AGENT_CACHE_DIR": str(self.home / f"worker-{rank}"),
            "SEMANTIC_AGENT_DISK_RESERVE_GB": "0",
            "SEMANTIC_MODELS_DIR": self.daemon.env["SEMANTIC_MODELS_DIR"],
        }
        command = [sys.executable, "-m", "semanticd", "worker", f"127.0.0.1:{self.port}", "--rank", str(rank)]
        with (self.home / f"worker-{rank}.log").open("ab") as output:
            self.started.append(subprocess.Popen(command, env=env, stdout=output, stderr=output))
        return self.started[-1]

    def end(self) -> None:
        for worker in self.started:
            worker.terminate()
        for worker in self.started:
            worker.wait(ENDED_WITHIN_S)
        self.daemon.kill()


@pytest.fixture
def machines(short_tmp_path: Path) -> Iterator[Callable[[str, int, Path], Machines]]:
    made: list[Machines] = []

    def make(model: str, number: int, models_dir: Path) -> Machines:
        made.append(Machines(short_tmp_path, model, number=number, models_dir=models_dir))
        return made[-1]

    yield make
    for one in made:
        one.end()


def test_two_machines_serve_say_who_they_are_and_end_cleanly(
    machines: Callable[[str, int, Path], Machines], short_tmp_path: Path
) -> None:
    model = write_tiny_model(short_tmp_path / "model", shape=Shape(heads=4, kv_heads=2))
    pair = machines(str(model), 2, short_tmp_path / "models")
    pair.daemon.start()
    said = text_of(pair.daemon.chat([{"role": "user", "content": "hello there"}], agent="a", model="default"))
    assert said
    status = subprocess.run(
        [sys.executable, "-m", "semanticd", "status"],
        env=pair.daemon.env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "ranks    0 at 127.0.0.1: ready" in status.stdout
    assert "1 at 127.0.0.1: ready" in status.stdout
    stranger = pair.worker(1, key="a-key-that-is-not-it")
    assert stranger.wait(ENDED_WITHIN_S) == 1
    assert "its key is not the daemon's" in (short_tmp_path / "worker-1.log").read_text()
    assert httpx.get(f"{pair.daemon.url}/health/ready", timeout=60).status_code == 200
    (worker,) = pair.workers
    worker.send_signal(signal.SIGINT)
    assert worker.wait(ENDED_WITHIN_S) == 0
    deadline = time.monotonic() + ENDED_WITHIN_S
    while (ready := httpx.get(f"{pair.daemon.url}/health/ready", timeout=60)).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "rank 1 (127.0.0.1)" in ready.text
    pair.workers = [pair.worker(1)]
    while httpx.get(f"{pair.daemon.url}/health/ready", timeout=60).status_code != 200:
        assert time.monotonic() < deadline + ENDED_WITHIN_S
        time.sleep(0.1)
    assert (
        text_of(pair.daemon.chat([{"role": "user", "content": "hello there"}], agent="a", model="default"))
        == said
    )
    assert pair.daemon.stop() == 0


def test_a_first_model_that_is_given_up_while_a_machine_is_awaited_is_not_said_to_be_served(
    machines: Callable[[str, int, Path], Machines], short_tmp_path: Path
) -> None:
    model = write_tiny_model(short_tmp_path / "tiny", shape=Shape(heads=4, kv_heads=2))
    pair = machines(str(model), 2, short_tmp_path / "models")
    (worker,) = pair.workers
    worker.terminate()
    pair.daemon.launch()

    def unloaded() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "semanticd", "models", "unload", "default"]
        return subprocess.run(command, env=pair.daemon.env, capture_output=True, text=True, timeout=120)

    deadline = time.monotonic() + ENDED_WITHIN_S
    while (said := unloaded()).returncode:
        assert time.monotonic() < deadline, said.stderr
    while "daemon_ready" not in (output := pair.daemon.log.read_text()):
        assert time.monotonic() < deadline, output
        time.sleep(0.1)
    (line,) = [one for one in output.splitlines() if "daemon_ready" in one]
    assert "tiny" not in line
    assert "no model is loaded" in httpx.get(f"{pair.daemon.url}/health/ready", timeout=60).text
    assert pair.daemon.stop() == 0


@pytest.mark.model
@pytest.mark.slow
def test_smollm2_over_three_machines_equals_one_machine(
    machines: Callable[[str, int, Path], Machines], short_tmp_path: Path, models_dir: Path
) -> None:
    turns = {
        "geographer": [{"role": "user", "content": "Name three rivers, and where each of them ends. " * 20}],
        "cook": [{"role": "user", "content": "How is bread made, and what can go wrong? " * 20}],
    }
    (short_tmp_path / "alone").mkdir()
    alone = DaemonProcess(short_tmp_path / "alone", models_dir=models_dir)
    alone.start()
    expected = {agent: text_of(alone.chat(asked, agent=agent)) for agent, asked in turns.items()}
    more = {
        agent: [
            *asked,
            {"role": "assistant", "content": expected[agent]},
            {"role": "user", "content": "And?"},
        ]
        for agent, asked in turns.items()
    }
    expected_more = {agent: text_of(alone.chat(asked, agent=agent)) for agent, asked in more.items()}
    alone.stop()
    three = machines(MODEL, 3, models_dir)
    three.daemon.start()
    assert {
        agent: text_of(three.daemon.chat(asked, agent=agent)) for agent, asked in turns.items()
    } == expected
    three.daemon.wait_until_written()
    assert three.daemon.stop() == 0
    three.daemon.start()
    for agent, asked in more.items():
        answer = three.daemon.chat(asked, agent=agent)
        usage = answer["usage"]
        assert text_of(answer) == expected_more[agent]
        assert usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] <= 40
    assert three.daemon.stop() == 0
