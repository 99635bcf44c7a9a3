"""A conversation that the server keeps is continued by `generate` alone, whatever clients send under its name."""

from __future__ import annotations

from typing import Any

import pytest

from semanticd.domain.agent import Agent, AgentConfig
from semanticd.domain.chat import ChatPrompt, Message, TextPrompt, ToolChoice, ToolSpec
from semanticd.domain.errors import InvalidRequestError
from tests.fakes.service_rig import ServiceRig
from tests.fakes.tokenizer import CharTokenizer

QUESTIONS = ("where does the first river begin?", "and where does it end?")
ELSEWHERE = "quite another thing, which some chat client asks"


async def kept(rig: ServiceRig, name: str = "d") -> Agent:
    """Let the server keep a conversation of two turns; returns its agent."""
    await rig.agents.create(name, AgentConfig(system="You answer questions about rivers. " * 3))
    for text in QUESTIONS:
        await rig.say(text, agent=name, conversation=True)
    return await rig.agents.agent(name)


def prompts_of_clients(agent: Agent) -> dict[str, Any]:
    """Return what clients may send under the agent's name."""
    tool = ToolSpec("look", "Looks.", {"type": "object", "properties": {}})
    system = Message.of("system", agent.config.system or "")
    more = Message.of("user", ELSEWHERE)
    return {
        "another conversation": ELSEWHERE,
        "one with tools": ChatPrompt((Message.of("system", "code!"), more), tools=(tool,)),
        "its own, continued": [system, *agent.messages, more],
        "its own, as text": TextPrompt(agent.transcript.text + ELSEWHERE),
        "text": TextPrompt(ELSEWHERE),
    }


@pytest.mark.parametrize("sent", prompts_of_clients(Agent("d", created_at=0, last_used_at=0)))  # type: ignore[arg-type]
async def test_what_a_client_asks_under_its_name_leaves_it_as_it_was(sent: str) -> None:
    async with ServiceRig() as rig:
        before = await kept(rig)
        said = await rig.say(prompts_of_clients(before)[sent], agent="d")
        after = await rig.agents.agent("d")
        assert (after.messages, after.turns) == (before.messages, before.turns)
        assert (after.transcript, after.block_table) == (before.transcript, before.block_table)
        if sent.startswith("its own"):
            assert said.usage.cache.cached_tokens >= before.transcript.num_tokens - 1, "its blocks are shared"
        [below] = [row.id for row in await rig.agents.list() if row.id.startswith("d.side-")]
        assert ELSEWHERE in (await rig.agents.agent(below)).transcript.text
        # The client's conversation has turns of its own.
        await rig.agents.rewind(below)


async def test_a_tool_that_must_be_called_is_one_of_the_agent() -> None:
    must_call = ChatPrompt((Message.of("user", "look"),), tool_choice=ToolChoice("required"))
    async with ServiceRig() as rig:
        await rig.agents.create("bare", AgentConfig())
        with pytest.raises(InvalidRequestError, match="needs tools to choose from") as refused:
            await rig.say(must_call, agent="bare", conversation=True)
        assert refused.value.param == "tool_choice"
        assert not await rig.agents.messages("bare")
        # It takes its next turn all the same.
        await rig.say("hello", agent="bare", conversation=True)


async def test_after_that_it_is_rewound_forked_and_continued_as_if_nothing_had_been() -> None:
    async with ServiceRig() as rig:
        before = await kept(rig)
        await kept(rig, "alone")
        await rig.say(ELSEWHERE, agent="d")
        await rig.say("and more of it", agent="d")
        await rig.agents.fork("d", "fork")
        for name in ("d", "fork", "alone"):
            await rig.agents.rewind(name)
            agent = await rig.agents.agent(name)
            assert agent.messages == before.messages[:2]
            assert ELSEWHERE not in agent.transcript.text
            assert QUESTIONS[0] in agent.transcript.text
            assert QUESTIONS[1] not in agent.transcript.text
        answers = [
            (await rig.say("go on", agent=name, conversation=True)).choices[0].text for name in ("d", "alone")
        ]
        assert answers[0] == answers[1]


async def test_an_agent_that_was_made_and_first_used_by_a_client_is_the_clients() -> None:
    async with ServiceRig() as rig:
        await rig.agents.create("c", AgentConfig())
        await rig.say(ELSEWHERE, agent="c")
        agent = await rig.agents.agent("c")
        assert agent.num_turns == 1
        assert agent.transcript.text.startswith(
            CharTokenizer().render(ChatPrompt((Message.of("user", ELSEWHERE),)))
        )
        await rig.say("go on", agent="c", conversation=True)
        assert (await rig.agents.agent("c")).num_turns == 2
