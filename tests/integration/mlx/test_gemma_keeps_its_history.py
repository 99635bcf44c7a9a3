"""Gemma 3 270M, whose layers see windows for the most part, keeps a long conversation through restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.mlx.model.gguf.convert import convert
from tests.fakes import real_gguf
from tests.fakes.whole_daemon import WholeDaemon

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(1200)]

NUM_TURNS = 20
RESTART_BEFORE = (6, 11, 16)
COLD = (3, 12, 20)
"""Turns whose answers are compared with those of a daemon that knows nothing."""
SYSTEM = {"role": "system", "content": "You answer in one short sentence. " * 20}
TOPICS = ("rivers", "mountains", "trees", "birds", "cities", "colours", "planets", "metals", "songs", "games")


def question(number: int) -> dict[str, str]:
    topic = TOPICS[number % len(TOPICS)]
    asked = (
        f"Question {number}. Tell me something about {topic}, and why people in many countries like {topic}. "
    )
    return {"role": "user", "content": asked * 3}


async def ask(daemon: WholeDaemon, messages: list[dict[str, str]]) -> Any:
    body = {"model": "default", "messages": messages, "max_tokens": 16, "temperature": 0}
    answer = await daemon.client.post("/v1/chat/completions", body, headers={"x-session-id": "a"})
    assert answer.status == 200, answer.content
    return answer.json


async def test_twenty_turns_through_three_restarts_reuse_what_is_old_and_answer_as_cold_ones(
    models_dir: Path, tmp_path: Path
) -> None:
    model = tmp_path / "gemma"
    convert(real_gguf.gemma(models_dir), model)
    home = tmp_path / "home"
    messages, old, reused, known = [SYSTEM], 0, 0, 0
    said: dict[int, tuple[list[dict[str, str]], str]] = {}
    starts = (1, *RESTART_BEFORE)
    for start, end in zip(starts, (*RESTART_BEFORE, NUM_TURNS + 1), strict=True):
        async with WholeDaemon(home, model=model) as daemon:
            for number in range(start, end):
                messages = [*messages, question(number)]
                reply = await ask(daemon, messages)
                usage, text = reply["usage"], reply["choices"][0]["message"]["content"]
                old += known
                reused += min(usage["prompt_tokens_details"]["cached_tokens"], known)
                known = usage["prompt_tokens"] + usage["completion_tokens"]
                said[number] = messages, text
                messages = [*messages, {"role": "assistant", "content": text}]
    assert known > 1500, "longer than the windows"
    assert reused >= 0.97 * old, f"{reused} of {old}"
    print(f"reused {reused} of {old} old tokens, {known} in all")
    async with WholeDaemon(tmp_path / "cold", model=model) as daemon:
        for turn in COLD:
            asked, text = said[turn]
            await daemon.client.send("DELETE", "/v1/agents/a")
            reply = await ask(daemon, asked)
            assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
            assert reply["choices"][0]["message"]["content"] == text
