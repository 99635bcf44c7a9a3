"""What version 0.1.0 left on a user's disk, and what its clients send: it works, or is refused with a clear reason.

`tests/data/upgrade` was written by 0.1.0 itself: a cache folder with two agents, a settings file, an export, the frames
that its control client sends, and the names of its settings, control commands and results.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest

from semanticd.adapters.config.schema import declared
from semanticd.adapters.control.commands import COMMANDS
from semanticd.control import results
from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.tiny_folder import write_tiny_model

DATA = Path(__file__).resolve().parents[1] / "data" / "upgrade"
FRAMES = [json.loads(line) for line in (DATA / "control-0.1.0.jsonl").read_text().splitlines()]
NAMES = json.loads((DATA / "names-0.1.0.json").read_text())
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    home = Path(tmp_path_factory.mktemp("up"))
    with tarfile.open(DATA / "home-0.1.0.tar.gz") as kept:
        kept.extractall(home, filter="data")
    made = DaemonProcess(
        home,
        models_dir=home / "models",
        SEMANTIC_CONFIG_FILE=str(home / "config.toml"),
        SEMANTIC_MLX_MODEL_ID=str(write_tiny_model(home / "tiny")),
    )
    made.start()
    yield made
    made.kill()


def ask(control: socket.socket, frame: bytes) -> dict[str, Any]:
    """Send a frame as it was written, and return the reply to it."""
    control.sendall(frame)
    (size,) = struct.unpack(">I", read(control, 4))
    reply: dict[str, Any] = msgpack.unpackb(read(control, size))
    return ask(control, b"") if "event" in reply else reply


def read(control: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        part = control.recv(size - len(got))
        assert part, "the daemon closed the connection"
        got += part
    return got


def test_agents_keep_their_conversations_and_take_their_next_turn(daemon: DaemonProcess) -> None:
    with httpx.Client(base_url=daemon.url, timeout=60) as http:
        assert {row["id"] for row in http.get("/v1/agents").json()["data"]} == {"ranger", "alice"}
        messages = http.get("/v1/agents/ranger/messages").json()["data"]
        assert [message["role"] for message in messages] == ["user", "assistant"]
        assert messages[0]["content"] == "Name a river."
        body = {"prompt": "And another.", "max_tokens": 4}
        answer = http.post("/v1/agents/ranger/generate", json=body)
        assert answer.status_code == 200, answer.text
        assert len(http.get("/v1/agents/ranger/messages").json()["data"]) == 4
        # Blocks of another layout are computed again once, and found from then on.
        body = {"prompt": "And one more.", "max_tokens": 4}
        usage = http.post("/v1/agents/ranger/generate", json=body).json()["usage"]
        assert usage["cache"]["reused_hot_tokens"] > 0


def test_settings_are_read_as_they_were_written(daemon: DaemonProcess) -> None:
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(daemon.home / "run" / "semanticd.sock"))
        frames = {frame["cmd"]: bytes.fromhex(frame["frame"]) for frame in FRAMES}
        ask(control, frames["hello"])
        shown = ask(control, frames["config.show"])["result"]["settings"]
    values = {row["name"]: row["value"] for row in shown}
    assert (values["mlx.max_batch_size"], values["agent.cache_max_gb"]) == (3, 0.5)
    assert values["server.model_patterns"] == ["claude-*", "default"]


def test_an_export_of_the_old_layout_is_refused_with_what_to_do(daemon: DaemonProcess) -> None:
    content = (daemon.home / "ranger.agent").read_bytes()
    answer = httpx.post(f"{daemon.url}/v1/agents/import?id=moved", content=content, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "agent_file_refused")
    assert "the same mlx and mlx-lm" in answer.json()["error"]["message"]
    assert httpx.get(f"{daemon.url}/v1/agents/moved", timeout=60).status_code == 404


def test_a_control_client_of_0_1_0_is_answered_whatever_it_asks(daemon: DaemonProcess) -> None:
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(60)
        control.connect(str(daemon.home / "run" / "semanticd.sock"))
        for frame in FRAMES:
            reply = ask(control, bytes.fromhex(frame["frame"]))
            assert reply["ok"], (frame["cmd"], reply)


def test_every_setting_of_0_1_0_is_still_read_under_all_its_names() -> None:
    present = {one.name: one for one in declared()}
    for then in NAMES["settings"]:
        now = present[then["name"]]
        assert (now.env, now.flag) == (then["env"], then["flag"])
        for value in then["values"]:
            now.read(value)


def test_every_command_of_0_1_0_takes_what_it_took_and_asks_for_no_more() -> None:
    for cmd, then in NAMES["commands"].items():
        present = {argument.name: argument for argument in COMMANDS[cmd].arguments}
        for argument in then:
            now = present.pop(argument["name"])
            assert now.kind == argument["kind"], cmd
            assert argument["required"] or not now.required, cmd
            assert set(argument.get("choices", ())) <= set(now.choices) or not now.choices, cmd
            assert now.minimum <= argument.get("minimum", now.minimum), cmd
        assert [new.name for new in present.values() if new.required] == [], cmd


def test_every_field_of_a_result_that_a_client_of_0_1_0_reads_is_still_sent() -> None:
    for name, then in NAMES["results"].items():
        fields = {
            one.metadata.get("key", one.name): str(one.type)
            for one in dataclasses.fields(getattr(results, name))
        }
        assert {field: kind for field, kind in then.items() if fields.get(field) != kind} == {}, name
