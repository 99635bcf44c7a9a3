"""The cases of Open Responses' compliance test against a real daemon: each answer and each event as its document says.

The model has random weights: that it calls a tool is required by `tool_choice`, and that an answer ends by its length.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.open_responses import event_faults, faults
from tests.fakes.tiny_folder import write_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ASKED = [{"type": "message", "role": "user", "content": "How is the weather in Oslo?"}]
TOOL = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    },
}
CALLING = {"input": ASKED, "tools": [TOOL], "tool_choice": "required", "max_output_tokens": 400}
CASES: dict[str, dict[str, Any]] = {
    "a text": {"input": ASKED},
    "a system text": {
        "input": [{"type": "message", "role": "system", "content": "Talk like a sailor."}, *ASKED],
    },
    "several turns": {
        "input": [
            {"type": "message", "role": "user", "content": "I am Ann."},
            {"type": "message", "role": "assistant", "content": "Hello, Ann."},
            *ASKED,
        ]
    },
    "a call": CALLING,
}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    home = tmp_path_factory.mktemp("daemon")
    model = write_tiny_model(home / "tiny", context=8192)
    process = DaemonProcess(home, models_dir=home / "models", SEMANTIC_MLX_MODEL_ID=str(model))
    process.start()
    with httpx.Client(base_url=process.url, timeout=300) as client:
        yield client
    process.kill()


def checked(response: dict[str, Any], case: str) -> dict[str, Any]:
    assert faults(response, "Response", "response") == []
    assert response["output"]
    if case == "a call":
        assert response["status"] == "completed"
        assert [item["type"] for item in response["output"]] == ["function_call"]
    return response


@pytest.mark.parametrize("case", CASES)
def test_a_case_is_answered_whole_and_streamed_as_the_document_says(http: httpx.Client, case: str) -> None:
    body = {"model": "default", "max_output_tokens": 24, **CASES[case]}
    whole = http.post("/v1/responses", json=body)
    assert whole.status_code == 200, whole.text
    checked(whole.json(), case)
    streamed = http.post("/v1/responses", json={**body, "stream": True}).text
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert [fault for event in events for fault in event_faults(event)] == []
    last = checked(events[-1]["response"], case)
    assert events[-1]["type"] == f"response.{last['status']}"
    if case == "a call":
        kinds = {event["type"] for event in events}
        assert kinds >= {f"response.function_call_arguments.{state}" for state in ("delta", "done")}
        items = [
            event["item"]["type"] for event in events if event["type"].startswith("response.output_item")
        ]
        assert items == ["function_call", "function_call"]


def test_an_image_is_refused_with_the_payload_of_an_error(http: httpx.Client) -> None:
    content = [{"type": "input_text", "text": "What is this?"}, IMAGE]
    body = {"model": "default", "input": [{"type": "message", "role": "user", "content": content}]}
    answer = http.post("/v1/responses", json=body)
    assert answer.status_code == 400
    assert faults(answer.json()["error"], "ErrorPayload", "error") == []
