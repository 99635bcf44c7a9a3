"""What editors ask an Ollama server before a user can choose a model is answered with what they read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from tests.fakes.asgi_client import Answer, AsgiClient
from tests.fakes.generator import ScriptedGenerator, call_script
from tests.fakes.http_services import make_services
from tests.fakes.models_service import FakeModels

FILE = Path(__file__).parents[2] / "data" / "http" / "model_pickers.json"
PICKERS: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))


async def answer_to(client: AsgiClient, call: dict[str, Any]) -> Answer:
    body = json.dumps(call["body"]).encode() if "body" in call else b""
    return await client.send(call["method"], call["path"], body, headers=call["headers"])


@pytest.mark.parametrize("picker", PICKERS, ids=lambda picker: picker["editor"].split()[0])
async def test_an_editor_finds_and_asks_a_model(picker: dict[str, Any]) -> None:
    generator = ScriptedGenerator([*call_script("read_file", {"path": "a"})])
    client = AsgiClient(create_app(make_services(generator), HttpConfig(version="1.2")))
    for call in picker["calls"]:
        answer = await answer_to(client, call)
        assert answer.status == 200, (call["path"], answer.content)
        if "reads" in call:
            jsonschema.validate(answer.json, call["reads"])
        if "reads_lines" in call:
            lines = [json.loads(line) for line in answer.content.decode().splitlines()]
            for line in lines:
                jsonschema.validate(line, call["reads_lines"])
            assert [line["done"] for line in lines] == [False, True]
            assert lines[0]["message"]["tool_calls"][0]["function"]["name"] == "read_file"
    request = generator.requests[-1]
    assert request.model == "tiny"
    assert [tool.name for tool in request.prompt.tools] == ["read_file"]  # type: ignore[union-attr]


async def test_the_names_that_are_listed_are_those_that_answer() -> None:
    client = AsgiClient(create_app(make_services(ScriptedGenerator()), HttpConfig()))
    for model in (await client.get("/api/tags")).json["models"]:
        for name in (model["name"], model["model"]):
            shown = await client.post("/api/show", {"model": name})
            assert shown.status == 200
            asked = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
            assert (await client.post("/api/chat", asked)).status == 200
            assert (await client.post("/v1/chat/completions", asked)).status == 200


def test_two_editors_are_known() -> None:
    assert len(PICKERS) == 2


async def test_a_profile_is_listed_as_a_model_and_found_by_its_name() -> None:
    models = FakeModels("tiny", aliases=("small",), profiles=("coder-fast",))
    client = AsgiClient(create_app(make_services(models=models), HttpConfig()))
    assert [one["id"] for one in (await client.get("/v1/models")).json["data"]] == ["tiny", "coder-fast"]
    anthropic = {"anthropic-version": "2023-06-01"}
    listed = await client.send("GET", "/v1/models", headers=anthropic)
    assert [one["id"] for one in listed.json["data"]] == ["tiny", "coder-fast"]
    tags = (await client.get("/api/tags")).json["models"]
    assert [one["name"] for one in tags] == ["tiny:latest", "coder-fast:latest"]
    assert (await client.get("/v1/models/coder-fast")).json["id"] == "coder-fast"
    assert (await client.get("/v1/models/Coder-Fast")).json["id"] == "coder-fast"
    assert (await client.get("/v1/models/small")).json["id"] == "tiny"
    shown = await client.post("/api/show", {"model": "coder-fast:latest"})
    assert shown.json["model_info"]["general.basename"] == "coder-fast"
    assert len((await client.get("/api/ps")).json["models"]) == 1
