"""The servers that `make bench` measures: how each is started here, on what, and with which RAM budget.

All get the same model: SmolLM2-135M in 4 bits as it is published. semanticd and the second mlx_lm.server compute with
its weights in float32, which is what semanticd does on a processor; llama.cpp computes with the 4-bit file.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from semanticd.bench.errors import BenchError

ROOT = Path(__file__).resolve().parents[3]
MODEL = "smollm2-135m"
PREFILL_CHUNK = 256
SMALL_BUDGET_MB = 128
STARTED_WITHIN_S = 120.0
STOPPED_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line and its environment."""

    command: Sequence[str]
    model: str
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """A server under measurement: `launch(home, port, small)` says how it starts; `small` is the small RAM budget."""

    name: str
    title: str
    how: str
    launch: Callable[[Path, int, bool], Launch]
    scenarios: Sequence[str]
    lengths: tuple[int, ...] = (256, 900, 2048)
    streams: tuple[int, ...] = (1, 4, 8)
    repeats: int = 3
    prefill_tokens: int = 1500
    dropped_tokens: int = 2000


SCENARIOS = (
    "cold_ttft",
    "warm_ttft",
    "concurrent_decode",
    "interference",
    "cancel",
    "restart_ttft",
    "agents",
)
"""In the order in which they run; `agents` has a server with the small budget to itself."""


def models_dir() -> Path:
    """Return the folder of models that demo, tests and benchmark share."""
    return Path(os.environ.get("SEMANTIC_MODELS_DIR", ROOT / ".cache" / "models"))


def _semanticd(home: Path, port: int, small: bool) -> Launch:
    env = {
        "SEMANTIC_AGENT_CACHE_DIR": str(home / "caches"),
        "SEMANTIC_AGENT_DISK_RESERVE_GB": "0",
        # What is measured after a restart is what comes from disk.
        "SEMANTIC_AGENT_PRELOAD_SHARE": "0",
        "SEMANTIC_RUNTIME_DIR": str(home / "run"),
        "SEMANTIC_LOG_DIR": str(home / "logs"),
        "SEMANTIC_MODELS_DIR": str(models_dir()),
        "SEMANTIC_MLX_MODEL_ID": MODEL,
        "SEMANTIC_MLX_MAX_BATCH_SIZE": "8",
        "SEMANTIC_SERVER_PORT": str(port),
        "SEMANTIC_LOG_CONSOLE": "false",
    }
    if small:
        env["SEMANTIC_MLX_CACHE_BUDGET_MB"] = str(SMALL_BUDGET_MB)
    return Launch([sys.executable, "-m", "semanticd", "serve"], MODEL, env)


def _mlx_lm(home: Path, port: int, small: bool) -> Launch:
    del home
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(models_dir() / MODEL)]
    return Launch([*command, *_mlx_lm_options(port, small)], "default_model")


def _mlx_lm_float32(home: Path, port: int, small: bool) -> Launch:
    del home
    command = [
        sys.executable,
        str(ROOT / "contrib/dev/bench/mlx_lm_float32.py"),
        "--model",
        str(models_dir() / MODEL),
    ]
    command += ["--prefill-step-size", str(PREFILL_CHUNK)]
    return Launch([*command, *_mlx_lm_options(port, small)], "default_model", {"PYTHONPATH": str(ROOT)})


def _mlx_lm_options(port: int, small: bool) -> list[str]:
    options = ["--port", str(port), "--log-level", "WARNING"]
    if small:
        options += ["--prompt-cache-bytes", str(SMALL_BUDGET_MB * 2**20)]
    return options


def llama_cpp(server: Path, gguf: Path) -> Target:
    """Return llama.cpp's server from a program and a model file."""

    def launch(home: Path, port: int, small: bool) -> Launch:
        del home
        command = [
            str(server),
            "--model",
            str(gguf),
            "--port",
            str(port),
            "--threads",
            str(os.cpu_count() or 2),
        ]
        # Eight slots for eight streams, in one KV cache that holds the longest conversation twice.
        command += ["--ctx-size", "12288", "--parallel", "8", "--kv-unified", "--jinja"]
        if small:
            command += ["--cache-ram", str(SMALL_BUDGET_MB)]
        return Launch(command, MODEL)

    return Target(
        "llama_cpp",
        "llama.cpp",
        "`llama-server --ctx-size 12288 --parallel 8 --kv-unified`, built for this processor; the 4-bit file as it is, "
        "KV cache in 16 bits",
        launch,
        SCENARIOS,
    )


TARGETS = (
    Target(
        "semanticd",
        "semanticd",
        f"`semanticd serve` with `SEMANTIC_MLX_MAX_BATCH_SIZE=8`; MKL, float32 weights, chunks of {PREFILL_CHUNK}: "
        "its defaults on this machine",
        _semanticd,
        SCENARIOS,
    ),
    Target(
        "mlx_lm_float32",
        "mlx_lm.server, MKL and float32",
        f"`mlx_lm.server --prefill-step-size {PREFILL_CHUNK}` with MKL loaded and the weights written out in float32",
        _mlx_lm_float32,
        SCENARIOS,
    ),
    Target(
        "mlx_lm",
        "mlx_lm.server, out of the box",
        "`mlx_lm.server` as pip installs it: its own BLAS, 4-bit weights, chunks of 2,048; fewer and shorter prompts, "
        "because it is slow here",
        _mlx_lm,
        ("cold_ttft", "warm_ttft", "concurrent_decode", "restart_ttft"),
        lengths=(256,),
        streams=(1, 4),
        repeats=2,
    ),
)


class ServerProcess:
    """A running server on a port of its own; output goes to a log below `home`."""

    def __init__(self, target: Target, home: Path, *, small: bool = False) -> None:
        """Choose a port; nothing runs yet."""
        home.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.launch = target.launch(home, self.port, small)
        self.log = home / f"{target.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            BenchError: The server ended before it listened.
        """
        own = {key: value for key, value in os.environ.items() if not key.startswith("SEMANTIC_")}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220 (nothing else runs meanwhile)
                list(self.launch.command), env={**own, **self.launch.env}, stdout=output, stderr=output
            )
        for _ in range(int(STARTED_WITHIN_S / 0.05)):
            if self._process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            await asyncio.sleep(0.05)
        await self.stop()
        raise BenchError(
            f"`{' '.join(self.launch.command)}` did not listen within {STARTED_WITHIN_S:.0f} s; see {self.log}"
        )

    async def stop(self) -> None:
        """Ask it to end as Ctrl-C does, and kill it when it does not."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            await asyncio.to_thread(self._process.wait, STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    async def restart(self) -> None:
        """Replace the process."""
        await self.stop()
        await self.start()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
