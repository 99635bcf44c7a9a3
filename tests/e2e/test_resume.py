"""The main job on the real model: what an agent said is never computed again, whatever happened to the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

from tests.fakes.daemon_process import MODEL, DaemonProcess, text_of
from tests.fakes.engine_rig import wait_until

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

SYSTEM = {
    "role": "system",
    "content": "You answer in one short sentence. " + "You are polite and exact. " * 12,
}
QUESTION = {"role": "user", "content": "Name three colours of the rainbow."}
NEXT = {"role": "user", "content": "Now name two fruits."}


@pytest.fixture
def daemon(short_tmp_path: Path, models_dir: Path) -> Iterator[DaemonProcess]:
    process = DaemonProcess(short_tmp_path, models_dir=models_dir)
    process.start()
    yield process
    process.kill()


def test_after_kill_9_in_the_middle_of_an_answer_earlier_turns_are_warm_and_the_answer_is_the_cold_one(
    daemon: DaemonProcess, short_tmp_path: Path, models_dir: Path
) -> None:
    first = daemon.chat([SYSTEM, QUESTION], agent="ada")
    daemon.wait_until_written()
    conversation = [SYSTEM, QUESTION, {"role": "assistant", "content": text_of(first)}, NEXT]
    body = {"model": MODEL, "messages": conversation, "max_tokens": 200, "temperature": 0, "stream": True}
    headers = {"X-Session-ID": "ada"}
    with httpx.stream(
        "POST", f"{daemon.url}/v1/chat/completions", json=body, headers=headers, timeout=60
    ) as stream:
        pieces = 0
        for line in stream.iter_lines():
            pieces += '"content"' in line
            if pieces == 4:
                daemon.kill()
                break
    daemon.start()
    warm = daemon.chat(conversation, agent="ada")
    cost = daemon.last_turn("ada")
    known = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert cost["restored_warm_tokens"] >= known
    assert cost["computed_tokens"] <= cost["prompt_tokens"] - known
    daemon.kill()
    cold = DaemonProcess(short_tmp_path / "cold", models_dir=models_dir)
    cold.home.mkdir()
    cold.start()
    try:
        assert text_of(cold.chat(conversation, agent="ada")) == text_of(warm)
        assert cold.last_turn("ada")["computed_tokens"] == cost["prompt_tokens"]
    finally:
        cold.kill()


def test_kill_9_right_behind_an_answer_takes_no_turn_that_the_server_keeps(daemon: DaemonProcess) -> None:
    url = f"{daemon.url}/v1/agents"
    assert httpx.post(url, json={"id": "kept"}, timeout=60).status_code == 201
    for number, streams in enumerate((False, True, False), start=1):
        body = {"prompt": f"Say the number {number}.", "max_tokens": 4, "stream": streams}
        assert httpx.post(f"{url}/kept/generate", json=body, timeout=300).status_code == 200
        daemon.kill()
        daemon.start()
        assert len(httpx.get(f"{url}/kept/messages", timeout=60).json()["data"]) == 2 * number
    asked = {"model": MODEL, "input": "hello", "max_output_tokens": 16}
    answered = httpx.post(f"{daemon.url}/v1/responses", json=asked, timeout=300)
    daemon.kill()
    daemon.start()
    assert httpx.get(f"{daemon.url}/v1/responses/{answered.json()['id']}", timeout=60).status_code == 200


def test_the_last_users_conversation_is_in_ram_soon_after_a_restart(
    short_tmp_path: Path, models_dir: Path
) -> None:
    process = DaemonProcess(short_tmp_path, models_dir=models_dir, SEMANTIC_AGENT_PRELOAD_SHARE="0.5")
    process.start()
    try:
        first = process.chat([SYSTEM, QUESTION], agent="ada")
        assert process.stop() == 0
        process.start()
        wait_until(lambda: "agents_preloaded" in process.log.read_text(), "the preload")
        said = {"role": "assistant", "content": text_of(first)}
        process.chat([SYSTEM, QUESTION, said, NEXT], agent="ada", max_tokens=2)
        cost = process.last_turn("ada")
    finally:
        process.kill()
    known = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert (cost["reused_hot_tokens"], cost["restored_warm_tokens"]) == (known, 0)


def test_ctrl_c_persists_and_exits_0_and_the_next_start_is_warm(daemon: DaemonProcess) -> None:
    first = daemon.chat([SYSTEM, QUESTION], agent="ada")
    assert daemon.stop() == 0
    daemon.start()
    daemon.chat(
        [SYSTEM, QUESTION, {"role": "assistant", "content": text_of(first)}, NEXT], agent="ada", max_tokens=2
    )
    cost = daemon.last_turn("ada")
    assert (
        cost["restored_warm_tokens"] == first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    )


def test_the_official_sdks_stream_a_reply(daemon: DaemonProcess) -> None:
    client = openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=[SYSTEM, QUESTION],
            max_tokens=8,
            temperature=0,
            stream=True,  # type: ignore[list-item]
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    messages = anthropic.Anthropic(base_url=daemon.url, api_key="none", max_retries=0).messages
    with messages.stream(
        model=MODEL,
        max_tokens=8,
        system=SYSTEM["content"],
        messages=[QUESTION],  # type: ignore[list-item]
        extra_headers={"anthropic-version": "2023-06-01"},
        extra_body={"temperature": 0},
    ) as stream:
        same = "".join(stream.text_stream)
        usage = stream.get_final_message().usage
    assert text
    assert same == text
    assert usage.cache_read_input_tokens, "the second client found the first one's prompt"
