"""A newcomer's home: an empty folder, our programs on PATH, and the examples of a page typed there one after another.

Addresses and the names of models stay as the page has them: a port of our own takes the place of 8000 (and 8001), and
the models that pages name are tiny ones of random weights, unless a test wants the real SmolLM2.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from semanticd.adapters.process import running_pid
from tests.docs.markdown_page import Block
from tests.fakes.daemon_process import free_port
from tests.fakes.tiny_folder import write_tiny_model

BLOCK_TIMEOUT_S = 150
_STAND_INS = ("smollm2-135m", "qwen3-8b", "mlx-community/Qwen3-4B-4bit")


class ExampleHome:
    """The home, and what is run in it."""

    def __init__(self, folder: Path, *, models_dir: Path | None = None) -> None:
        """Furnish it; with `models_dir` SmolLM2 is the real one, from there."""
        self.folder = folder
        self._ports = {"8000": str(free_port()), "8001": str(free_port())}
        config = folder / "config.toml"
        config.write_text(self._stand_ins(_STAND_INS[1:] if models_dir else _STAND_INS), encoding="utf-8")
        # What curl is answered with 4xx or 5xx fails the example.
        (folder / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n", encoding="utf-8")
        self._env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "SEMANTIC_CONFIG_FILE": str(config),
            "SEMANTIC_RUNTIME_DIR": str(folder / "run"),
            "SEMANTIC_LOG_DIR": str(folder / "logs"),
            "SEMANTIC_MODELS_DIR": str(models_dir or folder / "models"),
            "SEMANTIC_MLX_CACHE_BUDGET_MB": "256",
            "SEMANTIC_SERVER_PORT": self._ports["8000"],
        }

    def _stand_ins(self, names: tuple[str, ...]) -> str:
        lines = []
        for seed, name in enumerate(names):
            model = write_tiny_model(self.folder / "tiny" / str(seed), seed=seed)
            lines += [f'[models."{name}"]', f'sources = ["{model}"]', f'description = "stands in for {name}"']
        return "\n".join(lines) + "\n"

    def start(self) -> None:
        """Start the daemon, for pages that take a running one for granted."""
        self.run(Block(0, "bash", "semanticd start"))

    def run(self, block: Block) -> str:
        """Run one block as it stands; returns what it printed, with the page's own ports.

        Raises:
            AssertionError: It failed.
        """
        text = re.sub(r"(?<=[:= ])(8000|8001)\b", lambda port: self._ports[port[0]], block.text)
        command = (
            [sys.executable, "-c", text]
            if block.language == "python"
            else ["bash", "-euo", "pipefail", "-c", text]
        )
        ran = subprocess.run(
            command,
            cwd=self.folder,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=BLOCK_TIMEOUT_S,
            check=False,
        )
        assert ran.returncode == 0, f"{text}\n--- ended with {ran.returncode}\n{ran.stdout}{ran.stderr}"
        printed = ran.stdout
        for shown, port in self._ports.items():
            printed = printed.replace(port, shown)
        return printed.replace(str(self.folder), "~")

    def leave(self) -> None:
        """End the daemons that examples started."""
        for path in self.folder.rglob("semanticd.pid"):
            pid = running_pid(path)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
