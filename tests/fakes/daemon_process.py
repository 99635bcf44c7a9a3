"""A real daemon in folders of its own, as a user runs it: started, asked over HTTP, stopped or killed."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

MODEL = "smollm2-135m"
READY_WITHIN_S = 120.0
STOPPED_WITHIN_S = 120.0
WRITTEN_WITHIN_S = 120.0
_MOST_PROCESSES = 8


def ports(first: int, end: int) -> Iterator[int]:
    """Return ports of a range in random order, none of which another process of this test run is given.

    Seconds may pass between a choice and its use, in which nobody listens on the port yet.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = range(first + number % _MOST_PROCESSES, end, _MOST_PROCESSES)
    return iter(random.sample(own, len(own)))


_PORTS = ports(20_000, 32_000)


def free_port() -> int:
    """Return a port that nothing listens on, another one at each call.

    Below the range that systems choose from for outgoing connections: other tests make thousands of those.
    """
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there is no free port")


class DaemonProcess:
    """`semanticd serve` under `home`; start it again and it finds what it left."""

    def __init__(
        self,
        home: Path,
        *,
        models_dir: Path,
        command: tuple[str, ...] = ("-m", "semanticd", "serve"),
        **settings: str,
    ) -> None:
        """Choose a port; `settings` are environment variables, `command` is what Python runs."""
        self.home = home
        self._command = [sys.executable, *command]
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home / "output.log"
        self.env = {
            **os.environ,
            "SEMANTIC_AGENT_CACHE_DIR": str(home / "caches"),
            # Tests run on whatever volume there is.
            "SEMANTIC_AGENT_DISK_RESERVE_GB": "0",
            # What a test finds on disk shall not be in RAM before it asks.
            "SEMANTIC_AGENT_PRELOAD_SHARE": "0",
            "SEMANTIC_RUNTIME_DIR": str(home / "run"),
            "SEMANTIC_LOG_DIR": str(home / "logs"),
            "SEMANTIC_MODELS_DIR": str(models_dir),
            "SEMANTIC_MLX_MODEL_ID": MODEL,
            "SEMANTIC_SERVER_PORT": str(self.port),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the process that was started last."""
        assert self._process is not None, "the daemon was not started"
        return self._process.pid

    def start(self, *, within_s: float = READY_WITHIN_S) -> None:
        """Start it and wait until it is ready.

        Raises:
            AssertionError: It ended, or was not ready after `within_s` seconds.
        """
        self.launch()
        assert self._process is not None
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise AssertionError(
                    f"the daemon ended with {self._process.returncode}: {self.log.read_text()[-2000:]}"
                )
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"the daemon was not ready in {within_s} s: {self.log.read_text()[-2000:]}")

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(self._command, env=self.env, stdout=output, stderr=output)

    def stop(self) -> int:
        """Ask it to stop as Ctrl-C does; returns its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(STOPPED_WITHIN_S)

    def kill(self) -> None:
        """End it as a power cut does; harmless when it is gone."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOPPED_WITHIN_S)

    def wait_until_written(self) -> None:
        """Wait until ended turns lie on disk. Blocks are written after the answer: a kill may come first."""
        deadline = time.monotonic() + WRITTEN_WITHIN_S
        while True:
            pool = self._pool_bytes()
            if pool["hot"] and not (pool["running"] or pool["dirty"] or pool["in_flight"]):
                return
            assert time.monotonic() < deadline, f"not all was written in {WRITTEN_WITHIN_S} s: {pool}"
            time.sleep(0.05)

    def _pool_bytes(self) -> dict[str, float]:
        """Return the cache budget's bytes, by state."""
        page = httpx.get(f"{self.url}/metrics", timeout=60).text
        found = re.findall(r'^semanticd_block_pool_bytes\{state="(\w+)"\} (\S+)$', page, re.MULTILINE)
        return {state: float(amount) for state, amount in found}

    def chat(
        self, messages: list[dict[str, str]], *, agent: str, max_tokens: int = 12, **more: Any
    ) -> dict[str, Any]:
        """Ask the OpenAI chat API greedily; returns the answer's JSON."""
        body = {"model": MODEL, "messages": messages, "max_tokens": max_tokens, "temperature": 0, **more}
        response = httpx.post(
            f"{self.url}/v1/chat/completions", json=body, headers={"X-Session-ID": agent}, timeout=300
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def last_turn(self, agent: str) -> dict[str, Any]:
        """Return what the agent's last turn cost."""
        cost: dict[str, Any] = httpx.get(f"{self.url}/v1/agents/{agent}/cache", timeout=60).json()["last"]
        return cost


def text_of(answer: dict[str, Any]) -> str:
    """Return the answer's text."""
    text: str = answer["choices"][0]["message"]["content"]
    return text
