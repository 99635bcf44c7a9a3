"""Prompts without a chat around them: continued, echoed, scored."""

from __future__ import annotations

import math

import pytest

from semanticd.domain.chat import ChatPrompt, Message, TextPrompt, TokenPrompt
from semanticd.domain.errors import InvalidRequestError
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


@pytest.mark.parametrize("prompt", ["hello", TextPrompt("hello"), TokenPrompt((1, 2, 3))])
async def test_a_bias_of_an_id_that_is_no_token_is_refused(prompt: object) -> None:
    async with ServiceRig(tokenizer=PairTokenizer()) as rig:
        size = PairTokenizer().vocab_size
        for biases in ({size: 1.0}, {0: 1.0, 999_999_999: -100.0}):
            sampling = SamplingParams(temperature=0, max_tokens=3, logit_bias=biases)
            with pytest.raises(
                InvalidRequestError, match=f"outside the model's vocabulary of {size}"
            ) as caught:
                await rig.open(prompt, sampling=sampling)
            assert caught.value.param == f"logit_bias.{max(biases)}"
        last = SamplingParams(temperature=0, max_tokens=3, logit_bias={0: 1.0, size - 1: 1.0})
        assert (await rig.say(prompt, sampling=last)).choices[0].text


async def test_an_earlier_answer_keeps_its_token_ids() -> None:
    """What the page on turns says: `usage` and the count are of the ids that are used."""
    asked = [Message.of("user", "hi")]
    sampling = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True)
    async with ServiceRig(tokenizer=PairTokenizer()) as rig:
        answer = (await rig.say(asked, agent="a", sampling=sampling)).choices[0].text
        talk = [*asked, Message.of("assistant", answer), Message.of("user", "on")]
        warm = (await rig.say(talk, agent="a", sampling=sampling)).usage
        assert warm.prompt_tokens == await rig.generate.count_tokens("", ChatPrompt(tuple(talk)))
        assert warm.cache.computed_tokens < warm.prompt_tokens - 9
    async with ServiceRig(tokenizer=PairTokenizer()) as rig:
        cold = (await rig.say(talk, agent="a", sampling=sampling)).usage
    assert warm.prompt_tokens != cold.prompt_tokens
