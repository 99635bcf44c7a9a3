"""Turns that the daemon's own tools take with agents."""

from __future__ import annotations

import pytest

from semanticd.application.generation.continued import continued
from semanticd.control.results import is_said
from semanticd.domain.chat import ChatPrompt, Message
from semanticd.domain.errors import UnsupportedError
from tests.fakes.service_rig import ServiceRig
from tests.fakes.tokenizer import CharTokenizer

ON = ChatPrompt((Message.of("user", "on"),))


async def test_a_new_agent_is_made_and_its_conversation_goes_on_from_the_cache() -> None:
    async with ServiceRig() as rig:
        first = await rig.chat.say("new", "hello, this is the first thing that I say", max_tokens=8)
        second = await rig.chat.say("new", "and this is the second", max_tokens=8)
        assert (first.agent, first.completion_tokens) == ("new", 8)
        # By it chats tell their answer's tokens from those of other requests of the agent.
        assert is_said(first.request)
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


ASKED = "a conversation that only its client keeps"


async def test_a_direct_agents_turn_continues_the_conversation_that_a_client_keeps() -> None:
    async with ServiceRig() as rig:
        await rig.say(ASKED, agent="a")
        size = (await rig.agents.show("a")).agent.num_tokens
        for number in (1, 2):
            said = await rig.say(f"turn {number} of its own", agent="a", conversation=True)
            assert (said.agent_id, said.usage.cache.miss) == ("a", None)
            assert said.usage.cache.cached_tokens >= size - 1
            size = (await rig.agents.show("a")).agent.num_tokens
        text = (await rig.agents.agent("a")).transcript.text
        places = [
            text.find(f"<|user|>{said}<|end|>") for said in (ASKED, "turn 1 of its own", "turn 2 of its own")
        ]
        assert places == sorted(places)
        assert places[0] == 0
        assert text.count("<|user|>") == 3
        assert (await rig.agents.show("a")).agent.num_turns == 3
        await rig.agents.rewind("a", 2)
        assert "turn 1" not in (await rig.agents.agent("a")).transcript.text


async def test_several_messages_and_a_begun_answer_follow_too() -> None:
    async with ServiceRig() as rig:
        await rig.say(ASKED, agent="a")
        messages = [
            Message.of("system", "be brief"),
            Message.of("user", "so?"),
            Message.of("assistant", "Well"),
        ]
        await rig.say(messages, agent="a", conversation=True)
        text = (await rig.agents.agent("a")).transcript.text
        assert text.startswith(f"<|user|>{ASKED}<|end|>")
        assert "<|end|><|system|>be brief<|end|><|user|>so?<|end|><|assistant|>Well" in text


async def test_an_agent_without_a_conversation_begins_one() -> None:
    async with ServiceRig() as rig:
        await rig.say(ASKED, agent="a")
        await rig.agents.rewind("a")
        await rig.say("anew", agent="a", conversation=True)
        assert [message.role for message in await rig.agents.messages("a")] == ["user", "assistant"]


async def test_where_a_turn_cannot_be_added_the_conversation_stays() -> None:
    async with ServiceRig(tokenizer=Forgetful()) as rig:
        await rig.say(ASKED, agent="a")
        before = await rig.agents.agent("a")
        for turn in (rig.say("on", agent="a", conversation=True), rig.chat.say("a", "on")):
            with pytest.raises(UnsupportedError, match="a new agent id"):
                await turn
        assert await rig.agents.agent("a") == before
        assert not rig.engine_rig.agents.num_held


def test_a_turn_follows_an_answer_as_the_template_writes_it() -> None:
    tokenizer = CharTokenizer()
    for ending in ("", "<|e", "<|end|>"):
        transcript = f"<|user|>hi<|end|><|assistant|>ho{ending}"
        assert continued(tokenizer, transcript, ON) == (
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
        continued(Forgetful(), "<|user|>hi", ON)
