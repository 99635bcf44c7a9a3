"""Prompts without a chat around them: continued, echoed, scored."""

from __future__ import annotations

import math

from semanticd.domain.chat import TextPrompt, TokenPrompt
from semanticd.domain.generation import SamplingParams
from tests.fakes.service_rig import ServiceRig
from tests.fakes.tokenizer import PairTokenizer


async def test_a_text_prompt_is_echoed_with_its_scores() -> None:
    async with ServiceRig() as rig:
        scored = SamplingParams(temperature=0, max_tokens=3, logprobs=True, top_logprobs=1)
        result = await rig.say(TextPrompt("hello"), echo=True, sampling=scored)
        choice = result.choices[0]
        assert choice.text.startswith("hello")
        assert len(choice.text) == 8
        assert [entry.text for entry in choice.logprobs] == list(choice.text)
        assert math.isnan(choice.logprobs[0].logprob)
        tokens = await rig.say(TokenPrompt((1, 2, 3)), echo=True, sampling=scored)
        assert [entry.token_id for entry in tokens.choices[0].logprobs][:3] == [1, 2, 3]
        plain = await rig.say(
            TextPrompt("hello"), echo=True, sampling=SamplingParams(temperature=0, max_tokens=3)
        )
        assert plain.choices[0].text == choice.text


async def test_a_raw_prompt_is_read_the_same_whoever_asked_before() -> None:
    async with ServiceRig(tokenizer=PairTokenizer()) as rig:
        alone = PairTokenizer().encode("once upon a time")
        await rig.say(TextPrompt("once upon a"))
        assert await rig.generate.count_tokens("", TextPrompt("once upon a time")) == len(alone)
