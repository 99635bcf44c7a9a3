"""Two real daemons as peers: a conversation goes on at the other one, and nothing that was computed is again."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from semanticd.control.client import ControlClient
from tests.fakes.daemon_process import DaemonProcess, text_of
from tests.fakes.tiny_families import write_tiny_family
from tests.fakes.tiny_folder import write_tiny_model

pytestmark = pytest.mark.timeout(600)

WORDS = "the people were there and each of them would find some water and a long way down "
Pair = tuple[DaemonProcess, DaemonProcess]


def plain(folder: Path) -> Path:
    return write_tiny_model(folder)


def recurrent(folder: Path) -> Path:
    return write_tiny_family(folder, "qwen3_next")


@pytest.fixture(params=[plain, recurrent], ids=["plain", "recurrent"])
def pair(request: pytest.FixtureRequest, short_tmp_path: Path) -> Iterator[Pair]:
    """Two daemons that serve one model and name each other as peers."""
    model = request.param(short_tmp_path / "model")
    made: list[DaemonProcess] = []
    for name in ("a", "b"):
        (short_tmp_path / name).mkdir()
        daemon = DaemonProcess(
            short_tmp_path / name,
            models_dir=short_tmp_path / "models",
            command=("-m", "tests.fakes.patient_daemon"),
            PYTHONPATH=sys.path[0],
            SEMANTIC_MLX_MODEL_ID=str(model),
        )
        made.append(daemon)
    for daemon, other in zip(made, reversed(made), strict=True):
        daemon.env["SEMANTIC_PEERS"] = other.url
    for daemon in made:
        daemon.start()
    yield made[0], made[1]
    for daemon in made:
        daemon.kill()


class Conversation:
    """An agent that sends all that was said each time."""

    def __init__(self, agent: str = "ada") -> None:
        self.agent = agent
        system = {"role": "system", "content": WORDS * 120}
        self.messages = [system, {"role": "user", "content": "what did they find"}]

    def turn(self, daemon: DaemonProcess, *, max_tokens: int = 24) -> dict[str, Any]:
        """Let a daemon answer; returns what that cost."""
        answer = daemon.chat(self.messages, agent=self.agent, model="default", max_tokens=max_tokens)
        self.messages += [
            {"role": "assistant", "content": text_of(answer)},
            {"role": "user", "content": "and what then"},
        ]
        return daemon.last_turn(self.agent)


def where(daemon: DaemonProcess, messages: list[dict[str, str]]) -> dict[str, int]:
    """Return where the tokens of a prompt lie, as a daemon sees it."""
    body = {"model": "default", "messages": messages}
    answer = httpx.post(f"{daemon.url}/v1/prefix/lookup", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, int] = answer.json()
    assert found["prompt_tokens"] == sum(
        found[f"{tier}_tokens"] for tier in ("hot", "warm", "peer", "missing")
    )
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def peer_of(daemon: DaemonProcess) -> dict[str, Any]:
    with ControlClient.connect(daemon.home / "run" / "semanticd.sock") as client:
        (peer,) = client.call("status")["peers"]
    return dict(peer)


def test_a_conversation_moves_to_the_peer_and_stays_there_when_the_first_one_is_gone(pair: Pair) -> None:
    a, b = pair
    talk = Conversation()
    first = talk.turn(a)
    assert first["prompt_tokens"] > 2000
    known = where(a, talk.messages)["hot_tokens"]
    assert known >= first["prompt_tokens"] - 16
    # A peer sees what is on disk, which the last blocks reach soon.
    until(lambda: where(b, talk.messages)["peer_tokens"] == known)
    assert where(b, talk.messages)["hot_tokens"] == 0

    asked = list(talk.messages)
    moved = talk.turn(b)
    assert moved["restored_warm_tokens"] == known, "nothing beyond the new turn is computed"
    assert moved["miss"] is None
    here = a.chat(asked, agent="eve", model="default", max_tokens=24)
    assert text_of(here) == talk.messages[-2]["content"], "the answer is that of the first machine"
    peer = peer_of(b)
    assert peer["address"] == a.url
    assert peer["num_blocks"] > 4
    assert peer["num_failures"] == 0

    a.kill()
    assert b.stop() == 0
    b.start()
    known = where(b, talk.messages)["warm_tokens"]
    assert known >= moved["prompt_tokens"] - 16
    alone = talk.turn(b)
    assert alone["restored_warm_tokens"] == known
    assert peer_of(b)["state"] in ("ready", "resting"), "a machine that is gone holds up nothing"

    # The first one starts again, with an empty disk: what it lost comes back from its peer.
    shutil.rmtree(a.home / "caches")
    a.start()
    until(lambda: where(a, talk.messages)["peer_tokens"] > moved["prompt_tokens"])
    back = talk.turn(a)
    assert back["restored_warm_tokens"] > moved["prompt_tokens"]
