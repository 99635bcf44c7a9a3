"""What coding agents were seen to send, to a real daemon: the calls of their own tools are valid."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.tiny_folder import write_tiny_model

CAPTURED = Path(__file__).resolve().parents[1] / "data" / "http"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    home = tmp_path_factory.mktemp("daemon")
    process = DaemonProcess(
        home,
        models_dir=home / "models",
        SEMANTIC_MLX_MODEL_ID=str(write_tiny_model(home / "tiny", context=131072)),
        SEMANTIC_MLX_CACHE_BUDGET_MB="768",
        SEMANTIC_RUNTIME_DIR=f"/tmp/smt-{os.getpid()}-captured",
    )
    process.start()
    yield process
    process.kill()


DIALECTS = {
    "/v1/messages": {"tool_choice": {"type": "any"}, "max_tokens": 700, "thinking": None, "stream": False},
    "/v1/chat/completions": {"tool_choice": "required", "max_tokens": 700, "stream": False},
    "/v1/responses": {"tool_choice": "required", "max_output_tokens": 700, "stream": False},
}


def first_capture_with_tools(path: Path) -> dict[str, Any]:
    captures = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return next(captured for captured in captures if captured["body"].get("tools"))


def schemas(body: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas of the tools offered, by name, in any dialect; those in namespaces too."""
    found = {}
    for tool in [one for outer in body["tools"] for one in (outer.get("tools") or [outer])]:
        one = tool.get("function", tool)
        found[one.get("name", "")] = one.get("input_schema") or one.get("parameters")
    return found


def calls(answer: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the calls made, in any dialect."""
    if "choices" in answer:
        made = answer["choices"][0]["message"]["tool_calls"]
        return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in made]
    if "output" in answer:
        made = [item for item in answer["output"] if item["type"] == "function_call"]
        return [(item["name"], json.loads(item["arguments"])) for item in made]
    return [(block["name"], block["input"]) for block in answer["content"] if block["type"] == "tool_use"]


@pytest.mark.parametrize("path", sorted(CAPTURED.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_call_of_a_programs_own_tools_is_valid(daemon: DaemonProcess, path: Path) -> None:
    captured = first_capture_with_tools(path)
    body = {**captured["body"], **DIALECTS[captured["path"]]}
    headers = {k: v for k, v in captured["headers"].items() if k.lower() != "content-length"}
    response = httpx.post(f"{daemon.url}{captured['path']}", json=body, headers=headers, timeout=200)
    assert response.status_code == 200, response.text
    made = calls(response.json())
    assert made
    for name, arguments in made:
        jsonschema.validate(arguments, schemas(body)[name])
