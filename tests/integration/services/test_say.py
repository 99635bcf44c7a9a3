"""Turns that the daemon's own tools take with agents."""

from __future__ import annotations

import pytest

from semanticd.application.generation.say import continued
from semanticd.domain.chat import ChatPrompt, Message
from semanticd.domain.errors import UnsupportedError
from tests.fakes.service_rig import ServiceRig
from tests.fakes.tokenizer import CharTokenizer


async def test_a_new_agent_is_made_and_its_conversation_goes_on_from_the_cache() -> None:
    async with ServiceRig() as rig:
        first = await rig.chat.say("new", "hello, this is the first thing that I say", max_tokens=8)
        second = await rig.chat.say("new", "and this is the second", max_tokens=8)
        assert (first.agent, first.completion_tokens) == ("new", 8)
        assert second.cached_tokens >= first.prompt_tokens
        roles = [message.role for message in await rig.agents.messages("new")]
        assert roles == ["user", "assistant", "user", "assistant"]


async def test_a_fork_of_an_agent_whose_client_keeps_the_conversation_continues_it() -> None:
    async with ServiceRig() as rig:
        await rig.say("a conversation that only its client keeps", agent="a")
        before = (await rig.agents.show("a")).agent
        said = await rig.chat.say("a", "and what do you say to that?", fork=True, max_tokens=8)
        assert said.agent.startswith("a-fork-")
        assert said.cached_tokens >= before.num_tokens - 1
        assert (await rig.agents.show("a")).agent.num_turns == 1
        text = "".join(str(message.content) for message in await rig.agents.messages(said.agent))
        assert "<|end|><|user|>and what do you say to that?<|end|><|assistant|>" in text


def test_a_turn_follows_an_answer_as_the_template_writes_it() -> None:
    tokenizer = CharTokenizer()
    for ending in ("", "<|e", "<|end|>"):
        transcript = f"<|user|>hi<|end|><|assistant|>ho{ending}"
        assert continued(tokenizer, transcript, "on") == (
            "<|user|>hi<|end|><|assistant|>ho<|end|><|user|>on<|end|><|assistant|>"
        )


class Forgetful(CharTokenizer):
    """A template that leaves earlier answers out."""

    def render(self, prompt: ChatPrompt, *, add_generation_prompt: bool = True) -> str:
        """Write the last message only."""
        kept = ChatPrompt((Message.of("user", prompt.messages[-1].text),))
        return super().render(kept, add_generation_prompt=add_generation_prompt)


def test_a_template_that_leaves_answers_out_is_refused_with_a_way_out() -> None:
    with pytest.raises(UnsupportedError, match="a new agent id"):
        continued(Forgetful(), "<|user|>hi", "on")
