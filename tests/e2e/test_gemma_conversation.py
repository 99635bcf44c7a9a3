"""Gemma 3 270M, whose sliding windows cannot be cut, through a long conversation and three restarts.

It is a base model without a chat template, so the conversation is a text that it continues.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import real_gguf
from tests.fakes.daemon_process import DaemonProcess

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(900)]

NUM_TURNS = 20
RESTARTS = {5: "stop", 10: "kill", 15: "stop"}
THINGS = (
    "river",
    "forest",
    "bridge",
    "harbour",
    "garden",
    "mountain",
    "library",
    "market",
    "station",
    "island",
)
BEGINNING = "A story in short sentences. " + "It is kind and exact. " * 40


def question(turn: int) -> str:
    return f"\n\nPart {turn}. What happens at the {THINGS[turn % len(THINGS)]} now?\n\n"


def complete(daemon: DaemonProcess, text: str) -> dict[str, Any]:
    body = {"model": "default", "prompt": text, "max_tokens": 32, "temperature": 0}
    url, headers = f"{daemon.url}/v1/completions", {"X-Session-ID": "ada"}
    response = httpx.post(url, json=body, headers=headers, timeout=300)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.fixture
def settings(models_dir: Path) -> dict[str, str]:
    return {"SEMANTIC_MLX_MODEL_ID": str(real_gguf.gemma(models_dir))}


@pytest.fixture
def daemon(short_tmp_path: Path, models_dir: Path, settings: dict[str, str]) -> Iterator[DaemonProcess]:
    process = DaemonProcess(short_tmp_path, models_dir=models_dir, **settings)
    process.start()
    yield process
    process.kill()


def test_twenty_turns_through_three_restarts_reuse_nearly_all(
    daemon: DaemonProcess, short_tmp_path: Path, models_dir: Path, settings: dict[str, str]
) -> None:
    text, known, reusable, reused = BEGINNING, 0, 0, 0
    for turn in range(NUM_TURNS):
        if turn in RESTARTS:
            if RESTARTS[turn] == "stop":
                assert daemon.stop() == 0
            else:
                daemon.wait_until_written()
                daemon.kill()
            daemon.start()
        asked = text + question(turn)
        answer = complete(daemon, asked)
        cost, usage = daemon.last_turn("ada"), answer["usage"]
        reusable += known
        reused += min(cost["prompt_tokens"] - cost["computed_tokens"], known)
        known = usage["prompt_tokens"] + usage["completion_tokens"]
        text = asked + answer["choices"][0]["text"]
    assert reused >= 0.97 * reusable
    daemon.kill()
    cold = DaemonProcess(short_tmp_path / "cold", models_dir=models_dir, **settings)
    cold.home.mkdir()
    cold.start()
    try:
        assert complete(cold, asked)["choices"][0]["text"] == answer["choices"][0]["text"]
        assert cold.last_turn("ada")["computed_tokens"] == cost["prompt_tokens"]
    finally:
        cold.kill()
