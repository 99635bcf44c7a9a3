"""Installs the client programs once, into `.cache/clients`, and runs a real daemon for them.

Its model has random weights and a long context: what it says is nonsense, and what has a form has it because it was
enforced. A client is skipped, with the reason, where its registry cannot be reached; anything else that goes wrong
while installing is a failure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.tiny_folder import write_tiny_model

CLIENTS = Path(__file__).resolve().parents[3] / ".cache" / "clients"
HERE = Path(__file__).parent

NODE_SDKS = ("openai@7", "@anthropic-ai/sdk@1", "ollama@0.6")
PROGRAMS = (
    "@anthropic-ai/claude-code@2.1.332",
    "@openai/codex@0.171.0",
    "opencode-ai@1.18.33",
    # The newest that runs on Node 20.
    "@qwen-code/qwen-code@0.15.10",
    "cline@3.0.65",
    # The newest whose programs for Linux are all there.
    "@kilocode/cli@7.7.7",
)


def _node_modules(name: str, packages: Sequence[str]) -> Path:
    """Install npm packages into a folder of their own and return it."""
    if shutil.which("npm") is None:
        pytest.skip("Node is not installed")
    folder = CLIENTS / name
    stamp = folder / "installed.json"
    wanted = json.dumps(packages)
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}', encoding="utf-8")
        install = ["npm", "install", "--no-audit", "--no-fund", *packages]
        if subprocess.run(install, cwd=folder, check=False).returncode:
            if subprocess.run(
                ["npm", "view", "openai", "version"], capture_output=True, check=False
            ).returncode:
                pytest.skip("the npm registry cannot be reached")
            raise AssertionError(f"could not install {', '.join(packages)}: npm's lines above say why")
        stamp.write_text(wanted, encoding="utf-8")
    return folder


def _environment(name: str, pins: Path) -> Path:
    """Make a virtual environment with the pinned Python packages and return it."""
    folder = CLIENTS / name
    stamp = folder / "installed.txt"
    wanted = pins.read_text(encoding="utf-8")
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
        ]
        # The pins are complete, so pip need not search; what is never imported need not be compiled.
        done = subprocess.run([*pip, "--no-deps", "--no-compile", "--requirement", str(pins)], check=False)
        if done.returncode:
            there = subprocess.run([*pip, "--dry-run", "--no-deps", "six"], capture_output=True, check=False)
            if there.returncode:
                pytest.skip("the Python package registry cannot be reached")
            raise AssertionError(f"could not install {pins.name}: pip's lines above say why")
        stamp.write_text(wanted, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def node_sdks() -> Path:
    """The folder that holds the official Node SDKs."""
    return _node_modules("node-sdks", NODE_SDKS)


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder that holds the coding agents; a gigabyte."""
    return _node_modules("npm", PROGRAMS) / "node_modules"


@pytest.fixture(scope="session")
def python_programs() -> Path:
    """The programs of the environment that holds aider and llm."""
    return _environment("python-programs", HERE / "python-programs.txt") / "bin"


@pytest.fixture(scope="session")
def python_libraries() -> Path:
    """The programs of the environment that holds the agent libraries and schemathesis."""
    return _environment("python", HERE / "python-libraries.txt") / "bin"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon with folders of its own."""
    home = tmp_path_factory.mktemp("daemon")
    process = DaemonProcess(
        home,
        models_dir=home / "models",
        SEMANTIC_MLX_MODEL_ID=str(write_tiny_model(home / "tiny", context=131072)),
        SEMANTIC_MLX_CACHE_BUDGET_MB="768",
        SEMANTIC_RUNTIME_DIR=f"/tmp/smt-{os.getpid()}-clients",
    )
    process.start()
    yield process
    process.kill()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a folder `project` for a program to work in."""
    (tmp_path / "project").mkdir()
    return tmp_path


@pytest.fixture
def run(home: Path) -> Callable[..., str]:
    """Runs a program in that home's project and returns what it wrote to stdout."""

    def run(command: Sequence[str | Path], **env: str) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=home / "project",
            env={"PATH": os.environ["PATH"], "HOME": str(home), **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    return run
