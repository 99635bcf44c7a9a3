"""The example for LiteLLM's router sends a prompt where most of it is cached, and never fails for a daemon's sake."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

FILE = Path(__file__).resolve().parents[2] / "contrib" / "litellm" / "prefix_router.py"
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("prefix_router", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def group(*names: str) -> list[dict[str, Any]]:
    return [
        {
            "model_name": "local",
            "litellm_params": {
                "model": "openai/default",
                "api_base": f"http://{name}:8000/v1",
                "api_key": "k",
            },
        }
        for name in names
    ]


def where(hot: int = 0, warm: int = 0, peer: int = 0, missing: int = 0) -> dict[str, int]:
    return {"hot_tokens": hot, "warm_tokens": warm, "peer_tokens": peer, "missing_tokens": missing}


def daemons(answers: dict[str, Any]) -> tuple[Callable[[httpx.Request], Any], list[httpx.Request]]:
    asked: list[httpx.Request] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        said = answers[request.url.host]
        if said == "hangs":
            await asyncio.sleep(60)
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, httpx.Response) else httpx.Response(200, json=said)

    return answer, asked


async def chosen(example: Any, answers: dict[str, Any], **request: Any) -> str:
    answer, _ = daemons(answers)
    strategy = example.PrefixStrategy(group(*answers), transport=httpx.MockTransport(answer))
    found = await strategy.async_get_available_deployment("local", messages=MESSAGES, request_kwargs=request)
    return str(httpx.URL(found["litellm_params"]["api_base"]).host)


async def test_a_prompt_goes_where_least_of_it_must_be_computed(example: Any) -> None:
    assert await chosen(example, {"a": where(missing=900), "b": where(hot=800, missing=100)}) == "b"
    warm, peer = where(warm=8000, missing=100), where(peer=8000, missing=100)
    assert await chosen(example, {"a": warm, "b": peer}) == "a"
    assert await chosen(example, {"a": where(peer=900), "b": where(missing=900)}) == "a"


async def test_a_few_words_that_all_share_gather_nobody(example: Any) -> None:
    answers = {"a": where(hot=8, missing=900), "b": where(missing=908)}
    assert {await chosen(example, answers, user=agent) for agent in "abcdefgh"} == {"a", "b"}


async def test_a_daemon_that_says_nothing_sensible_is_passed_over(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "TIMEOUT_S", 0.05)
    for said in (
        "hangs", httpx.ConnectError("gone"), httpx.Response(500), httpx.Response(401, json={}),
        httpx.Response(200, text="<html>"), {"other": 1}, [],
    ):  # fmt: skip
        assert await chosen(example, {"a": said, "b": where(missing=10**6)}) == "b"
    assert await chosen(example, {"a": "hangs", "b": "hangs"}) in ("a", "b"), (
        "the request itself says what is wrong"
    )


async def test_among_equals_an_agent_keeps_its_daemon(example: Any) -> None:
    answers = {name: where(missing=10) for name in "abc"}
    homes = {agent: await chosen(example, answers, user=agent) for agent in map(str, range(12))}
    assert len(set(homes.values())) == 3
    for agent, home in homes.items():
        assert await chosen(example, answers, prompt_cache_key=agent) == home
        assert await chosen(example, answers, extra_headers={"X-Session-ID": agent}) == home
        left = {name: where(missing=10) for name in "ab"}
        if home != "c":
            assert await chosen(example, left, user=agent) == home, (
                "only the agents of the one that left move"
            )


async def test_a_daemon_is_asked_for_its_own_name_of_the_model_with_its_key(example: Any) -> None:
    answer, asked = daemons({"a": where(missing=1), "b": where(missing=1)})
    strategy = example.PrefixStrategy(group("a", "b"), transport=httpx.MockTransport(answer))
    tools = [{"type": "function", "function": {"name": "f"}}]
    await strategy.async_get_available_deployment("local", messages=MESSAGES, request_kwargs={"tools": tools})
    assert [request.headers["authorization"] for request in asked] == ["Bearer k"] * 2
    assert json.loads(asked[0].content) == {"model": "default", "messages": MESSAGES, "tools": tools}
    assert asked[0].url.path == "/v1/prefix/lookup"


def test_it_is_installed_by_either_name_of_litellms(example: Any) -> None:
    class Newer:
        model_list = group("a")

        def register_plugin(self, strategy: Any) -> None:
            self.strategy = strategy

    class Older:
        model_list = group("a")

        def set_custom_routing_strategy(self, strategy: Any) -> None:
            self.strategy = strategy

    for router in (Newer(), Older()):
        assert example.install(router) is router.strategy  # type: ignore[attr-defined]
        found = router.strategy.get_available_deployment("local", messages=MESSAGES)  # type: ignore[attr-defined]
        assert found is router.model_list[0]
