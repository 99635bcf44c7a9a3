"""HAProxy and nginx, as `contrib` configures them, in front of three real daemons that are one another's peers."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.daemon_process import DaemonProcess, free_port, text_of
from tests.fakes.tiny_folder import write_tiny_model

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"
WORDS = "the people were there and each of them would find some water and a long way down "
NUM_AGENTS = 12
BLOCK = 64
MACHINES = ("mac-1", "mac-2", "mac-3")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Router:
    """A proxy in front of some daemons; `url` is where clients go."""

    name = ""

    def __init__(self, folder: Path, daemons: list[DaemonProcess]) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.daemons = daemons
        self._process: subprocess.Popen[bytes] | None = None

    def placed(self, text: str) -> str:
        """Return a configuration with our addresses in the place of its own."""
        for machine, daemon in zip(MACHINES, self.daemons, strict=True):
            assert f"{machine}.local:8000" in text
            text = text.replace(f"{machine}.local:8000", f"127.0.0.1:{daemon.port}")
        assert "127.0.0.1:8080" in text
        return text.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}")

    def run(self, *command: str) -> None:
        with (self.folder / "router.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self._process.poll() is None, (self.folder / "router.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "router.log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)

    def start(self) -> None:
        raise NotImplementedError

    def drain(self, machine: str) -> None:
        """Send this machine no more agents; it goes on running."""
        raise NotImplementedError


class HAProxy(Router):
    name = "haproxy"

    def start(self) -> None:
        text = (CONTRIB / "haproxy" / "haproxy.cfg").read_text()
        self._socket = self.folder / "h.sock"
        (self.folder / "haproxy.cfg").write_text(
            self.placed(text.replace("/run/haproxy/semanticd.sock", str(self._socket)))
        )
        self.run("haproxy", "-db", "-f", str(self.folder / "haproxy.cfg"))

    def drain(self, machine: str) -> None:
        with socket.socket(socket.AF_UNIX) as runtime:
            runtime.connect(str(self._socket))
            runtime.sendall(f"set server daemons/{machine} state drain\n".encode())
            assert runtime.recv(4096).strip() == b""


class Nginx(Router):
    name = "nginx"

    def start(self) -> None:
        self._write((CONTRIB / "nginx" / "semanticd.conf").read_text())
        self.run("nginx", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"))

    def _write(self, text: str) -> None:
        places = "".join(
            f"{name}_temp_path {self.folder}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"daemon off;\npid {self.folder}/nginx.pid;\nerror_log stderr;\nworker_processes 1;\n"
            f"events {{ worker_connections 512; }}\nhttp {{ access_log off;\n{places}{self.placed(text)}\n}}\n"
        )

    def drain(self, machine: str) -> None:
        text = (CONTRIB / "nginx" / "semanticd.conf").read_text()
        self._write(re.sub(rf"(server {machine}\S+) max_fails\S+ fail_timeout\S+;", r"\1 down;", text))
        subprocess.run(
            ["nginx", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), "-s", "reload"],
            check=True,
            capture_output=True,
            timeout=60,
        )


@pytest.fixture(params=[HAProxy, Nginx], ids=lambda router: str(router.name))
def router(request: pytest.FixtureRequest, short_tmp_path: Path) -> Iterator[Router]:
    """A proxy, and three daemons that serve one model."""
    if shutil.which(request.param.name) is None:
        pytest.skip(f"{request.param.name} is not installed (apt-get install haproxy nginx-light)")
    model = write_tiny_model(short_tmp_path / "model", ends=False)
    daemons: list[DaemonProcess] = []
    for name in "abc":
        (short_tmp_path / name).mkdir()
        daemons.append(
            DaemonProcess(
                short_tmp_path / name,
                models_dir=short_tmp_path / "models",
                SEMANTIC_MLX_MODEL_ID=str(model),
                command=("-m", "tests.fakes.patient_daemon"),
                PYTHONPATH=sys.path[0],
                SEMANTIC_MLX_BLOCK_TOKENS=str(BLOCK),
            )
        )
    for daemon in daemons:
        daemon.env["SEMANTIC_PEERS"] = ",".join(other.url for other in daemons if other is not daemon)
    made: Router = request.param(short_tmp_path, daemons)
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(DaemonProcess.start, daemons))
        made.start()
        yield made
    finally:
        made.stop()
        for daemon in daemons:
            daemon.kill()


class Agent:
    """An agent that sends all that was said to the proxy."""

    def __init__(self, name: str) -> None:
        self.name = name
        # No two share a beginning.
        self.messages = [
            {"role": "system", "content": f"{name}: " + WORDS * 20},
            {"role": "user", "content": "what did they find"},
        ]
        self.known = 0
        self.cached = 0

    def turn(self, url: str, **more: Any) -> None:
        body = {"model": "default", "messages": self.messages, "max_tokens": 8, "temperature": 0, **more}
        headers = {} if more else {"X-Session-ID": self.name}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120)
        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]
        self.cached = usage["prompt_tokens_details"]["cached_tokens"]
        self.known = usage["prompt_tokens"] + usage["completion_tokens"]
        self.messages += [
            {"role": "assistant", "content": text_of(answer.json())},
            {"role": "user", "content": "and what then"},
        ]


def homes(daemons: list[DaemonProcess]) -> dict[str, set[int]]:
    """Return on which daemons each agent is known, as they say themselves."""
    found: dict[str, set[int]] = defaultdict(set)
    for number, daemon in enumerate(daemons):
        for agent in httpx.get(f"{daemon.url}/v1/agents?limit=100", timeout=60).json()["data"]:
            found[agent["id"]].add(number)
    return found


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_an_agent_has_its_machine_and_comes_warm_to_another(router: Router) -> None:
    daemons = router.daemons
    agents = [Agent(f"agent-{number}") for number in range(NUM_AGENTS)]
    for _ in range(3):
        for agent in agents:
            known = agent.known
            agent.turn(router.url)
            assert agent.cached >= known - 1, "a later turn pays for its new tokens"
    home = {name: numbers for name, numbers in homes(daemons).items() if name.startswith("agent-")}
    assert all(len(numbers) == 1 for numbers in home.values()), "each agent stayed on one machine"
    assert set().union(*home.values()) == {0, 1, 2}, "and no machine has all of them"

    # Drained: its agents move, and pay for their new tokens only.
    moving = [agent for agent in agents if home[agent.name] == {0}]
    until(lambda: stored(daemons[0]), "its blocks are on its disk")
    router.drain("mac-1")
    time.sleep(0.5)
    for agent in agents:
        known = stored_somewhere(daemons, agent)
        assert known > 400
        agent.turn(router.url)
        assert agent.cached >= known, (agent.name, home[agent.name])
    moved = homes(daemons)
    assert all(moved[agent.name] - {0} for agent in moving)
    assert all(moved[agent.name] == home[agent.name] for agent in agents if agent not in moving)


def stored_somewhere(daemons: list[DaemonProcess], agent: Agent) -> int:
    """Return how many tokens of an agent's next prompt lie on one machine, as its text is read there.

    That may be fewer than were computed: a machine that does not know the agent reads its answers from their text,
    which need not give the tokens that a model of random weights wrote.
    """
    body = {"model": "default", "messages": agent.messages}
    found = []
    for daemon in daemons:
        answer = httpx.post(f"{daemon.url}/v1/prefix/lookup", json=body, timeout=120).json()
        found.append(answer["hot_tokens"] + answer["warm_tokens"])
    return max(found)


def stored(daemon: DaemonProcess) -> bool:
    """Whether nothing waits for the disk."""
    page = httpx.get(f"{daemon.url}/metrics", timeout=60).text
    waiting = re.findall(r'(?m)^semanticd_block_pool_bytes\{state="(?:dirty|in_flight)"\} (\S+)', page)
    return not any(map(float, waiting))


def test_no_request_fails_while_one_machine_is_killed_and_another_is_drained(router: Router) -> None:
    agents = [Agent(f"agent-{number}") for number in range(NUM_AGENTS)]
    for agent in agents:
        agent.turn(router.url)
    failed: list[str] = []
    num_turns = 0
    over = threading.Event()

    def talk(agent: Agent) -> None:
        nonlocal num_turns
        while not over.is_set():
            try:
                agent.turn(router.url)
            except Exception as error:
                failed.append(f"{agent.name}: {error!r}")
            num_turns += 1

    def turns_go_on() -> None:
        """Wait for turns of all agents, of which at least half began meanwhile: a loaded machine takes its time."""
        enough = num_turns + 2 * NUM_AGENTS
        until(lambda: num_turns >= enough or bool(failed), "turns")

    with ThreadPoolExecutor(NUM_AGENTS) as pool:
        for agent in agents:
            pool.submit(talk, agent)
        try:
            turns_go_on()
            router.daemons[1].kill()
            turns_go_on()
            router.drain("mac-3")
            turns_go_on()
        finally:
            over.set()
    print(f"{router.name}: {num_turns} requests, {len(failed)} failed")
    assert failed == []

    # The killed one starts again: its agents come back to it, and what others computed meanwhile comes from them.
    router.daemons[1].start()
    until(lambda: stored(router.daemons[0]) and stored(router.daemons[2]), "the blocks are on the disk")
    time.sleep(12 if router.name == "nginx" else 2)  # how long it is passed over
    cold = []
    for agent in agents:
        known = stored_somewhere(router.daemons, agent)
        agent.turn(router.url)
        # Peers are asked where more than a block is missing.
        if agent.cached < known - BLOCK:
            cold.append((agent.name, agent.cached, known))
    assert cold == []
    assert any(1 in numbers for numbers in homes(router.daemons).values())


def test_a_router_streams_and_closes_private_routes(
    router: Router,
) -> None:
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": WORDS}],
        "max_tokens": 20_000,
        "stream": True,
        "temperature": 0,
        "ignore_eos": True,
    }
    with httpx.stream("POST", f"{router.url}/v1/chat/completions", json=body, timeout=60) as stream:
        assert stream.status_code == 200
        pieces = stream.iter_raw()
        assert next(pieces)
        pages = [httpx.get(f"{daemon.url}/metrics", timeout=60).text for daemon in router.daemons]
    running = re.compile(r'semanticd_sequences\{state="\w+"\} 1\.0')
    assert any(running.search(page) for page in pages), "it is not over yet"
    for path in ("/admin/models", "/metrics", "/v1/blocks/" + "ab" * 32):
        assert httpx.get(router.url + path, timeout=60).status_code == 404
    assert httpx.get(router.url + "/v1/models", timeout=60).status_code == 200


def test_haproxy_finds_an_agents_name_in_the_body(router: Router) -> None:
    if router.name != "haproxy":
        pytest.skip("nginx does not look into bodies")
    agents = [Agent(f"key-{number}") for number in range(8)]
    for _ in range(3):
        for agent in agents:
            agent.turn(router.url, prompt_cache_key=agent.name)
    found = {name: numbers for name, numbers in homes(router.daemons).items() if name.startswith("key-")}
    assert len(found) == 8
    assert all(len(numbers) == 1 for numbers in found.values())
    assert len(set().union(*found.values())) > 1
