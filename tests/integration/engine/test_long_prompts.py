"""Prompts of coding agents fit a small budget, and long chunks leave the same blocks behind."""

from __future__ import annotations

import pytest

from semanticd.domain.errors import SemanticError
from semanticd.domain.scheduler import SchedulerLimits
from tests.fakes.engine_rig import EngineRig
from tests.fakes.model_runner import BYTES_PER_TOKEN, HashRunner
from tests.fakes.telemetry import ManualClock

CLAUDE_CODES_FIRST_PROMPT = 20_200
LITE, LIBRARYS = 31_104, 276_480
"""Bytes a token of DeepSeek-Coder-V2-Lite: as latents (`test_latent_attention`), and expanded."""


def prompt_of(length: int) -> list[int]:
    return [number * 7 % 89 + 1 for number in range(length)]


def rig_with(bytes_per_token: int) -> EngineRig:
    """An engine with 4 GiB, in the proportion of the fake model's bytes to a real one's."""
    budget = 4 << 30
    return EngineRig(
        runner=HashRunner(block_tokens=256),
        budget_bytes=budget * BYTES_PER_TOKEN // bytes_per_token,
        limits=SchedulerLimits(),
    )


def test_a_prompt_of_a_coding_agent_is_admitted_with_a_budget_of_4_gib() -> None:
    with rig_with(LITE) as rig:
        answer = rig.ask(prompt_of(CLAUDE_CODES_FIRST_PROMPT), agent="a", max_tokens=8).answer()
        again = rig.ask(prompt_of(CLAUDE_CODES_FIRST_PROMPT), agent="a", max_tokens=8).answer()
    assert answer.cache.computed_tokens == CLAUDE_CODES_FIRST_PROMPT
    assert again.cache.computed_tokens < 256
    with rig_with(LIBRARYS) as rig, pytest.raises(SemanticError):
        rig.ask(prompt_of(CLAUDE_CODES_FIRST_PROMPT), agent="a", max_tokens=8).answer()


def test_chunks_of_several_blocks_publish_each_of_them() -> None:
    prompt = prompt_of(9000)

    def answered(prefill_chunk: int, *, has_state: bool = False) -> tuple[str, int, int, int]:
        clock = ManualClock()
        runner = HashRunner(block_tokens=256, has_state=has_state, clock=clock, prefill_token_s=0.0001)
        limits = SchedulerLimits(prefill_chunk=prefill_chunk)
        with EngineRig(runner=runner, limits=limits, clock=clock) as rig:
            text = rig.ask(prompt, agent="a", max_tokens=6).answer().text
            steps, copies = runner.calls["prefill"], runner.calls["copy_blocks"]
            assert runner.calls["copy_block"] >= 9000 // 256
            # Another agent finds all that its prompt shares.
            other = rig.ask([*prompt[:8800], 1], agent="b", max_tokens=6).answer()
        return text, steps, copies, other.cache.reused_hot_tokens

    short, long = answered(256), answered(2048)
    assert long[0] == short[0]
    assert short[1] >= 9000 // 256
    assert long[1] <= 6, "one to measure, four of 2,048, and the rest"
    assert long[2] <= long[1] + 2, "the blocks of a chunk are copied at once"
    assert long[3] == short[3] == 8800
    short, long = answered(256, has_state=True), answered(2048, has_state=True)
    assert long[0] == short[0]
    assert long[3] == short[3] == 8192, "there is a snapshot each 2,048 tokens, whatever the chunks"
