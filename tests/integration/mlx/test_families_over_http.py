"""Every kind of model of today goes the whole way over HTTP: turns, calls, thinking, restarts, swaps.

The folders have random weights in the shapes of their families; the daemon is a whole one. What such a model says is
nonsense, but greedy nonsense is repeatable: an answer from a cache must be the answer of a daemon that knows nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.tiny_families import FAMILIES, write_tiny_family
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon

pytestmark = pytest.mark.timeout(600)

LOOK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks somewhere.",
        "parameters": {
            "type": "object",
            "properties": {"at": {"enum": ["sky", "sea"]}, "n": {"type": "integer"}},
            "required": ["at", "n"],
        },
    },
}
SYSTEM = {"role": "system", "content": "You are brief, and you look before you speak. " * 12}
ASK = {"role": "user", "content": "What is the weather over there, and what will it be? " * 3}
MORE = {"role": "user", "content": "And after that?"}
TURN_ENDS = 40
"""Tokens around a turn's end that may be computed again, besides what is new."""
Message = dict[str, Any]


class Reply:
    """An answer, and what it cost."""

    def __init__(self, body: Any) -> None:
        usage, choice = body["usage"], body["choices"][0]
        self.prompt: int = usage["prompt_tokens"]
        self.cached: int = usage["prompt_tokens_details"]["cached_tokens"]
        self.said: int = usage["completion_tokens"]
        self.finish: str = choice["finish_reason"]
        self.message: Message = choice["message"]

    @property
    def text(self) -> tuple[Any, Any]:
        """What it thought and said."""
        return self.message.get("reasoning_content"), self.message["content"]


async def ask(daemon: WholeDaemon, *messages: Message, agent: str = "a", **more: Any) -> Reply:
    """Ask greedily, without thinking unless `more` says otherwise."""
    body = {
        "model": "default",
        "messages": messages,
        "max_tokens": 12,
        "temperature": 0,
        "tools": [LOOK],
        "reasoning_effort": "none",
        **more,
    }
    answer = await daemon.client.post("/v1/chat/completions", body, headers={"x-session-id": agent})
    assert answer.status == 200, answer.content
    return Reply(answer.json)


CALL_ID = "call_1"
MADE: Message = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": CALL_ID,
            "type": "function",
            "function": {"name": "look", "arguments": '{"at": "sky", "n": 2}'},
        }
    ],
}
RESULT: Message = {"role": "tool", "tool_call_id": CALL_ID, "content": "clouds, then rain, then more of it"}
# What a model of random weights says may be tokenized in another way when it is read: these texts are fixed.
CONVERSATION = [SYSTEM, ASK, MADE, RESULT, {"role": "assistant", "content": "so it was"}, MORE]


def _param(family: str) -> Any:
    # All of them take a minute and a half.
    fast = family in ("kimi_linear", "nemotron_h")
    return pytest.param(family, marks=() if fast else pytest.mark.slow)


@pytest.fixture(params=[_param(family) for family in sorted(FAMILIES)])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_tiny_family(tmp_path / "model", request.param)


async def test_turns_with_calls_and_thinking_are_warm_after_a_restart(model: Path, tmp_path: Path) -> None:
    async with WholeDaemon(tmp_path / "cold", model=model) as daemon:
        cold = await ask(daemon, *CONVERSATION)
        cold_thought = await ask(daemon, *CONVERSATION, agent="b", reasoning_effort="high")
        other = write_tiny_family(tmp_path / "other", "llama", seed=5)
        await daemon.parts.models.swap(str(other))
        elsewhere = await ask(daemon, *CONVERSATION)
        await daemon.parts.models.swap(str(model))
        swapped = await ask(daemon, *CONVERSATION)
    assert cold.cached == elsewhere.cached == 0
    assert cold.message.get("reasoning_content") is None
    assert cold.message["content"]
    assert cold_thought.message["reasoning_content"]
    at_least = cold.prompt - TURN_ENDS
    assert swapped.cached >= at_least
    async with WholeDaemon(tmp_path, model=model) as daemon:
        called, conversation = await call_and_result(daemon)
        seen = await ask(daemon, *conversation)
        spoken = await ask(daemon, *CONVERSATION)
        thought = await ask(daemon, *CONVERSATION, reasoning_effort="high")
    async with WholeDaemon(tmp_path, model=model) as daemon:
        restarted = await ask(daemon, *CONVERSATION)
    assert called.cached == 0
    assert seen.cached >= called.prompt - TURN_ENDS
    assert spoken.cached > 0
    assert restarted.cached >= at_least
    assert restarted.text == swapped.text == spoken.text == cold.text
    assert thought.text == cold_thought.text


async def call_and_result(daemon: WholeDaemon) -> tuple[Reply, list[Message]]:
    """Make the model call, and return the reply and the conversation with the tool's result."""
    called = await ask(daemon, SYSTEM, ASK, tool_choice="required", max_tokens=60)
    assert called.finish == "tool_calls"
    [call] = called.message["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert call["function"]["name"] == "look"
    assert arguments["at"] in ("sky", "sea")
    made = {"role": "assistant", "content": None, "tool_calls": [call]}
    return called, [SYSTEM, ASK, made, {**RESULT, "tool_call_id": call["id"]}]


async def test_a_required_call_is_whole_where_a_string_of_it_has_the_end_marker(
    tmp_path: Path,
) -> None:
    model = write_tiny_model(tmp_path / "model")
    said = {"at": "a </tool_call>; b is "}
    schema = {"type": "object", "properties": {"at": {"enum": [said["at"]]}}, "required": ["at"]}
    tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
    async with WholeDaemon(tmp_path, model=model) as daemon:
        called = await ask(daemon, ASK, tools=[tool], tool_choice="required", max_tokens=200)
    assert called.finish == "tool_calls"
    assert not called.message["content"]
    [call] = called.message["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == said


async def test_recommended_sampling_fills_what_a_request_leaves_open(
    tmp_path: Path,
) -> None:
    model = write_tiny_family(tmp_path / "model", "llama")
    (model / "generation_config.json").write_text(json.dumps({"temperature": 1.9, "top_k": 1}))

    async def said(**more: Any) -> Any:
        body = {"model": "default", "messages": [ASK], "max_tokens": 24, "reasoning_effort": "none", **more}
        return (await daemon.client.post("/v1/chat/completions", body)).json["choices"][0]["message"][
            "content"
        ]

    async with WholeDaemon(tmp_path, model=model) as daemon:
        greedy = await said(temperature=0)
        silent = [await said(seed=seed) for seed in (1, 2)]
        own = [await said(seed=seed, top_k=200) for seed in (1, 2)]
        cooled = await said(seed=1, top_k=200, temperature=0)
        before = await ask(daemon, SYSTEM, ASK)
    (model / "generation_config.json").write_text(json.dumps({"temperature": 0.1, "top_k": 3}))
    async with WholeDaemon(tmp_path, model=model) as daemon:
        after = await ask(daemon, SYSTEM, ASK)
    assert silent == [greedy, greedy], "of one candidate, the most likely token is chosen"
    assert greedy not in own
    assert own[0] != own[1]
    assert cooled == greedy
    assert before.cached <= 1, "the first turn shares no more than the opening token"
    assert after.cached == after.prompt - 1, "other defaults leave the KV as it was"
    assert after.text == before.text
