"""The recipes for SDKs, run as the documentation says, against a real daemon with a tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.tiny_folder import write_tiny_model

RECIPES = Path(__file__).resolve().parents[2] / "contrib" / "recipes"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    home = tmp_path_factory.mktemp("recipes")
    process = DaemonProcess(
        home,
        models_dir=home / "models",
        SEMANTIC_MLX_MODEL_ID=str(write_tiny_model(home / "tiny")),
        SEMANTIC_MLX_CACHE_BUDGET_MB="128",
        SEMANTIC_RUNTIME_DIR=f"/tmp/smt-{os.getpid()}-recipes",
        SEMANTIC_API_KEY="sk-recipe",
    )
    process.start()
    yield process
    process.kill()


def run(recipe: str, daemon: DaemonProcess) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(RECIPES / recipe)],
        env={**os.environ, "SEMANTICD_URL": daemon.url, "SEMANTIC_API_KEY": "sk-recipe"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def num_cached(line: str) -> int:
    """Return the number in a recipe's last line."""
    return int(line.removeprefix("[").split()[0])


def test_the_openai_recipe_talks_as_two_agents(daemon: DaemonProcess) -> None:
    said = run("openai_sdk.py", daemon)
    assert said[0].startswith("planner: ")
    assert sum(line.startswith("critic: ") for line in said) == 1
    assert sum("prompt tokens were cached]" in line for line in said) == 2


def test_the_anthropic_recipe_finds_its_prompt_again(daemon: DaemonProcess) -> None:
    first, second = (run("anthropic_sdk.py", daemon)[-1] for _ in range(2))
    assert first.endswith(" prompt tokens were cached]")
    assert num_cached(second) > num_cached(first) + 10
