"""The official Node SDKs, and what people build agents on in Python: a tool round trip with each, on a real engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.fakes.daemon_process import DaemonProcess
from tests.integration.clients.python_libraries import LIBRARIES, SCHEMA

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]

HERE = Path(__file__).parent
RECIPES = HERE.parents[2] / "contrib" / "recipes"


def check_weather(call: list[Any]) -> None:
    name, arguments = call
    assert name == "weather"
    jsonschema.validate(arguments, SCHEMA)


def test_the_node_sdks_make_tool_round_trips_whole_and_streamed(
    node_sdks: Path, daemon: DaemonProcess, run: Callable[..., str]
) -> None:
    # It imports from the packages installed next to it.
    script = shutil.copy(HERE / "node_sdks.mjs", node_sdks)
    read = json.loads(run(["node", script, daemon.url]))
    assert len(read["calls"]) == 6
    for call in read["calls"].values():
        check_weather(call)
    # The second turn finds the first one's prompt in the cache.
    assert all(count > 300 for count in read["cached"].values()), read["cached"]
    assert read["refused"] == [True, True]


@pytest.mark.parametrize("library", ["litellm", "langchain-openai", "langchain-anthropic"])
def test_a_library_makes_a_tool_round_trip_whose_second_turn_is_cached(
    python_libraries: Path, daemon: DaemonProcess, run: Callable[..., str], library: str
) -> None:
    written = run([python_libraries / "python", HERE / "python_libraries.py", library, daemon.url])
    read = json.loads(written.splitlines()[-1])
    assert read["calls"]
    for call in read["calls"]:
        check_weather(call)
    assert len(read["answers"]) == len(read["calls"])
    assert all(count > 300 for count in read["answers"]), read["answers"]


def check_vectors(vectors: list[list[float]]) -> None:
    first, second = vectors
    assert len(first) == len(second) > 1
    assert first != second
    for vector in vectors:
        assert abs(sum(number**2 for number in vector) - 1) < 1e-4


def test_langchains_ollama_reads_streams_forms_tools_and_vectors(
    python_libraries: Path, daemon: DaemonProcess, run: Callable[..., str]
) -> None:
    written = run([python_libraries / "python", HERE / "python_libraries.py", "langchain-ollama", daemon.url])
    read = json.loads(written.splitlines()[-1])
    assert len(read["calls"]) == 2
    for call in read["calls"]:
        check_weather(call)
    assert read["answers"][0] > 100
    check_vectors(read["vectors"])


def test_ollamas_javascript_client_reads_all_that_it_asks_for(
    node_sdks: Path, daemon: DaemonProcess, run: Callable[..., str]
) -> None:
    # It imports from the packages installed next to it.
    script = shutil.copy(HERE / "node_ollama.mjs", node_sdks)
    read = json.loads(run(["node", script, daemon.url]))
    assert read["streamed"] == read["whole"]
    check_weather(["weather", read["whole"]])
    assert read["pieces"] > 2
    assert read["done"] == [True, "stop", True]
    assert read["afterTool"] == ["assistant", 4]
    assert read["generated"] == 4
    check_vectors(read["vectors"])
    assert read["aborted"] == "AbortError"
    assert read["refused"] == ["ResponseError", 404]
    assert read["shown"] == ["completion", "tools"]
    assert (len(read["names"]), read["running"]) == (1, 1)


def test_pydantic_ai_makes_a_tool_round_trip_and_reads_a_typed_answer(
    python_libraries: Path, daemon: DaemonProcess, run: Callable[..., str]
) -> None:
    read = json.loads(
        run([python_libraries / "python", HERE / "python_libraries.py", "pydantic-ai", daemon.url])
    )
    assert [name for name, _ in read["calls"]] == ["weather"]
    assert -50 <= read["answers"][0] <= 50


def test_the_langchain_recipe_is_answered(
    python_libraries: Path, daemon: DaemonProcess, run: Callable[..., str]
) -> None:
    recipe = RECIPES / "langchain_openai_chat.py"
    assert run([python_libraries / "python", recipe], SEMANTICD_URL=daemon.url).strip()


def test_the_node_recipe_is_answered(node_sdks: Path, daemon: DaemonProcess, run: Callable[..., str]) -> None:
    # It imports from the packages installed next to it.
    recipe = shutil.copy(RECIPES / "openai_sdk.mjs", node_sdks)
    assert run(["node", recipe], SEMANTICD_URL=daemon.url).strip()


def test_every_library_that_the_script_knows_is_tried() -> None:
    assert set(LIBRARIES) == {
        "litellm",
        "langchain-openai",
        "langchain-anthropic",
        "langchain-ollama",
        "pydantic-ai",
    }
