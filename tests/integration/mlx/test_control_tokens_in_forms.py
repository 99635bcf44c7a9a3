"""A value of a schema that holds the text of a control token comes whole in every dialect, in forms and in calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.tiny_families import write_tiny_family
from tests.fakes.whole_daemon import WholeDaemon

pytestmark = pytest.mark.timeout(600)

VALUES = ("a <|im_end|> b", "word " * 60 + "<|im_end|> and a tail")
ASKED = [{"role": "user", "content": "Look at the sky."}]
COMMON: dict[str, Any] = {"model": "default", "messages": ASKED, "max_tokens": 600, "temperature": 0}
SILENT = {**COMMON, "reasoning_effort": "none"}


def schema_of(value: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"at": {"enum": [value]}, value: {"const": value}},
        "required": ["at", value],
    }


def dialects(schema: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any], Callable[[Any], Any]]]:
    """Return for each way to ask for the form its path, its body, and where the value stands in the answer."""
    tool = {"name": "look", "description": "Looks.", "parameters": schema}
    function = {"type": "function", "function": tool}
    asked = {"model": "default", "input": "Look.", "max_output_tokens": 600, "temperature": 0}
    asked["reasoning"] = {"effort": "none"}
    anthropic = {**COMMON, "thinking": {"type": "disabled"}}
    ollama = {**COMMON, "stream": False, "think": False, "options": {"num_predict": 600, "temperature": 0}}
    form = {"type": "json_schema", "schema": schema}
    return {
        "chat, a form": (
            "/v1/chat/completions",
            {
                **SILENT,
                "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
            },
            lambda body: json.loads(body["choices"][0]["message"]["content"]),
        ),
        "chat, a call": (
            "/v1/chat/completions",
            {**SILENT, "tools": [function], "tool_choice": "required"},
            lambda body: json.loads(body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]),
        ),
        "completions, a form": (
            "/v1/completions",
            {"model": "default", "prompt": "Look.", "max_tokens": 600, "guided_json": schema},
            lambda body: json.loads(body["choices"][0]["text"]),
        ),
        "responses, a form": (
            "/v1/responses",
            {**asked, "text": {"format": {**form, "name": "a"}}},
            lambda body: json.loads(body["output"][-1]["content"][0]["text"]),
        ),
        "responses, a call": (
            "/v1/responses",
            {**asked, "tools": [{"type": "function", **tool}], "tool_choice": "required"},
            lambda body: json.loads(body["output"][-1]["arguments"]),
        ),
        "anthropic, a form": (
            "/v1/messages",
            {**anthropic, "output_config": {"format": form}},
            lambda body: json.loads(body["content"][-1]["text"]),
        ),
        "anthropic, a call": (
            "/v1/messages",
            {
                **anthropic,
                "tools": [{"name": "look", "input_schema": schema}],
                "tool_choice": {"type": "any"},
            },
            lambda body: body["content"][-1]["input"],
        ),
        "ollama, a form": (
            "/api/chat",
            {**ollama, "format": schema},
            lambda body: json.loads(body["message"]["content"]),
        ),
        "agents, a form": (
            "/v1/agents/ann/generate",
            {"prompt": "Look.", "max_tokens": 600, "temperature": 0, "format": form},
            lambda body: json.loads(body["text"]),
        ),
    }


@pytest.mark.parametrize("value", VALUES, ids=["short", "long"])
async def test_a_value_with_a_control_tokens_text_comes_whole(tmp_path: Path, value: str) -> None:
    model = write_tiny_family(tmp_path / "model", "llama")
    async with WholeDaemon(tmp_path, model=model) as daemon:
        assert (await daemon.client.post("/v1/agents", {"id": "ann"})).status in (200, 201)
        for name, (path, body, said) in dialects(schema_of(value)).items():
            answer = await daemon.client.post(path, body)
            assert answer.status == 200, (name, answer.content)
            assert said(answer.json) == {"at": value, value: value}, (name, answer.json)
