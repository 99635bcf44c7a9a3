"""What the next request reuses of the one before, over HTTP and through the whole daemon, on models that think.

Some families keep every position, the others have layers that cannot be cut (windows, recurrent states). Whatever comes
next, all of them reuse what the two prompts share but for a few tokens, and answer as a daemon does that knows nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.tiny_families import FAMILIES, THINKING_TEMPLATE, write_tiny_family
from tests.fakes.whole_daemon import WholeDaemon

CLOSE = 16
"""Tokens that may be computed again at the usual boundaries."""
OPENING = 15
"""Tokens of the generation prompt, `<|im_start|>assistant\\n<think>\\n`: many, for this tokenizer knows few words."""
BLOCK = 256
WORDS = "the and of to in is that it for was on are as with his they at be this from have or by one had not"
Message = dict[str, Any]


def words(number: int, seed: int) -> str:
    """Return a text of its own for each seed."""
    known = WORDS.split()
    return " ".join(known[(seed * 7 + at * (seed + 3) + at // 5) % len(known)] for at in range(number))


def said(role: str, text: str) -> Message:
    return {"role": role, "content": text}


SYSTEM = said("system", words(600, 1))
FIRST = said("user", words(250, 2))
ANSWER = said("assistant", "so it was")
SECOND = said("user", words(60, 3))
OTHER = said("user", f"no, {words(50, 4)}")
THIRD = said("user", words(40, 5))


class Reply:
    """What a request cost, and its answer."""

    def __init__(self, body: Any) -> None:
        usage, message = body["usage"], body["choices"][0]["message"]
        self.prompt: int = usage["prompt_tokens"]
        self.cached: int = usage["prompt_tokens_details"]["cached_tokens"]
        self.text = (message.get("reasoning_content"), message["content"])

    @property
    def computed(self) -> int:
        return self.prompt - self.cached


async def ask(daemon: WholeDaemon, *messages: Message, agent: str = "a", **more: Any) -> Reply:
    """Ask greedily; the answer is what a model of random weights says."""
    body = {"model": "default", "messages": messages, "max_tokens": 24, "temperature": 0, **more}
    answer = await daemon.client.post("/v1/chat/completions", body, headers={"x-session-id": agent})
    assert answer.status == 200, answer.content
    return Reply(answer.json)


def _param(family: str) -> Any:
    fast = family in ("llama", "gemma3_text", "qwen3_next")
    return pytest.param(family, marks=() if fast else pytest.mark.slow)


@pytest.fixture(params=[_param(family) for family in sorted(FAMILIES)])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_tiny_family(tmp_path / "model", request.param, template=THINKING_TEMPLATE)


async def cold(model: Path, tmp_path: Path, *messages: Message, **more: Any) -> Reply:
    """Ask a daemon that has seen nothing."""
    async with WholeDaemon(tmp_path / "cold", model=model) as daemon:
        reply = await ask(daemon, *messages, **more)
    assert reply.cached == 0
    return reply


async def test_the_next_turn_with_the_thinking_left_out_reuses_the_whole_earlier_prompt(
    model: Path, tmp_path: Path
) -> None:
    async with WholeDaemon(tmp_path, model=model) as daemon:
        first = await ask(daemon, SYSTEM, FIRST)
        second = await ask(daemon, SYSTEM, FIRST, ANSWER, SECOND)
        third = await ask(daemon, SYSTEM, FIRST, ANSWER, SECOND, ANSWER, THIRD)
    assert first.cached == 0
    assert second.cached >= first.prompt - OPENING - CLOSE
    assert third.cached >= second.prompt - OPENING - CLOSE
    assert third.text == (await cold(model, tmp_path, SYSTEM, FIRST, ANSWER, SECOND, ANSWER, THIRD)).text


async def test_another_last_message_reuses_everything_before_it(model: Path, tmp_path: Path) -> None:
    async with WholeDaemon(tmp_path, model=model) as daemon:
        await ask(daemon, SYSTEM, FIRST)
        second = await ask(daemon, SYSTEM, FIRST, ANSWER, SECOND)
        changed = await ask(daemon, SYSTEM, FIRST, ANSWER, OTHER)
    last = words(60, 3)
    assert changed.cached >= second.prompt - len(last.encode()) - OPENING - CLOSE
    assert changed.computed <= len(OTHER["content"].encode()) + OPENING + CLOSE
    assert changed.text == (await cold(model, tmp_path, SYSTEM, FIRST, ANSWER, OTHER)).text


async def test_another_way_to_open_the_answer_reuses_the_whole_conversation(
    model: Path, tmp_path: Path
) -> None:
    async with WholeDaemon(tmp_path, model=model) as daemon:
        first = await ask(daemon, SYSTEM, FIRST)
        hasty = await ask(daemon, SYSTEM, FIRST, reasoning_effort="none")
    assert hasty.prompt > first.prompt, "the template closes the thinking at once"
    assert hasty.cached >= first.prompt - OPENING - CLOSE
    assert hasty.text == (await cold(model, tmp_path, SYSTEM, FIRST, reasoning_effort="none")).text


async def test_after_a_restart_the_same_request_an_earlier_and_the_next_one_are_warm(
    model: Path, tmp_path: Path
) -> None:
    conversation = [SYSTEM, FIRST, ANSWER, SECOND]
    async with WholeDaemon(tmp_path, model=model) as daemon:
        await ask(daemon, SYSTEM, FIRST)
        second = await ask(daemon, *conversation)
    async with WholeDaemon(tmp_path, model=model) as daemon:
        again = await ask(daemon, *conversation)
        earlier = await ask(daemon, SYSTEM, FIRST)
        third = await ask(daemon, *conversation, ANSWER, THIRD)
    assert again.computed <= OPENING + CLOSE
    assert again.text == second.text
    assert earlier.computed <= OPENING + CLOSE
    assert third.cached >= second.prompt - OPENING - CLOSE
    async with WholeDaemon(tmp_path, model=model) as daemon:
        for turn in ([SYSTEM, FIRST], conversation, [*conversation, ANSWER, THIRD]):
            assert (await ask(daemon, *turn)).computed <= OPENING + CLOSE
    assert third.text == (await cold(model, tmp_path, *conversation, ANSWER, THIRD)).text


async def test_after_eviction_and_after_a_fork_the_next_turn_is_warm(model: Path, tmp_path: Path) -> None:
    async with WholeDaemon(tmp_path, model=model) as daemon:
        first = await ask(daemon, SYSTEM, FIRST)
        await daemon.written()
        assert (await daemon.client.post("/v1/agents/a/evict", {})).status == 200
        second = await ask(daemon, SYSTEM, FIRST, ANSWER, SECOND)
        made = await daemon.client.post("/v1/agents/a/fork", {"id": "fork"})
        assert (made.status, made.json["id"]) == (201, "fork")
        forked = await ask(daemon, SYSTEM, FIRST, ANSWER, OTHER, agent="fork")
        original = await ask(daemon, SYSTEM, FIRST, ANSWER, SECOND, ANSWER, THIRD)
    assert second.cached >= first.prompt - OPENING - CLOSE
    assert forked.computed <= len(OTHER["content"].encode()) + OPENING + CLOSE
    assert original.cached >= second.prompt - OPENING - CLOSE
    for warm, *turn in ((second, ANSWER, SECOND), (forked, ANSWER, OTHER)):
        assert warm.text == (await cold(model, tmp_path / turn[1]["content"][:8], SYSTEM, FIRST, *turn)).text


async def test_system_text_after_the_first_user_message_is_no_part_of_the_head(
    model: Path, tmp_path: Path
) -> None:
    reminder = said("system", "Keep the answers short.")
    async with WholeDaemon(tmp_path, model=model) as daemon:
        await ask(daemon, SYSTEM, FIRST, reminder)
        # Another conversation with the same head, and another reminder.
        other = await ask(daemon, SYSTEM, OTHER, said("system", "Be quick."), agent="b")
        alone = await ask(daemon, SYSTEM, said("user", "?"), agent="c")
    assert other.cached >= alone.prompt - OPENING - CLOSE
    assert alone.computed <= OPENING + CLOSE


async def test_a_prompt_changed_in_its_middle_is_reused_to_a_snapshot(model: Path, tmp_path: Path) -> None:
    pages = [words(700, 20 + number) for number in range(5)]
    changed = [*pages[:4], words(700, 99)]
    async with WholeDaemon(tmp_path, model=model) as daemon:
        whole = await ask(daemon, said("user", "\n".join(pages)))
        shared = await ask(daemon, said("user", "\n".join(pages[:4])), agent="b")
        other = await ask(daemon, said("user", "\n".join(changed)), agent="c")
    assert shared.prompt > 2048
    assert whole.cached == 0
    assert other.cached >= shared.prompt - 2048 - BLOCK
    assert shared.cached >= shared.prompt - 2048 - BLOCK


async def test_a_turn_is_rewound_though_thinking_was_left_out(model: Path, tmp_path: Path) -> None:
    async with WholeDaemon(tmp_path, model=model) as daemon:
        await ask(daemon, SYSTEM, FIRST)
        second = await ask(daemon, SYSTEM, FIRST, ANSWER, SECOND)
        await ask(daemon, SYSTEM, FIRST, ANSWER, SECOND, ANSWER, THIRD)
        sizes = []
        for last in (SECOND, FIRST):
            row = await daemon.client.post("/v1/agents/a/rewind", {"turns": 1})
            sizes.append(row.json["num_tokens"])
            shown = (await daemon.client.get("/v1/agents/a/messages")).json["data"]
            text = "".join(one["content"] for one in shown)
            assert last["content"] in text
            assert text.endswith(ANSWER["content"])
            assert THIRD["content"] not in text
        assert SECOND["content"] not in text
        assert sizes[0] > second.prompt - OPENING > sizes[1] > 0
        turn = {"prompt": THIRD["content"], "max_tokens": 24, "temperature": 0}
        answer = await daemon.client.post("/v1/agents/a/generate", turn)
        usage = answer.json["usage"]
        assert usage["prompt_tokens"] > sizes[1]
        assert usage["cache"]["computed_tokens"] <= usage["prompt_tokens"] - sizes[1] + BLOCK
    straight = await cold(model, tmp_path, SYSTEM, FIRST, ANSWER, THIRD)
    assert (answer.json["thinking"] or None, answer.json["text"]) == (
        straight.text[0],
        straight.text[1] or "",
    )
