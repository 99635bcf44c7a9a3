"""Numbers in a call's arguments: taken and given back equal by every reader, or refused with 400 when they are sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.whole_daemon import WholeDaemon
from tests.integration.services.test_stored_agents import control

NUMBERS = ["9223372036854775807", "18446744073709551615", "18446744073709551616", "-9223372036854775808"]
NUMBERS += [
    "-9223372036854775809",
    "-18446744073709551615",
    "1" + "0" * 60,
    "1e308",
    "1e400",
    "-0.0",
    "NaN",
    "Infinity",
]
IN_BODIES = {"9223372036854775807", "18446744073709551615", "-9223372036854775808", "1e308", "-0.0"}
"""Those that a body may hold as numbers: 64 bits, and finite."""

OPENAI = """{"model": "default", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"},
{"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ARGS}}]},
{"role": "tool", "tool_call_id": "c", "content": "x"}, {"role": "user", "content": "so?"}]}"""
ANTHROPIC = """{"model": "default", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"},
{"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": ARGS}]},
{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "x"}]}]}"""
GENERATE = """{"max_tokens": 1, "messages": [{"role": "user", "content": "hi"},
{"role": "assistant", "tool_calls": [{"id": "c", "name": "f", "arguments": ARGS}]},
{"role": "tool", "tool_call_id": "c", "content": "x"}, {"role": "user", "content": "so?"}]}"""


def calls(messages: list[dict[str, Any]]) -> list[Any]:
    """Return the arguments of all calls in a conversation."""
    return [part["arguments"] for one in messages if isinstance(one["content"], list)
            for part in one["content"] if part["type"] == "tool_call"]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


async def test_a_number_in_a_call_is_given_back_equal_or_refused_at_once(tmp_path: Path, model: Path) -> None:
    seen = 0
    async with WholeDaemon(tmp_path, model=model) as daemon:
        for at, number in enumerate(NUMBERS):
            as_text, as_object = json.dumps(f'{{"n": {number}}}'), f'{{"n": {number}}}'
            for way, (path, body, arguments) in enumerate(
                (
                    ("/v1/chat/completions", OPENAI, as_text),
                    ("/v1/messages", ANTHROPIC, as_object),
                    ("/v1/agents/AGENT/generate", GENERATE, as_object),
                    ("/v1/agents/AGENT/generate", GENERATE, as_text),
                )
            ):
                agent = f"a{at}-{way}"
                await daemon.client.post("/v1/agents", {"id": agent})
                answer = await daemon.client.post(
                    path.replace("AGENT", agent),
                    body.replace("ARGS", arguments).encode(),
                    headers={"x-session-id": agent},
                )
                what = (path, arguments, answer.content[:300])
                if arguments is as_object and number not in IN_BODIES:
                    assert answer.status == 400, what
                    continue
                assert answer.status == 200, what
                shown = await daemon.client.get(f"/v1/agents/{agent}/messages")
                assert shown.status == 200, what
                if not path.endswith("generate"):
                    continue  # the client keeps such a conversation itself
                (given,) = calls(shown.json["data"])
                wanted = json.loads(number)
                if number in ("1e400", "NaN", "Infinity"):
                    assert given == {"arguments": json.loads(as_text)}, what
                else:
                    assert (given["n"], type(given["n"])) == (wanted, type(wanted)), what
                (told,) = calls((await control(daemon, "agents.messages", agent=agent))["messages"])
                is_wide = isinstance(wanted, int) and not -(2**63) <= wanted < 2**64
                assert told == ({"n": number} if is_wide else given), what
                file = str(tmp_path / f"{agent}.agent")
                await daemon.parts.agents.export(agent, file)
                await daemon.parts.agents.import_(file, f"{agent}-copy")
                again = await daemon.client.get(f"/v1/agents/{agent}-copy/messages")
                assert calls(again.json["data"]) == [given], what
                seen += 1
    assert seen > len(NUMBERS)
